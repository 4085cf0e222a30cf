// The kernel that compares, on the CPU device, and what becomes of a comparison that cannot be relied on.
#include "verify/device_comparison.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "arbiter/error.hpp"
#include "arbiter/tuner/verify.hpp"
#include "tuner/ranks.hpp"
#include "verify/tensors.hpp"

namespace arbiter::tuning {
namespace {

ComparedRange range_of(const DeviceMemory& found, const DeviceMemory& expected, std::size_t bytes, std::size_t period,
                       std::size_t offset = 0) {
  return {static_cast<const unsigned char*>(found.data()) + offset, static_cast<const unsigned char*>(expected.data()),
          bytes, period};
}

unsigned char* bytes_of(const DeviceMemory& memory) { return static_cast<unsigned char*>(memory.data()); }

/// `found` repeats what `expected` holds.
void repeat(const DeviceMemory& found, const DeviceMemory& expected, std::size_t bytes, std::size_t period,
            std::size_t offset = 0) {
  for (std::size_t i = 0; i < bytes; ++i) bytes_of(found)[offset + i] = bytes_of(expected)[i % period];
}

DeviceMemory filled(Device& device, std::size_t bytes) {
  DeviceMemory memory(device, bytes);
  for (std::size_t i = 0; i < bytes; ++i) bytes_of(memory)[i] = static_cast<unsigned char>(i * 131 + i / 251);
  return memory;
}

void with_comparison(const std::function<void(Device&, DeviceComparison&, StreamHandle)>& body) {
  testing::on_ranks(1, [&](Group& group) {
    const std::unique_ptr<DeviceComparison> comparison = make_device_comparison(group);
    ASSERT_NE(comparison, nullptr);
    const StreamHandle stream = group.device().create_stream();
    body(group.device(), *comparison, stream);
    group.device().destroy_stream(stream);
  });
}

struct Shape {
  std::size_t bytes, period, offset;
};

TEST(DeviceComparison, EveryByteOfARangeCounts) {
  // Whole vectors; a tail; periods that are no whole vectors, or longer than the range; a place that is no vector's.
  constexpr Shape shapes[] = {{4096, 64, 0}, {4109, 48, 0},  {1000, 36, 0}, {7, 2, 0},     {48, 4096, 0},
                              {4096, 64, 3}, {96, 4096, 16}, {1, 1, 0},     {40000, 16, 0}};
  with_comparison([&](Device& device, DeviceComparison& comparison, StreamHandle stream) {
    const DeviceMemory expected = filled(device, 4096), found(device, 65536);
    for (const Shape& shape : shapes) {
      const ComparedRange range = range_of(found, expected, shape.bytes, shape.period, shape.offset);
      std::memset(found.data(), 0x55, found.bytes());
      repeat(found, expected, shape.bytes, shape.period, shape.offset);
      EXPECT_EQ(comparison.equal_bytes({&range, 1}, stream).front(), shape.bytes)
          << shape.bytes << " bytes, period " << shape.period << ", offset " << shape.offset;
      for (const std::size_t at :
           {std::size_t{0}, shape.bytes - 1, shape.bytes / 2, std::min(shape.period, shape.bytes - 1),
            shape.bytes - std::min<std::size_t>(shape.bytes, 17)}) {
        bytes_of(found)[shape.offset + at] ^= 0x10;
        EXPECT_LT(comparison.equal_bytes({&range, 1}, stream).front(), shape.bytes)
            << "byte " << at << " of " << shape.bytes << ", period " << shape.period << ", offset " << shape.offset;
        bytes_of(found)[shape.offset + at] ^= 0x10;
      }
    }
  });
}

TEST(DeviceComparison, WhatLiesAroundARangeDoesNotCount) {
  with_comparison([&](Device& device, DeviceComparison& comparison, StreamHandle stream) {
    const DeviceMemory expected = filled(device, 64), found(device, 256);
    std::memset(found.data(), 0, 256);
    repeat(found, expected, 70, 64, 16);
    const ComparedRange range = range_of(found, expected, 70, 64, 16), none = range_of(found, expected, 0, 64);
    const ComparedRange both[] = {none, range};
    EXPECT_EQ(comparison.equal_bytes(both, stream), (std::vector<std::uint64_t>{0, 70}));
    EXPECT_TRUE(comparison.equal_bytes({}, stream).empty());
  });
}

TEST(DeviceComparison, MoreRangesThanOneLaunchTakesAreAllCompared) {
  with_comparison([&](Device& device, DeviceComparison& comparison, StreamHandle stream) {
    constexpr std::size_t each = 96, count = 2 * arbiter_abi::max_compared_ranges + 3;
    const DeviceMemory expected = filled(device, 32), found(device, each * count);
    std::vector<ComparedRange> ranges;
    for (std::size_t i = 0; i < count; ++i) {
      repeat(found, expected, each, 32, i * each);
      ranges.push_back(range_of(found, expected, each, 32, i * each));
    }
    std::vector<std::uint64_t> all(count, each);
    EXPECT_EQ(comparison.equal_bytes(ranges, stream), all);
    for (const std::size_t at : {std::size_t{0}, std::size_t{arbiter_abi::max_compared_ranges}, count - 1}) {
      bytes_of(found)[at * each + each - 1] ^= 1;
      all[at] -= 16;  // a vector is equal or it is not
    }
    EXPECT_EQ(comparison.equal_bytes(ranges, stream), all);
  });
}

TEST(DeviceComparison, WhereNothingCompilesTheHostComparesOnEveryRank) {
  testing::TemporaryFolder folder;
  GroupOptions options;
  options.variables = testing::test_variables(std::chrono::seconds(20));
  options.nccl = false;
  CacheOptions cache;
  cache.directory = folder / "kernels";
  cache.compile_on_miss = false;
  options.cache = std::make_shared<KernelCache>(cache);
  testing::on_ranks_with(2, options, [](Group& group) { EXPECT_EQ(make_device_comparison(group), nullptr); });
}

/// Says of every range what it is told to.
struct StandIn : DeviceComparison {
  explicit StandIn(std::uint64_t the_missing) : missing(the_missing) {}
  std::vector<std::uint64_t> equal_bytes(std::span<const ComparedRange> ranges, StreamHandle) override {
    std::vector<std::uint64_t> counts;
    for (const ComparedRange& range : ranges)
      counts.push_back(range.bytes - std::min<std::uint64_t>(missing, range.bytes));
    return counts;
  }
  std::uint64_t missing;
};

constexpr std::uint64_t everything = ~std::uint64_t{0};
constexpr int hidden = 64;
constexpr std::int64_t tokens = 5;

/// The candidate, and `damage` on what it wrote.
Subject damaged(Group& group, RunnableCandidate& candidate, const std::function<void(const Call&)>& damage) {
  Subject subject = subject_of(candidate);
  subject.enqueue = [&group, &candidate, damage](const Call& call, StreamHandle stream) {
    candidate.enqueue(call, stream);
    group.device().synchronize(stream);
    if (damage) damage(call);
  };
  return subject;
}

std::unique_ptr<RunnableCandidate> first_kernel(Group& group, const ProblemFamily& family) {
  const LoadRequest request{enumerate_candidates(group.capabilities(), family, {}).front(), family};
  LoadResult loaded = std::move(load_on_all_ranks(group, {&request, 1}).front());
  EXPECT_TRUE(loaded.candidate) << loaded.reason;
  const WorkspaceNeeds needs = loaded.candidate->needs(family.max_tokens);
  group.reserve(needs.push_bytes, needs.staging_bytes);
  return std::move(loaded.candidate);
}

void flip(void* data, std::size_t byte) { static_cast<unsigned char*>(data)[byte] ^= 1; }

const std::vector<std::function<void(const Call&)>>& damages() {
  static const std::vector<std::function<void(const Call&)>> all = {
      {},
      [](const Call& call) { flip(call.residual_out, 0); },
      [](const Call& call) { flip(call.residual_out, tokens * hidden * 2 - 1); },
      [](const Call& call) { flip(call.norm_out, 77); },
      [](const Call& call) { flip(call.norm_out, tokens * hidden * 2); },
      [](const Call& call) { static_cast<unsigned char*>(call.norm_out)[-1] = 0; },
  };
  return all;
}

TEST(DeviceComparison, AComparisonThatMiscountsChangesNoVerdict) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily family{"allreduce_residual_rmsnorm", Dtype::bf16, hidden, 64, Mode::graph};
    const auto candidate = first_kernel(group, family);
    Verifier on_host(group, family, nullptr), on_device(group, family);
    Verifier does_nothing(group, family, std::make_unique<StandIn>(everything));
    Verifier misses_one(group, family, std::make_unique<StandIn>(1));
    for (const Content content : {Content::mixed, Content::special, Content::integers}) {
      VerifyRequest request;
      request.tokens = tokens;
      request.content = content;
      for (std::size_t i = 0; i < damages().size(); ++i) {
        const Subject subject = damaged(group, *candidate, damages()[i]);
        const Verification expected = on_host.verify(subject, request);
        EXPECT_EQ(expected.ok(), i == 0) << i << ": " << expected.reason;
        for (Verifier* const verifier : {&on_device, &does_nothing, &misses_one}) {
          const Verification found = verifier->verify(subject, request);
          EXPECT_EQ(found.status, expected.status) << i;
          EXPECT_EQ(found.reason, expected.reason) << i;
        }
      }
    }
  });
}

