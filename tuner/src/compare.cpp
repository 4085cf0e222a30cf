#include "compare.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "float_formats.hpp"

namespace arbiter::tuning {
namespace {

std::uint32_t element_bits(const unsigned char* data, std::size_t index, Dtype dtype) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, data + index * element_bytes(dtype), element_bytes(dtype));
  return bits;
}

std::string value_text(const unsigned char* data, std::size_t index, Dtype dtype) {
  const double value = static_cast<double>(formats::read(data, index, dtype));
  char number[32] = "NaN";
  if (!std::isnan(value)) std::snprintf(number, sizeof(number), "%.9g", value);
  char text[64];
  std::snprintf(text, sizeof(text), "%s (0x%0*x)", number, static_cast<int>(2 * element_bytes(dtype)),
                element_bits(data, index, dtype));
  return text;
}

std::string place_text(std::size_t element, int hidden) {
  const std::size_t width = static_cast<std::size_t>(hidden);
  return "token " + std::to_string(element / width) + ", element " + std::to_string(element % width);
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

}  // namespace

void ExactComparison::visit(std::size_t offset, std::span<const unsigned char> found) {
  elements_ += found.size() / element_bytes(dtype_);
  while (!found.empty()) {
    const std::size_t at = offset % expected_.size();
    const std::size_t size = std::min(found.size(), expected_.size() - at);
    if (std::memcmp(found.data(), expected_.data() + at, size) != 0) compare_elements(offset, found.first(size));
    found = found.subspan(size);
    offset += size;
  }
}

void ExactComparison::compare_elements(std::size_t offset, std::span<const unsigned char> found) {
  const unsigned char* expected = expected_.data() + offset % expected_.size();
  const std::size_t bytes = element_bytes(dtype_);
  for (std::size_t i = 0; i < found.size() / bytes; ++i) {
    if (element_bits(found.data(), i, dtype_) == element_bits(expected, i, dtype_)) continue;
    if (std::isnan(formats::read(found.data(), i, dtype_)) && std::isnan(formats::read(expected, i, dtype_))) continue;
    if (different_++ == 0) {
      first_ = place_text(offset / bytes + i, hidden_) + " is " + value_text(found.data(), i, dtype_) + ", expected " +
               value_text(expected, i, dtype_);
    }
  }
}

std::string ExactComparison::verdict() const {
  if (different_ == 0) return {};
  return first_ + "; " + std::to_string(different_) + " of " + std::to_string(elements_) + " elements differ";
}

TolerantComparison::TolerantComparison(const std::vector<double>& expected, Dtype dtype, int hidden, double allowed)
    : expected_(expected), dtype_(dtype), hidden_(hidden), allowed_(allowed) {
  for (const double value : expected_) scale_ += value * value;
  scale_ = std::sqrt(scale_ / static_cast<double>(expected_.size()));
}

void TolerantComparison::visit(std::size_t offset, std::span<const unsigned char> found) {
  const std::size_t bytes = element_bytes(dtype_);
  const std::size_t first = offset / bytes;
  for (std::size_t i = 0; i < found.size() / bytes; ++i) {
    const double expected = expected_[(first + i) % expected_.size()];
    const double value = static_cast<double>(formats::read(found.data(), i, dtype_));
    const double error = value - expected;
    // Rounding errors of the partial sums are relative to their size, which the root mean square stands for.
    const bool near = std::fabs(error) <= allowed_ * (8 * scale_ + 2 * std::fabs(expected));  // false for NaN
    if (!near && first_.empty()) {
      first_ = place_text(first + i, hidden_) + " is " + value_text(found.data(), i, dtype_) + ", expected " +
               number_text(expected) + " within rounding";
    }
    error_ += error * error;
    norm_ += expected * expected;
  }
}

std::string TolerantComparison::verdict() const {
  if (!first_.empty()) return first_;
  const double relative = norm_ > 0 ? std::sqrt(error_ / norm_) : std::sqrt(error_);
  if (relative <= allowed_) return {};
  return "relative L2 error " + number_text(relative) + ", at most " + number_text(allowed_) + " is allowed";
}

}  // namespace arbiter::tuning
