// Grid arithmetic, against hand-worked examples and against the properties that kernels rely on.
#include "candidate/geometry.hpp"

#include <gtest/gtest.h>

#include "arbiter/error.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

KernelShape flat_shape(unsigned threads, unsigned cluster, std::uint64_t tile_rows, std::uint64_t slots,
                       std::uint64_t copies) {
  KernelShape shape;
  shape.threads = threads;
  shape.cluster = cluster;
  shape.padded_vectors = std::uint64_t{threads} * cluster;
  shape.row_vectors = shape.padded_vectors;
  shape.tile_rows = tile_rows;
  shape.push_slots = slots;
  shape.staging_copies = copies;
  return shape;
}

TEST(Geometry, HandWorkedFlatMessage) {
  // 1000 vectors in rows of 256: 4 rows, 4 tiles, 3 clusters at most, so 2 iterations of 2 clusters.
  const Geometry grid = geometry(flat_shape(256, 1, 1, 4, 0), 1000, 3);
  EXPECT_EQ(grid.rows, 4U);
  EXPECT_EQ(grid.iterations, 2U);
  EXPECT_EQ(grid.blocks, 2U);
  EXPECT_EQ(grid.vectors, 1000U);
  EXPECT_EQ(grid.push_iterations, 2U);  // both fit one rotating buffer
  EXPECT_EQ(grid.push_epochs, 1U);
  EXPECT_EQ(grid.push_bytes, 16U * 2 * 256 * 4 * 2);
  EXPECT_EQ(grid.staging_bytes, 0U);
}

TEST(Geometry, HandWorkedRows) {
  KernelShape shape = flat_shape(128, 4, 2, 0, 2);
  shape.rows_pattern = true;
  shape.row_vectors = 360;  // hidden = 2880 in bf16, padded to 512
  const Geometry grid = geometry(shape, 360 * 7, 10);
  // 7 rows, 4 tiles of 2; 10 blocks hold 2 clusters of 4: 2 iterations, 8 blocks.
  EXPECT_EQ(grid.rows, 7U);
  EXPECT_EQ(grid.iterations, 2U);
  EXPECT_EQ(grid.blocks, 8U);
  EXPECT_EQ(grid.push_bytes, 0U);
  EXPECT_EQ(grid.staging_bytes, 16U * 2 * 4 * 2 * 512);
}

TEST(Geometry, EveryRowIsCoveredOnceAndTheLoadIsEven) {
  for (const std::uint64_t cluster : {1U, 2U, 8U}) {
    for (const std::uint64_t tile_rows : {1U, 3U, 8U}) {
      for (const int limit : {8, 13, 132, 1280, 100000}) {
        for (std::uint64_t rows = 1; rows < 700; rows += rows < 40 ? 1 : 37) {
          const KernelShape shape = flat_shape(128, static_cast<unsigned>(cluster), tile_rows, 2, 2);
          const std::uint64_t vectors = rows * shape.padded_vectors;
          const Geometry grid = geometry(shape, vectors, limit);
          const std::uint64_t tiles = (rows + tile_rows - 1) / tile_rows;
          const std::uint64_t clusters = grid.blocks / cluster;
          ASSERT_EQ(grid.blocks % cluster, 0U);
          ASSERT_LE(grid.blocks, std::min(limit, static_cast<int>(arbiter_abi::max_blocks)));
          ASSERT_GE(clusters * grid.iterations, tiles);        // every tile has a cluster
          ASSERT_LT((clusters - 1) * grid.iterations, tiles);  // no cluster is idle throughout
          ASSERT_LT((grid.iterations - 1) * clusters, tiles);  // no round is empty
          const WorkspaceNeeds needs = workspace_needs(shape, vectors, limit);
          ASSERT_LE(grid.push_bytes, needs.push_bytes);
          ASSERT_EQ(grid.staging_bytes, needs.staging_bytes);
        }
      }
    }
  }
}