/// Counts what it is asked, and passes it on.
struct Watched : DeviceComparison {
  explicit Watched(Group& group) : real(make_device_comparison(group)) {}
  std::vector<std::uint64_t> equal_bytes(std::span<const ComparedRange> ranges, StreamHandle stream) override {
    std::vector<std::uint64_t> counts = real->equal_bytes(ranges, stream);
    ++calls;
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      bytes += ranges[i].bytes;
      equal += counts[i];
    }
    return counts;
  }
  std::unique_ptr<DeviceComparison> real;
  int calls = 0;
  std::uint64_t bytes = 0, equal = 0;
};

TEST(DeviceComparison, OneComparisonHoldsAllThatAReplayWrote) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily family{"allreduce_residual_rmsnorm", Dtype::bf16, hidden, 64, Mode::graph};
    const auto candidate = first_kernel(group, family);
    auto watched = std::make_unique<Watched>(group);
    Watched& seen = *watched;
    Verifier verifier(group, family, std::move(watched));
    std::vector<std::unique_ptr<Tensors>> sets;
    for (int i = 0; i < 3; ++i) {
      sets.push_back(std::make_unique<Tensors>(
          group.device(), TensorShapes(group.catalogue().pattern(family.pattern), family.dtype, hidden), tokens));
    }
    const Subject subject = subject_of(*candidate);
    const auto work = [&](std::function<void(const Call&)> damage, std::size_t damaged_set) {
      return TimedWork{subject, sets, tokens, {}, 2, [&, damage = std::move(damage), damaged_set](StreamHandle stream) {
                         for (const auto& set : sets) candidate->enqueue(set->call(tokens), stream);
                         group.device().synchronize(stream);
                         if (damage) damage(sets[damaged_set]->call(tokens));
                       }};
    };
    const Verification right = verifier.verify_timed(work({}, 0));
    EXPECT_TRUE(right.ok()) << right.reason;
    EXPECT_EQ(seen.calls, 1);
    const std::uint64_t outputs = 2 * tokens * hidden * 2, guards = 4 * guard_pattern().size();
    EXPECT_EQ(seen.bytes, 3 * (outputs + guards));
    EXPECT_EQ(seen.equal, seen.bytes) << "the device vouches for all of it";
    for (std::size_t i = 1; i < damages().size(); ++i) {
      for (std::size_t set = 0; set < sets.size(); ++set) {
        EXPECT_EQ(verifier.verify_timed(work(damages()[i], set)).status, TrialStatus::wrong) << i << ", set " << set;
      }
    }
  });
}

