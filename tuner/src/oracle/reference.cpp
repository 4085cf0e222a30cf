#include "oracle/reference.hpp"

#include <cmath>
#include <cstring>
#include <numeric>

#include "oracle/float_formats.hpp"
#include "oracle/random.hpp"

namespace arbiter::tuning {
namespace {

bool is_prime(std::int64_t value) noexcept {
  if (value < 2) return false;
  for (std::int64_t divisor = 2; divisor * divisor <= value; ++divisor) {
    if (value % divisor == 0) return false;
  }
  return true;
}

std::uint64_t mix(std::uint64_t seed, std::uint64_t salt) noexcept { return Random(seed ^ (salt << 32)).next(); }

float integer(Random& random) noexcept { return static_cast<float>(static_cast<int>(random.below(17)) - 8); }
float uniform(Random& random) noexcept { return static_cast<float>(random.unit() * 2 - 1); }

float smallest_subnormal(Dtype dtype) noexcept {
  if (dtype == Dtype::fp16) return 0x1p-24F;
  return dtype == Dtype::bf16 ? 0x1p-133F : 0x1p-149F;
}

float largest_finite(Dtype dtype) noexcept {
  if (dtype == Dtype::fp16) return 65504.0F;
  return dtype == Dtype::bf16 ? formats::from_bf16(0x7f7f) : formats::float_of(0x7f7fffff);
}

void store_word(unsigned char* at, std::uint32_t word) noexcept { std::memcpy(at, &word, sizeof(word)); }

/// One 32-bit word that a careless kernel mistakes for its sentinel, flushes, or rounds wrongly.
void write_awkward_word(unsigned char* at, Dtype dtype, int rank, Random& random, bool special) {
  const std::size_t elements = 4 / element_bytes(dtype);
  switch (random.below(special ? 8 : 5)) {
    case 0:
      return store_word(at, sentinel);
    case 1:
      return store_word(at, 0x80008000U);  // two negative zeros; a subnormal in fp32
    case 2:
      return store_word(at, 0x00008000U);
    case 3:
      return store_word(at, 0);
    case 4:
      for (std::size_t i = 0; i < elements; ++i) {
        const float sign = random.below(2) == 0 ? 1.0F : -1.0F;
        formats::write(at, i, dtype, sign * smallest_subnormal(dtype) * static_cast<float>(random.below(64)));
      }
      return;
    case 5:
      // One rank alone, so that the sum stays finite.
      for (std::size_t i = 0; i < elements; ++i) formats::write(at, i, dtype, rank == 1 ? largest_finite(dtype) : 0.0F);
      return;
    case 6: {
      const bool negative = random.below(2) == 0;
      for (std::size_t i = 0; i < elements; ++i) formats::write(at, i, dtype, negative ? -HUGE_VALF : HUGE_VALF);
      return;
    }
    default: {
      // All bits set is what a kernel may use as a poison; other payloads must be NaN in the sum as well.
      const std::uint32_t payload = random.below(2) == 0 ? 0xffffffffU : static_cast<std::uint32_t>(random.next());
      store_word(at, dtype == Dtype::fp32   ? payload | 0x7fc00000U
                     : dtype == Dtype::bf16 ? payload | 0x7fc07fc0U
                                            : payload | 0x7e007e00U);
      return;
    }
  }
}

float cancelling(Dtype dtype, int rank, Random& random) noexcept {
  const float large = dtype == Dtype::fp16 ? 0x1p11F : 0x1p24F;
  const float scale = static_cast<float>(1 + static_cast<int>(random.below(3)));
  switch (rank % 4) {
    case 0:
      return large;
    case 1:
      return scale;
    case 2:
      return -large;
    default:
      return 1.0F;
  }
}

/// Rows that upset scales, in turn: zeros everywhere; one huge value among small ones; nothing but tiny values; and an
/// ordinary one.
float extreme(Dtype dtype, std::size_t row, std::size_t column, int hidden, int rank, Random& random) noexcept {
  const float value = uniform(random);
  switch (row % 4) {
    case 0:
      return 0.0F;
    case 1:
      // One rank alone, so that fp16 does not overflow; elsewhere in each row.
      if (column != row * 37 % static_cast<std::size_t>(hidden)) return value * 0x1p-6F;
      return rank != 1 ? 0.0F : dtype == Dtype::fp16 ? 30000.0F : 0x1p50F;
    case 2:
      return value * (dtype == Dtype::fp16 ? 0x1p-16F : 0x1p-118F);
    default:
      return value;
  }
}

float load_sanitised(const unsigned char* data, std::size_t index, Dtype dtype) noexcept {
  std::uint32_t word = 0;
  const std::size_t per_word = 4 / element_bytes(dtype);
  std::memcpy(&word, data + (index / per_word) * 4, sizeof(word));
  return word == sentinel ? 0.0F : formats::read(data, index, dtype);
}

}  // namespace

std::int64_t tile_rows(int hidden, Dtype dtype, std::int64_t max_tokens) noexcept {
  const auto row_bytes = static_cast<std::int64_t>(static_cast<std::size_t>(hidden) * element_bytes(dtype));
  std::int64_t rows = (512 << 10) / row_bytes;
  if (max_tokens < rows) {
    rows = max_tokens;
    while (!is_prime(rows)) ++rows;
  }
  while (rows > 2 && !is_prime(rows)) --rows;
  return rows < 2 ? 2 : rows;
}

Bytes make_tile(Content content, Dtype dtype, std::int64_t rows, int hidden, int rank, std::uint64_t seed) {
  const std::size_t elements = static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden);
  const std::size_t per_vector = vector_elements(dtype);
  Bytes tile(elements * element_bytes(dtype));
  Random random(mix(seed, static_cast<std::uint64_t>(rank) + 1));
  Random shared(seed);  // the same on all ranks: which vectors are awkward, and values that must line up
  for (std::size_t vector = 0; vector * per_vector < elements; ++vector) {
    unsigned char* at = tile.data() + vector * vector_bytes;
    const std::size_t row = vector * per_vector / static_cast<std::size_t>(hidden);
    Content kind = content;
    if (content == Content::mixed || content == Content::special) {
      kind = vector % 2 == 0 ? Content::integers : Content::random;
      if (shared.below(8) == 0) {
        // The same words on most ranks, so that sums of sentinels and of subnormals occur, not only single ones.
        Random words(shared.below(4) == 0 ? random.next() : mix(seed, vector + 1000));
        for (std::size_t word = 0; word < 4; ++word) {
          write_awkward_word(at + 4 * word, dtype, rank, words, content == Content::special && row % 3 == 0);
        }
        continue;
      }
    }
    for (std::size_t i = 0; i < per_vector; ++i) {
      const std::size_t column = (vector * per_vector + i) % static_cast<std::size_t>(hidden);
      const float value = kind == Content::integers       ? integer(random)
                          : kind == Content::cancellation ? cancelling(dtype, rank, random)
                          : kind == Content::extremes     ? extreme(dtype, row, column, hidden, rank, random)
                                                          : uniform(random);
      formats::write(at, i, dtype, value);
    }
  }
  return tile;
}

