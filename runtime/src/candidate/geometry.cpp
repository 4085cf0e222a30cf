#include "candidate/geometry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/generator/bindings.hpp"
#include "candidate/abi.hpp"

namespace arbiter {
namespace {

std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) { return value / by + (value % by != 0 ? 1 : 0); }

unsigned positive_axis(const Bindings& bindings, const Variant& variant, const char* axis) {
  const auto found = bindings.find(axis);
  if (found == bindings.end()) return 1;  // an algorithm without this axis
  if (found->second < 1 || found->second > std::numeric_limits<int>::max()) {
    throw InvalidArgument(
        fmt::format("'{}': {} is {}; expected a positive number", variant.name(), axis, found->second));
  }
  return static_cast<unsigned>(found->second);
}

std::uint64_t evaluate_size(const std::string& expression, const Bindings& bindings, const Variant& variant,
                            const char* what) {
  const long value = expression.empty() ? 0 : evaluate(expression, bindings);
  if (value < 0) {
    throw CompileError(
        fmt::format("catalogue: {} = \"{}\" is negative ({}) for '{}'", what, expression, value, variant.full_name()));
  }
  return static_cast<std::uint64_t>(value);
}

std::uint64_t product(std::initializer_list<std::uint64_t> factors) {
  std::uint64_t result = 1;
  for (const std::uint64_t factor : factors) {
    if (__builtin_mul_overflow(result, factor, &result)) {
      throw InvalidArgument("a workspace of more than 2^64 bytes is needed; prepare fewer tokens");
    }
  }
  return result;
}

unsigned largest_cluster_count(const KernelShape& shape, std::uint64_t tiles, int block_limit) {
  const auto limit = static_cast<std::uint64_t>(std::clamp(block_limit, 0, static_cast<int>(arbiter_abi::max_blocks)));
  if (limit < shape.cluster) {
    throw InvalidArgument(
        fmt::format("a grid limit of {} blocks holds no cluster of {} blocks", block_limit, shape.cluster));
  }
  return static_cast<unsigned>(std::min(tiles, limit / shape.cluster));
}

/// Clusters that write the padding of `rows` rows' scales with one vector a thread.
std::uint64_t padding_clusters(const KernelShape& shape, std::uint64_t rows) {
  const std::uint64_t padding = divide_up(rows, shape.scale_tile_rows) * shape.scale_tile_rows - rows;
  return divide_up(padding * shape.scale_row_bytes, vector_bytes * shape.threads * shape.cluster);
}

struct Tiling {
  std::uint64_t rows = 0;
  std::uint64_t tiles = 0;
};

Tiling tiling(const KernelShape& shape, std::uint64_t vectors) {
  if (vectors == 0) throw InvalidArgument("an empty message has no grid");
  Tiling result;
  result.rows = divide_up(vectors, shape.rows_pattern ? shape.row_vectors : shape.padded_vectors);
  result.tiles = divide_up(result.rows, shape.tile_rows);
  // Kernels number vectors in 32 bits, those of the last tile that do not exist included.
  const std::uint64_t width = shape.rows_pattern ? shape.row_vectors : shape.padded_vectors;
  constexpr std::uint64_t most = std::uint64_t{1} << 32;
  if (vectors >= most || result.tiles >= most / shape.tile_rows / width) {
    throw InvalidArgument(fmt::format("a message of {} vectors of 16 bytes; kernels take less than 64 GiB", vectors));
  }
  return result;
}

}  // namespace

KernelShape kernel_shape(const Catalogue& catalogue, const Variant& variant, const TargetLimits& limits) {
  const AlgorithmEntry& algorithm = catalogue.algorithm(variant.backend, variant.algorithm);
  const Pattern pattern = catalogue.pattern(variant.pattern);
  const Bindings bindings = bindings_of(variant, pattern, limits);
  KernelShape shape;
  shape.rows_pattern = pattern.rows;
  shape.threads = positive_axis(bindings, variant, "threads");
  shape.vectors = positive_axis(bindings, variant, "vectors");
  shape.cluster = positive_axis(bindings, variant, "cluster");
  shape.padded_vectors = product({shape.threads, shape.vectors, shape.cluster});
  shape.row_vectors = shape.padded_vectors;
  if (shape.rows_pattern) {
    const std::uint64_t row_bytes = static_cast<std::uint64_t>(variant.hidden) * element_bytes(variant.dtype);
    if (variant.hidden <= 0 || row_bytes % vector_bytes != 0) {
      throw InvalidArgument("'" + variant.full_name() + "': a row must be a positive multiple of 16 bytes");
    }
    shape.row_vectors = row_bytes / vector_bytes;
    if (shape.row_vectors > shape.padded_vectors) {
      throw InvalidArgument(fmt::format("'{}': threads * vectors * cluster = {} vectors do not hold a row of {}",
                                        variant.full_name(), shape.padded_vectors, shape.row_vectors));
    }
  }
  shape.tile_rows = evaluate_size(algorithm.tile_rows, bindings, variant, "tile_rows");
  if (shape.tile_rows == 0) {
    throw CompileError("catalogue: tile_rows = \"" + algorithm.tile_rows + "\" is 0 for '" + variant.full_name() + "'");
  }
  shape.push_slots = evaluate_size(algorithm.push_slots, bindings, variant, "push_slots");
  shape.staging_copies = evaluate_size(algorithm.staging_copies, bindings, variant, "staging_copies");
  if (!algorithm.exchange) {
    shape.scale_tile_rows = static_cast<std::uint64_t>(pattern.scale_tile_rows());
    shape.scale_row_bytes = pattern.scale_out_bytes(variant.hidden, pattern.scale_tile_rows()) / shape.scale_tile_rows;
  }
  std::uint64_t shared_bytes = evaluate_size(algorithm.shared_bytes, bindings, variant, "shared_bytes");
  for (const PartEntry& part : pattern.parts) {
    if (part.shared_bytes.empty()) continue;
    shared_bytes += product({shape.tile_rows, evaluate_size(part.shared_bytes, bindings, variant, "shared_bytes")});
  }
  if (shared_bytes > std::numeric_limits<unsigned>::max()) {
    throw InvalidArgument(
        fmt::format("'{}' needs {} bytes of shared memory per block", variant.full_name(), shared_bytes));
  }
  shape.shared_bytes = static_cast<unsigned>(shared_bytes);
  return shape;
}