TEST(DeviceComparison, UnderAToleranceTheGuardsAreComparedOnTheDevice) {
  testing::on_ranks(2, [&](Group& group) {
    const ProblemFamily family{"allreduce", Dtype::bf16, hidden, 64, Mode::graph};
    const auto candidate = first_kernel(group, family);
    auto watched = std::make_unique<Watched>(group);
    Watched& seen = *watched;
    Verifier verifier(group, family, std::move(watched));
    VerifyRequest request;
    request.tokens = tokens;
    request.content = Content::random;
    Subject subject = subject_of(*candidate);
    subject.numerics = Numerics::nccl;
    EXPECT_TRUE(verifier.verify(subject, request).ok());
    EXPECT_EQ(seen.bytes, 2 * guard_pattern().size());
    EXPECT_EQ(seen.equal, seen.bytes);
  });
}

TEST(Tensors, ACopyHoldsAllThatTheOtherSetHolds) {
  testing::on_ranks(1, [&](Group& group) {
    Device& device = group.device();
    const TensorShapes shapes(group.catalogue().pattern("allreduce_residual_rmsnorm"), Dtype::bf16, hidden);
    const StreamHandle stream = device.create_stream();
    HostBuffer host(device, 1 << 16);
    Tensors first(device, shapes, 8), second(device, shapes, 8), shifted(device, shapes, 8, {false, 1}),
        larger(device, shapes, 4096);
    InputChoice choice;
    choice.gamma_fp32 = true;
    const Inputs inputs = make_inputs(shapes.composition, Dtype::bf16, 7, hidden, 0, choice);
    first.load(inputs, tokens, stream);
    first.poison(tokens, stream);
    second.copy_from(first, stream);
    EXPECT_EQ(second.check_guards(tokens, host, stream), "");
    EXPECT_TRUE(second.call(tokens).gamma_fp32);
    const std::size_t bytes = shapes.row_bytes() * tokens;
    EXPECT_EQ(std::memcmp(second.input(), first.input(), bytes), 0);
    for (const Tensor tensor : {Tensor::residual_in, Tensor::residual_out, Tensor::norm_out}) {
      EXPECT_EQ(second.read(tensor, 0, bytes, host, stream), first.read(tensor, 0, bytes, host, stream));
    }
    EXPECT_THROW(shifted.copy_from(first, stream), InvalidArgument);
    EXPECT_THROW(larger.copy_from(first, stream), InvalidArgument);
    device.destroy_stream(stream);
  });
}

}  // namespace
}  // namespace arbiter::tuning
