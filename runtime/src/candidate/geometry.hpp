// Grid arithmetic with the catalogue's expressions already evaluated: what a call computes.
#pragma once

#include <cstdint>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/variant.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {

/// A rotating buffer holds several iterations of a long launch, up to this size. On two H200s, 128 MiB took 407 us with
/// 8 MiB, 388 us with 32 MiB and 381 us with 64 MiB, where the fences no longer show.
inline constexpr std::uint64_t default_push_buffer_bytes = std::uint64_t{64} << 20;

/// One kernel's tile: numbers that do not depend on the size of a message.
struct KernelShape {
  bool rows_pattern = false;         ///< rows are tokens; otherwise rows cut a flat message
  unsigned threads = 1;              ///< per block
  unsigned vectors = 1;              ///< 16-byte vectors per thread of a row
  unsigned cluster = 1;              ///< blocks per row
  std::uint64_t row_vectors = 0;     ///< 16-byte vectors of a row that exist
  std::uint64_t padded_vectors = 0;  ///< threads * vectors * cluster
  std::uint64_t tile_rows = 1;
  std::uint64_t push_slots = 0;
  std::uint64_t staging_copies = 0;
  unsigned shared_bytes = 0;  ///< dynamic, per block
  /// Of a kernel that talks to nobody and whose scales are padded to full tiles of rows: it may have blocks that write
  /// padding alone. (Elsewhere the padding is written while a rank waits for its peers, and costs nothing.)
  std::uint64_t scale_tile_rows = 1;
  std::uint64_t scale_row_bytes = 0;  ///< of padding
  std::uint64_t push_buffer_bytes = default_push_buffer_bytes;
};

/// Throws InvalidArgument for a variant that the catalogue does not describe, CompileError for a broken expression.
KernelShape kernel_shape(const Catalogue&, const Variant&, const TargetLimits&);

/// `vectors` 16-byte vectors in all; for a rows pattern a multiple of shape.row_vectors.
/// Throws InvalidArgument for a message that is empty or too large for the kernels' 32-bit numbers.
Geometry geometry(const KernelShape&, std::uint64_t vectors, int block_limit);

/// Upper bound of what geometry() may ask for with up to `vectors`.
WorkspaceNeeds workspace_needs(const KernelShape&, std::uint64_t vectors, int block_limit);

/// 16-byte vectors of `tokens` rows of `hidden` elements, the last one perhaps partial.
/// Throws InvalidArgument when not positive or too large for 64 bits.
std::uint64_t message_vectors(std::int64_t tokens, int hidden, Dtype);

}  // namespace arbiter