Bytes make_gamma(Dtype dtype, int hidden, std::uint64_t seed) {
  Bytes gamma(static_cast<std::size_t>(hidden) * element_bytes(dtype));
  Random random(mix(seed, 77));
  for (std::size_t i = 0; i < static_cast<std::size_t>(hidden); ++i) {
    formats::write(gamma.data(), i, dtype, static_cast<float>(0.5 + random.unit()));
  }
  return gamma;
}

Bytes sum_in_rank_order(std::span<const Bytes> tiles, Dtype dtype) {
  Bytes sum(tiles.front().size());
  const std::size_t elements = sum.size() / element_bytes(dtype);
  for (std::size_t i = 0; i < elements; ++i) {
    float total = 0.0F;
    for (const Bytes& tile : tiles) total += load_sanitised(tile.data(), i, dtype);
    formats::write(sum.data(), i, dtype, total);
  }
  for (std::size_t at = 0; at < sum.size(); at += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, sum.data() + at, sizeof(word));
    if (word == sentinel) store_word(sum.data() + at, 0);
  }
  return sum;
}

std::vector<double> sum_in_double(std::span<const Bytes> tiles, Dtype dtype) {
  std::vector<double> sum(tiles.front().size() / element_bytes(dtype), 0.0);
  for (const Bytes& tile : tiles) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(formats::read(tile.data(), i, dtype));
  }
  return sum;
}

std::vector<double> in_double(const Bytes& data, Dtype dtype) {
  std::vector<double> values(data.size() / element_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(formats::read(data.data(), i, dtype));
  return values;
}

Bytes plus_residual(const Bytes& sum, const Bytes& residual, Dtype dtype) {
  Bytes result(sum.size());
  for (std::size_t i = 0; i < sum.size() / element_bytes(dtype); ++i) {
    formats::write(result.data(), i, dtype,
                   formats::read(sum.data(), i, dtype) + formats::read(residual.data(), i, dtype));
  }
  return result;
}

std::vector<double> normalised(Composition::Norm norm, std::span<const double> rows, int hidden,
                               const NormWeights& weights) {
  const std::size_t width = static_cast<std::size_t>(hidden);
  std::vector<double> result(rows.begin(), rows.end());
  for (std::size_t begin = 0; begin < result.size(); begin += width) {
    const std::span<double> row(result.data() + begin, width);
    if (norm == Composition::Norm::layernorm) {
      const double mean = std::accumulate(row.begin(), row.end(), 0.0) / hidden;
      for (double& x : row) x -= mean;
    }
    const double squares = std::inner_product(row.begin(), row.end(), row.begin(), 0.0);
    const double scale = 1 / std::sqrt(squares / hidden + weights.epsilon);
    for (std::size_t i = 0; i < width; ++i) {
      row[i] *= scale * (static_cast<double>(formats::read(weights.gamma.data(), i, weights.gamma_dtype)) +
                         weights.weight_bias);
    }
  }
  return result;
}

double tolerance(Dtype dtype, int steps) noexcept {
  const double unit = dtype == Dtype::bf16 ? 0x1p-8 : dtype == Dtype::fp16 ? 0x1p-11 : 0x1p-22;
  return unit * (steps < 1 ? 1 : steps);
}

}  // namespace arbiter::tuning
