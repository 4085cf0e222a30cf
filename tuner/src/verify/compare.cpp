#include "verify/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "oracle/float_formats.hpp"

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

std::string place_text(std::size_t element, std::size_t width, const char* unit = "element") {
  return fmt::format("token {}, {} {}", element / width, unit, element % width);
}

std::string hexadecimal(std::uint32_t value, std::size_t bytes) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%0*x", static_cast<int>(2 * bytes), value);
  return text;
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

}  // namespace

void ExactComparison::visit(std::size_t offset, std::span<const unsigned char> found) {
  elements_ += found.size() / bytes_of_element();
  while (!found.empty()) {
    const std::size_t at = offset % expected_.size();
    const std::size_t size = std::min(found.size(), expected_.size() - at);
    if (std::memcmp(found.data(), expected_.data() + at, size) != 0) compare_elements(offset, found.first(size));
    found = found.subspan(size);
    offset += size;
  }
}

void ExactComparison::compare_elements(std::size_t offset, std::span<const unsigned char> found) {
  const unsigned char* const expected = expected_.data() + offset % expected_.size();
  const std::size_t bytes = bytes_of_element();
  const auto text = [&](const unsigned char* data, std::size_t index) {
    return dtype_ ? value_text(data, index, *dtype_) : hexadecimal(data[index], 1);
  };
  for (std::size_t i = 0; i < found.size() / bytes; ++i) {
    if (std::memcmp(found.data() + i * bytes, expected + i * bytes, bytes) == 0) continue;
    if (dtype_ && std::isnan(formats::read(found.data(), i, *dtype_)) &&
        std::isnan(formats::read(expected, i, *dtype_))) {
      continue;
    }
    if (different_++ == 0) {
      first_ = place_text(offset / bytes + i, width_, dtype_ ? "element" : "byte") + " is " + text(found.data(), i) +
               ", expected " + text(expected, i);
    }
  }
}

std::string ExactComparison::verdict() const {
  if (different_ == 0) return {};
  return fmt::format("{}; {} of {} elements differ", first_, different_, elements_);
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
      first_ = place_text(first + i, static_cast<std::size_t>(hidden_)) + " is " + value_text(found.data(), i, dtype_) +
               ", expected " + number_text(expected) + " within rounding";
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

std::string compare_scales(const Bytes& found, const Bytes& expected, const Quantisation& how, int hidden,
                           std::int64_t tokens) {
  if (found == expected) return {};
  const std::size_t bytes = how.scale_bytes();
  const auto scale_at = [&](const Bytes& array, std::size_t offset) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, array.data() + offset, bytes);
    return bits;
  };
  const bool fp32 = bytes == sizeof(float);
  const auto same = [&](std::uint32_t a, std::uint32_t b) {
    return a == b || (fp32 && std::isnan(formats::float_of(a)) && std::isnan(formats::float_of(b)));
  };
  // What is no scale is a pad.
  std::vector<bool> is_scale(found.size(), false);
  for (std::int64_t row = 0; row < tokens; ++row) {
    for (int group = 0; group < hidden / how.group; ++group) {
      const std::size_t offset = scale_offset(how, hidden, tokens, row, group);
      is_scale[offset] = true;
      const std::uint32_t is = scale_at(found, offset), should_be = scale_at(expected, offset);
      if (same(is, should_be)) continue;
      return fmt::format(
          "the scale of token {}, group {} is {}, expected {} (at byte {})", row, group,
          (fp32 ? value_text(found.data(), offset / bytes, Dtype::fp32) : hexadecimal(is, bytes)),
          (fp32 ? value_text(expected.data(), offset / bytes, Dtype::fp32) : hexadecimal(should_be, bytes)), offset);
    }
  }
  for (std::size_t at = 0; at < found.size(); at += bytes) {
    if (!is_scale[at] && found[at] != 0) {
      return fmt::format("the pad at byte {} is {}, expected 0", at, hexadecimal(found[at], 1));
    }
  }
  return {};
}

}  // namespace arbiter::tuning