TEST(Geometry, NeedsCoverEverySmallerMessage) {
  const KernelShape shape = flat_shape(256, 1, 1, 4, 2);
  const WorkspaceNeeds needs = workspace_needs(shape, 256 * 50, 7);
  for (std::uint64_t rows = 1; rows <= 50; ++rows) {
    const Geometry grid = geometry(shape, 256 * rows, 7);
    EXPECT_LE(grid.push_bytes, needs.push_bytes);
    EXPECT_LE(grid.staging_bytes, needs.staging_bytes);
  }
}

TEST(Geometry, ABufferTakesSeveralIterationsUpToABound) {
  const KernelShape shape = flat_shape(256, 1, 1, 4, 0);
  const std::uint64_t iteration = 16 * 256 * 4 * 8;  // bytes, on 8 blocks
  const Geometry one = geometry(shape, 256 * 8, 8);
  EXPECT_EQ(one.push_bytes, iteration);
  EXPECT_EQ(one.push_iterations, 1U);
  EXPECT_EQ(one.push_epochs, 1U);
  const Geometry five = geometry(shape, 256 * 8 * 5, 8);
  EXPECT_EQ(five.push_bytes, 5 * iteration);
  EXPECT_EQ(five.push_iterations, 5U);
  const Geometry many = geometry(shape, 256 * 8 * 100000ULL, 8);
  EXPECT_EQ(many.push_bytes, many.push_iterations * iteration);
  EXPECT_LE(many.push_bytes, 64U << 20);
  EXPECT_GT(many.push_bytes + iteration, 64U << 20);
  EXPECT_GE(std::uint64_t{many.push_iterations} * many.push_epochs, many.iterations);
  EXPECT_LT(std::uint64_t{many.push_iterations} * (many.push_epochs - 1), many.iterations);
}

TEST(Geometry, PaddingOfScalesGetsBlocksOfItsOwn) {
  const Catalogue& catalogue = Catalogue::builtin();
  const auto blocks = [&](const char* pattern, std::int64_t tokens, int limit) {
    const Enumeration all = enumerate_standalone(catalogue, pattern, Dtype::bf16, 8192, {90, 1024, {}});
    for (const Variant& variant : all.variants) {
      if (variant.parameters.at("threads") != 512 || variant.parameters.at("cluster") != 1) continue;
      return geometry(catalogue, variant, tokens, 8192, limit).blocks;
    }
    return 0U;
  };
  // 127 rows of 512 bytes are 4064 vectors: 8 blocks of 512 threads.
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_128x4", 1, 132), 1U + 8U);
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_128x4", 1, 3), 3U);
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_128x4", 100, 132), 100U + 2U);
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_128x4", 100, 100), 100U);
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_128x4", 128, 132), 128U);
  EXPECT_EQ(blocks("allreduce_residual_rmsnorm_nvfp4_linear", 1, 132), 1U);
}

TEST(Geometry, StagingBeyondFourGigabytesIsComputedIn64Bits) {
  // 3 GiB of fp32, two copies.
  const std::uint64_t vectors = (std::uint64_t{3} << 30) / 16;
  const Geometry grid = geometry(flat_shape(512, 1, 4, 0, 2), vectors, 132);
  EXPECT_EQ(grid.staging_bytes, std::uint64_t{6} << 30);
  EXPECT_EQ(grid.vectors, vectors);
}

TEST(Geometry, RefusesWhatCannotBeExpressed) {
  const KernelShape shape = flat_shape(128, 4, 1, 2, 0);
  EXPECT_THROW(geometry(shape, 0, 8), InvalidArgument);                             // nothing to do
  EXPECT_THROW(geometry(shape, 100, 3), InvalidArgument);                           // no cluster fits
  EXPECT_THROW(geometry(shape, std::uint64_t{1} << 32, 8), InvalidArgument);        // 64 GiB
  EXPECT_THROW(geometry(shape, (std::uint64_t{1} << 32) - 1, 8), InvalidArgument);  // its last row ends behind 2^32
  EXPECT_NO_THROW(geometry(shape, (std::uint64_t{1} << 32) - 2048, 8));
  const KernelShape huge = flat_shape(128, 1, 1, 0, std::uint64_t{1} << 40);
  EXPECT_THROW(geometry(huge, std::uint64_t{1} << 30, 8), InvalidArgument);  // 2^64 bytes and more
}

