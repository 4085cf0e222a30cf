// Comparing what a kernel wrote with what it must be.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "reference.hpp"

namespace arbiter::tuning {

/// Bit for bit; NaNs of any payload are equal. Feed pieces of the message in any order.
class ExactComparison {
 public:
  /// `expected` is a tile that the message repeats.
  ExactComparison(const Bytes& expected, Dtype dtype, int hidden)
      : expected_(expected), dtype_(dtype), hidden_(hidden) {}
  void visit(std::size_t offset, std::span<const unsigned char> found);
  /// Empty, or "token 3, element 17 is 1.5 (0x3fc0), expected 2 (0x4000); 12 of 65536 elements differ".
  std::string verdict() const;

 private:
  void compare_elements(std::size_t offset, std::span<const unsigned char> found);
  const Bytes& expected_;
  Dtype dtype_;
  int hidden_;
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

}  // namespace arbiter::tuning
