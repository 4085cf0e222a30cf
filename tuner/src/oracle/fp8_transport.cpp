#include "oracle/fp8_transport.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "oracle/float_formats.hpp"
#include "oracle/quantised_formats.hpp"

namespace arbiter::tuning {
namespace {

/// Of one group of the message: elements first to first + count.
void sum_group(std::span<const Bytes> tiles, Dtype dtype, std::size_t first, std::size_t count, int legs, Bytes& sum) {
  const std::size_t period = tiles.front().size() / element_bytes(dtype);
  std::array<float, fp8_group> total{}, part{};
  for (const Bytes& tile : tiles) {
    for (std::size_t i = 0; i < count; ++i) part[i] = formats::read(tile.data(), (first + i) % period, dtype);
    over_the_link({part.data(), count});
    for (std::size_t i = 0; i < count; ++i) total[i] += part[i];
  }
  for (std::size_t i = 0; i < count; ++i) formats::write(sum.data(), first + i, dtype, total[i]);
  if (legs < 2) return;
  for (std::size_t i = 0; i < count; ++i) part[i] = formats::read(sum.data(), first + i, dtype);
  over_the_link({part.data(), count});
  for (std::size_t i = 0; i < count; ++i) formats::write(sum.data(), first + i, dtype, 0.0F + part[i]);
}

}  // namespace

void over_the_link(std::span<float> group) {
  float largest = 0;
  bool finite = true;
  for (const float x : group) {
    finite = finite && std::isfinite(x);
    largest = std::max(largest, std::fabs(x));
  }
  if (!finite) {
    std::fill(group.begin(), group.end(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  int exponent = -126;
  while (std::ldexp(448.0, exponent) < static_cast<double>(largest)) ++exponent;
  // Both scalings are exact in double; what the value stands for may be too large for fp32.
  for (float& x : group) {
    const std::uint8_t code = formats::to_e4m3(static_cast<float>(std::ldexp(static_cast<double>(x), -exponent)));
    x = static_cast<float>(std::ldexp(static_cast<double>(formats::from_e4m3(code)), exponent));
  }
}

Bytes fp8_sum(std::span<const Bytes> tiles, Dtype dtype, std::size_t elements, int legs) {
  const std::size_t tile = tiles.front().size() / element_bytes(dtype);
  if (tile % fp8_group == 0 && elements % fp8_group == 0) elements = std::min(elements, tile);
  Bytes sum(elements * element_bytes(dtype));
  const std::size_t period = std::lcm(tile, fp8_group);
  for (std::size_t first = 0; first < elements; first += fp8_group) {
    const std::size_t count = std::min(fp8_group, elements - first);
    if (first >= period && count == fp8_group) {  // the same group has been there
      std::memcpy(sum.data() + first * element_bytes(dtype), sum.data() + (first - period) * element_bytes(dtype),
                  count * element_bytes(dtype));
      continue;
    }
    sum_group(tiles, dtype, first, count, legs, sum);
  }
  for (std::size_t at = 0; at < sum.size(); at += sizeof(sentinel)) {
    std::uint32_t word = 0;
    std::memcpy(&word, sum.data() + at, sizeof(word));
    if (word == sentinel) std::memset(sum.data() + at, 0, sizeof(word));
  }
  return sum;
}

double relative_error(const Bytes& found, std::span<const Bytes> tiles, Dtype dtype) {
  const std::vector<double> exact = sum_in_double(tiles, dtype);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < found.size() / element_bytes(dtype); ++i) {
    const double expected = exact[i % exact.size()];
    const double difference = static_cast<double>(formats::read(found.data(), i, dtype)) - expected;
    error += difference * difference;
    norm += expected * expected;
  }
  return norm > 0 ? std::sqrt(error / norm) : 0;
}

double fp8_tolerance(int legs) noexcept { return legs * std::exp2(-4.5); }

}  // namespace arbiter::tuning
