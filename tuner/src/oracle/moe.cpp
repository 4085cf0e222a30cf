#include "oracle/moe.hpp"

#include <cstring>

#include "oracle/float_formats.hpp"
#include "oracle/random.hpp"

namespace arbiter::tuning {
namespace {

constexpr std::uint64_t part_salt = 0x3c6ef372fe94f82bULL;

void choose_weights(MoeTiles& tiles, Content content, std::size_t parts, Dtype weight_dtype, Random& random) {
  for (std::size_t i = 0; i < tiles.weights.size(); i += parts) {
    const std::size_t only = random.below(parts);
    for (std::size_t part = 0; part < parts; ++part) {
      const float weight =
          content == Content::integers ? (part == only ? 1.0F : 0.0F) : static_cast<float>(random.unit() * 2 - 1);
      unsigned char rounded[4];
      formats::write(rounded, 0, weight_dtype, weight);
      tiles.weights[i + part] = formats::read(rounded, 0, weight_dtype);
    }
  }
}

void choose_blocks(MoeTiles& tiles, std::size_t parts, Random& random) {
  tiles.blocks.resize(tiles.weights.size());
  for (std::size_t i = 0; i < tiles.blocks.size(); ++i) {
    const std::size_t row = i / parts, choice = i % parts;
    // Every row of every block is chosen at most once, as in a permutation.
    const auto block = static_cast<std::int32_t>((choice + row) % parts);
    tiles.blocks[i] = row == 0 || random.below(4) == 0 ? -1 : block;
  }
}

}  // namespace

MoeTiles make_moe_tiles(Content content, Dtype dtype, std::int64_t rows, int hidden, int rank, std::uint64_t seed,
                        bool finalize, const MoeShape& shape) {
  const auto parts = static_cast<std::size_t>(finalize ? shape.top_k : shape.experts);
  MoeTiles tiles;
  for (std::size_t part = 0; part < parts; ++part) {
    tiles.parts.push_back(make_tile(content, dtype, rows, hidden, rank, seed ^ (part_salt * (part + 1))));
  }
  Random random(Random(seed ^ part_salt).next() + static_cast<std::uint64_t>(rank));
  tiles.weights.resize(static_cast<std::size_t>(rows) * parts);
  choose_weights(tiles, content, parts, shape.weights_fp32 ? Dtype::fp32 : dtype, random);
  if (finalize) choose_blocks(tiles, parts, random);
  if (shape.shared) {
    tiles.shared = content == Content::integers
                       ? Bytes(static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden) * element_bytes(dtype))
                       : make_tile(content, dtype, rows, hidden, rank, ~seed);
  }
  return tiles;
}

Bytes contribution(const MoeTiles& tiles, Dtype dtype, std::int64_t rows, int hidden) {
  const std::size_t width = static_cast<std::size_t>(hidden), parts = tiles.parts.size();
  Bytes result(static_cast<std::size_t>(rows) * width * element_bytes(dtype));
  for (std::size_t element = 0; element < static_cast<std::size_t>(rows) * width; ++element) {
    const std::size_t first = element / width * parts;
    float total = 0.0F;
    for (std::size_t part = 0; part < parts; ++part) {
      std::size_t source = part;
      if (!tiles.blocks.empty()) {
        if (tiles.blocks[first + part] < 0) continue;
        source = static_cast<std::size_t>(tiles.blocks[first + part]);
      }
      const float product = tiles.weights[first + part] * formats::read(tiles.parts[source].data(), element, dtype);
      total = total + product;
    }
    if (!tiles.shared.empty()) total = total + formats::read(tiles.shared.data(), element, dtype);
    formats::write(result.data(), element, dtype, total);
  }
  return result;
}

Bytes moe_weight_array(const MoeTiles& tiles, std::int64_t rows, std::int64_t tokens, Dtype weight_dtype) {
  const auto count = static_cast<std::size_t>(tokens), period = static_cast<std::size_t>(rows);
  const std::size_t parts = tiles.parts.size();
  Bytes array(count * parts * element_bytes(weight_dtype));
  for (std::size_t row = 0; row < count; ++row) {
    for (std::size_t part = 0; part < parts; ++part) {
      // reduce: [experts, tokens]; finalize: [tokens, top_k].
      const std::size_t index = tiles.blocks.empty() ? part * count + row : row * parts + part;
      formats::write(array.data(), index, weight_dtype, tiles.weights[row % period * parts + part]);
    }
  }
  return array;
}

Bytes moe_row_map(const MoeTiles& tiles, std::int64_t rows, std::int64_t tokens) {
  const std::size_t parts = tiles.parts.size(), period = static_cast<std::size_t>(rows);
  Bytes array(static_cast<std::size_t>(tokens) * parts * sizeof(std::int32_t));
  for (std::int64_t row = 0; row < tokens; ++row) {
    for (std::size_t choice = 0; choice < parts; ++choice) {
      const std::int32_t block = tiles.blocks[static_cast<std::size_t>(row) % period * parts + choice];
      const auto index = static_cast<std::int32_t>(block < 0 ? -1 : block * tokens + row);
      std::memcpy(array.data() + (static_cast<std::size_t>(row) * parts + choice) * sizeof(index), &index,
                  sizeof(index));
    }
  }
  return array;
}

}  // namespace arbiter::tuning