TEST(Geometry, MessageVectorsRoundUpAndRefuseOverflow) {
  EXPECT_EQ(message_vectors(3, 7, Dtype::bf16), 3U);  // 42 bytes
  EXPECT_EQ(message_vectors(1, 8, Dtype::bf16), 1U);
  EXPECT_EQ(message_vectors(std::int64_t{1} << 40, 8192, Dtype::bf16), std::uint64_t{1} << 50);
  EXPECT_THROW(message_vectors(0, 8, Dtype::bf16), InvalidArgument);
  EXPECT_THROW(message_vectors(-1, 8, Dtype::bf16), InvalidArgument);
  EXPECT_THROW(message_vectors(1, 0, Dtype::bf16), InvalidArgument);
  EXPECT_THROW(message_vectors(std::int64_t{1} << 62, 8, Dtype::bf16), InvalidArgument);
}

TEST(Geometry, PublicFunctionUsesTheCatalogue) {
  const Catalogue& catalogue = Catalogue::builtin();
  for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
    const int hidden = 2880;
    const bool rows = catalogue.pattern(pattern).rows;
    const Enumeration all = enumerate(catalogue, pattern, Dtype::bf16, 4, rows ? hidden : 0, {90, 1024, {}});
    ASSERT_FALSE(all.variants.empty());
    for (const Variant& variant : all.variants) {
      const Geometry grid = geometry(catalogue, variant, 33, hidden, 132);
      EXPECT_EQ(grid.vectors, 33U * 2880 * 2 / 16) << variant.full_name();
      EXPECT_GE(grid.blocks, 1U);
      EXPECT_LE(grid.blocks, 132U);
      if (rows) {
        EXPECT_EQ(grid.rows, 33U);
        EXPECT_THROW(geometry(catalogue, variant, 33, hidden + 8, 132), InvalidArgument);
      }
      EXPECT_GT(grid.push_bytes + grid.staging_bytes, 0U) << variant.full_name();
    }
  }
}

TEST(WorkspaceLayout, PartsAreAlignedAndDoNotOverlap) {
  const WorkspaceLayout layout = workspace_layout(3, 1000, 70000);
  EXPECT_GE(layout.push_offset, sizeof(arbiter_abi::Control) + 3 * arbiter_abi::max_blocks * sizeof(unsigned));
  EXPECT_EQ(layout.push_offset % 512, 0U);
  EXPECT_EQ(layout.push_stride, 1024U);
  EXPECT_EQ(layout.staging_offset, layout.push_offset + arbiter_abi::push_buffers * 1024);
  // Two halves, each for half of what was asked, rounded up.
  EXPECT_EQ(layout.results_offset, layout.staging_offset + 35328);
  EXPECT_EQ(layout.total_bytes, layout.staging_offset + 2 * 35328);
}

TEST(WorkspaceLayout, LargeStagingIs64BitAndOverflowIsRefused) {
  const WorkspaceLayout layout = workspace_layout(0, std::uint64_t{1} << 31, std::uint64_t{1} << 40);
  EXPECT_EQ(layout.staging_offset, layout.push_offset + arbiter_abi::push_buffers * (std::uint64_t{1} << 31));
  EXPECT_EQ(layout.total_bytes, layout.staging_offset + (std::uint64_t{1} << 40));
  EXPECT_THROW(workspace_layout(0, std::uint64_t{1} << 32, 0), InvalidArgument);  // Arguments::push_stride has 32 bits
  EXPECT_THROW(workspace_layout(67, 0, ~std::uint64_t{0}), InvalidArgument);
  EXPECT_THROW(workspace_layout(67, 0, ~std::uint64_t{0} - 1024), InvalidArgument);
}

}  // namespace
}  // namespace arbiter
