// Kernels are compiled while others are measured: each once, and what is needed first, first.
#include "tune/compile_ahead.hpp"

#include <gtest/gtest.h>

#include <future>
#include <map>

#include "arbiter/error.hpp"
#include "tuner/modelled_tune.hpp"

namespace arbiter {
namespace {

using namespace tuning;

CandidateSpec spec_of(int threads, int max_blocks = 0) {
  CandidateSpec spec;
  spec.kernel.emplace();
  spec.kernel->backend = Backend::custom;
  spec.kernel->algorithm = "oneshot_pull";
  spec.kernel->pattern = "allreduce";
  spec.kernel->world = 2;
  spec.kernel->parameters["threads"] = threads;
  spec.max_blocks = max_blocks;
  return spec;
}

int threads_of(const Variant& kernel) { return kernel.parameter("threads"); }

TEST(CompileAhead, EachKernelOnceAndWhatIsNeededFirstFirst) {
  std::promise<void> begun, go, done;
  std::vector<int> order;
  std::future<void> gate = go.get_future();
  CompileAhead ahead(1, [&](const Variant& kernel) {
    order.push_back(threads_of(kernel));
    if (order.size() == 1) {
      begun.set_value();
      gate.wait();
    }
    if (threads_of(kernel) == 6) done.set_value();
    if (threads_of(kernel) == 3) throw CompileError("no");
  });
  ahead.later(spec_of(1));
  begun.get_future().wait();
  ahead.later(spec_of(5));
  ahead.later(spec_of(6));
  const std::vector<CandidateSpec> urgent = {spec_of(2), spec_of(3), spec_of(2, 64), spec_of(1), spec_of(4)};
  ahead.soon(urgent);
  ahead.now(spec_of(4));  // its loader compiles it
  go.set_value();
  done.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 5, 6}));
}

TEST(CompileAhead, WhatWaitsIsDroppedAtTheEnd) {
  int compiled = 0;
  std::promise<void> begun, go;
  std::future<void> gate = go.get_future();
  {
    CompileAhead ahead(1, [&](const Variant&) {
      if (++compiled == 1) begun.set_value();
      gate.wait();
    });
    for (int i = 1; i < 100; ++i) ahead.later(spec_of(i));
    begun.get_future().wait();
    ahead.stop();
    go.set_value();
  }
  EXPECT_EQ(compiled, 1);
}

TEST(CompileAhead, WithoutThreadsNothingIsCompiled) {
  int compiled = 0;
  {
    CompileAhead ahead(0, [&](const Variant&) { ++compiled; });
    ahead.later(spec_of(1));
    ahead.soon(std::vector<CandidateSpec>{spec_of(2)});
    ahead.now(spec_of(1));
  }
  EXPECT_EQ(compiled, 0);
}

TEST(CompileAhead, UsesHalfOfTheRanksShareOfTheProcessors) {
  EXPECT_EQ(compile_threads(DeviceKind::cuda, 64, 4), 4);
  EXPECT_EQ(compile_threads(DeviceKind::cuda, 16, 4), 2);
  EXPECT_EQ(compile_threads(DeviceKind::cuda, 2, 8), 1);
  EXPECT_EQ(compile_threads(DeviceKind::cuda, 0, 0), 1);
  EXPECT_EQ(compile_threads(DeviceKind::cpu, 64, 2), 0);
}

TEST(CompileAhead, ATuneAsksForWhatItLoadsAndDecidesTheSame) {
  const testing::TemporaryFolder folder;
  std::mutex mutex;
  std::map<std::string, int> compiled;
  const auto tune_with = [&](int threads, const char* database) {
    TuneOptions options = testing::modelled_options(folder / database);
    options.compile_threads = threads;
    return testing::modelled_tune(options, testing::two_lines(8), [&](Group&, TuneOptions& mine) {
      mine.source.compile = [&](Group&, const Variant& kernel) {
        const std::lock_guard lock(mutex);
        ++compiled[kernel.full_name()];
      };
    });
  };
  const TuneResult alone = tune_with(0, "alone.db");
  EXPECT_TRUE(compiled.empty());
  const TuneResult ahead = tune_with(2, "ahead.db");
  EXPECT_EQ(ahead.decisions, alone.decisions);
  EXPECT_FALSE(compiled.empty());
  for (const auto& [name, times] : compiled) EXPECT_EQ(times, 1) << name;
  EXPECT_GT(ahead.times.verify, 0);
  EXPECT_GT(ahead.times.measure, 0);
  EXPECT_LT(ahead.times.load + ahead.times.verify + ahead.times.measure + ahead.times.tensors + ahead.times.record,
            ahead.seconds);
}

}  // namespace
}  // namespace arbiter
