// Comparing what a kernel wrote with what it must be.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "oracle/reference.hpp"

namespace arbiter::tuning {

/// Bit for bit; NaNs of any payload are equal. Feed pieces of the message in any order.
class ExactComparison {
 public:
  /// `expected` is a tile that the message repeats: rows of `width` elements, or of `width` bytes without a dtype.
  ExactComparison(const Bytes& expected, std::optional<Dtype> dtype, std::size_t width)
      : expected_(expected), dtype_(dtype), width_(width) {}
  void visit(std::size_t offset, std::span<const unsigned char> found);
  /// Empty, or "token 3, element 17 is 1.5 (0x3fc0), expected 2 (0x4000); 12 of 65536 elements differ".
  std::string verdict() const;

 private:
  void compare_elements(std::size_t offset, std::span<const unsigned char> found);
  std::size_t bytes_of_element() const noexcept { return dtype_ ? element_bytes(*dtype_) : 1; }
  const Bytes& expected_;
  std::optional<Dtype> dtype_;
  std::size_t width_;
  std::size_t elements_ = 0;
  std::size_t different_ = 0;
  std::string first_;
};

/// Relative L2 error of all elements seen, and a bound on each, so that one corrupt element among millions is found.
class TolerantComparison {
 public:
  TolerantComparison(const std::vector<double>& expected, Dtype dtype, int hidden, double allowed);
  void visit(std::size_t offset, std::span<const unsigned char> found);
  std::string verdict() const;

 private:
  const std::vector<double>& expected_;
  Dtype dtype_;
  int hidden_;
  double allowed_;
  double scale_ = 0;  ///< root mean square of what is expected
  double error_ = 0;
  double norm_ = 0;
  std::string first_;
};

/// Empty, or which scale (or pad, which must be 0) of scale_out is not what it must be: "the scale of token 3, group 2
/// is 0x81, expected 0x80 (byte 14)". Both arrays are whole.
std::string compare_scales(const Bytes& found, const Bytes& expected, const Quantisation&, int hidden,
                           std::int64_t tokens);

}  // namespace arbiter::tuning