Geometry geometry(const KernelShape& shape, std::uint64_t vectors, int block_limit) {
  const auto [rows, tiles] = tiling(shape, vectors);
  Geometry result;
  const std::uint64_t limit = largest_cluster_count(shape, tiles, block_limit);
  const std::uint64_t iterations = divide_up(tiles, limit);
  // No more clusters than that many iterations need: the last round is as full as the others.
  const std::uint64_t busy = divide_up(tiles, iterations);
  const std::uint64_t room = static_cast<std::uint64_t>(block_limit) / shape.cluster - busy;
  const std::uint64_t clusters = busy + std::min(padding_clusters(shape, rows), room);
  result.blocks = static_cast<unsigned>(clusters * shape.cluster);
  result.iterations = static_cast<unsigned>(iterations);
  result.rows = static_cast<unsigned>(rows);
  result.vectors = vectors;
  const std::uint64_t iteration_bytes =
      product({vector_bytes, result.blocks, shape.threads, shape.vectors, shape.push_slots});
  const std::uint64_t side_by_side = iteration_bytes == 0 ? iterations : shape.push_buffer_bytes / iteration_bytes;
  result.push_iterations =
      static_cast<unsigned>(std::clamp(side_by_side, std::min<std::uint64_t>(2, iterations), iterations));
  result.push_epochs = static_cast<unsigned>(divide_up(iterations, result.push_iterations));
  result.push_bytes = product({iteration_bytes, result.push_iterations});
  result.staging_bytes = product({vector_bytes, shape.staging_copies, tiles, shape.tile_rows, shape.padded_vectors});
  return result;
}

WorkspaceNeeds workspace_needs(const KernelShape& shape, std::uint64_t vectors, int block_limit) {
  // The grid does not grow steadily with the message, so take the largest that any smaller message can have.
  const std::uint64_t tiles = tiling(shape, vectors).tiles;
  const std::uint64_t clusters = largest_cluster_count(shape, tiles, block_limit);
  const std::uint64_t iterations = divide_up(tiles, clusters);
  const std::uint64_t tile_bytes =
      product({vector_bytes, shape.cluster, shape.threads, shape.vectors, shape.push_slots});
  std::uint64_t push = product({tile_bytes, clusters});  // one iteration of the largest grid
  // A launch of several iterations puts at least two side by side (push.h says why). A smaller grid may put more: up to
  // the budget, and never more than all tiles and one idle place per iteration.
  if (iterations > 1) {
    push = std::max(product({push, 2}), std::min(shape.push_buffer_bytes, product({tile_bytes, tiles + iterations})));
  }
  return {push, product({vector_bytes, shape.staging_copies, tiles, shape.tile_rows, shape.padded_vectors})};
}

std::uint64_t message_vectors(std::int64_t tokens, int hidden, Dtype dtype) {
  if (tokens <= 0 || hidden <= 0) {
    throw InvalidArgument(fmt::format("tokens = {} and hidden = {}; both must be positive", tokens, hidden));
  }
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(tokens, static_cast<std::int64_t>(hidden), &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<std::int64_t>(element_bytes(dtype)), &bytes)) {
    throw InvalidArgument(
        fmt::format("tokens = {} rows of hidden = {} elements are more than 2^63 bytes", tokens, hidden));
  }
  return divide_up(static_cast<std::uint64_t>(bytes), vector_bytes);
}

Geometry geometry(const Catalogue& catalogue, const Variant& variant, std::int64_t tokens, int hidden,
                  int block_limit) {
  const KernelShape shape = kernel_shape(catalogue, variant, TargetLimits{});
  if (shape.rows_pattern && hidden != variant.hidden) {
    throw InvalidArgument(
        fmt::format("'{}' is built for hidden = {}; asked for {}", variant.full_name(), variant.hidden, hidden));
  }
  return geometry(shape, message_vectors(tokens, hidden, variant.dtype), block_limit);
}

}  // namespace arbiter
