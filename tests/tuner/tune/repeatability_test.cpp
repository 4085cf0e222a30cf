// A second tune under other noise decides the same: what the rules of choosing are worth, on times that are known.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "arbiter/tuner/choose.hpp"
#include "oracle/random.hpp"

namespace arbiter {
namespace {

using tuning::Random;

constexpr int families = 80;
constexpr int sizes = 10;
constexpr std::size_t candidates = 5;
constexpr int resamples = 100;  // of the bootstrap: enough, and quick
constexpr double noise = 0.01;

/// The sum of twelve is nearly normal.
double normal(Random& random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += random.unit();
  return sum;
}

/// Microseconds of every candidate, as nobody knows them.
using Truth = std::vector<double>;

/// Anything within 8% of each other, at each size anew: far more near ties than kernels have.
Truth scattered(std::uint64_t family, int size) {
  Random random(family * 1009 + static_cast<std::uint64_t>(size));
  Truth truth;
  for (std::size_t i = 0; i < candidates; ++i) truth.push_back(10 * (1 + 0.08 * random.unit()));
  return truth;
}

/// Lines that cross: what is near at one size is near at the next ones.
Truth crossing(std::uint64_t family, int size) {
  Random random(family + 77);
  Truth truth;
  for (std::size_t i = 0; i < candidates; ++i) {
    const double start = 0.1 * random.unit(), slope = 0.02 * (random.unit() - 0.5);
    truth.push_back(10 * (1 + start + slope * size));
  }
  return truth;
}

/// One tune of a family: samples as the tuner takes them, and what it decides from them.
struct Tune {
  std::vector<SizeResult> results;
  std::size_t samples = 0;
};

Tune tune(Truth (*truth)(std::uint64_t, int), std::uint64_t family, std::uint64_t seed, const SampleLimits& limits) {
  Random random(seed);
  Tune done;
  for (int size = 0; size < sizes; ++size) {
    const Truth us = (*truth)(family, size);
    std::vector<std::vector<double>> samples(us.size());
    SizeResult result{std::int64_t{1} << size, {}};
    const auto take = [&](std::size_t i, int count) {
      for (int n = 0; n < count; ++n) samples[i].push_back(us[i] * (1 + noise * normal(random)));
      done.samples += static_cast<std::size_t>(count);
    };
    const auto measure = [&] {
      result.candidates.clear();
      for (std::size_t i = 0; i < us.size(); ++i) {
        Measured measured;
        measured.candidate = {Backend::custom, "oneshot", "", Numerics::rank_order_fp32, ""};
        // Who comes first in a tie is not who is first here.
        measured.candidate.name = std::to_string((7 * i + family) % candidates);
        measured.blocks = 16;
        measured.summary = summarise(samples[i], family + static_cast<std::uint64_t>(size), resamples);
        result.candidates.push_back(measured);
      }
    };
    for (std::size_t i = 0; i < us.size(); ++i) take(i, limits.step);
    for (measure();; measure()) {
      const NextSamples next = next_samples(result.candidates, std::nullopt, limits);
      if (next.which.empty()) break;
      for (const std::size_t i : next.which) take(i, next.samples);
    }
    done.results.push_back(result);
  }
  return done;
}

struct Agreement {
  int problems = 0, differ = 0;
  double samples = 0;  ///< of a candidate on a problem, on average
};

Agreement tune_twice(Truth (*truth)(std::uint64_t, int), const SampleLimits& limits) {
  Agreement found;
  for (std::uint64_t family = 0; family < families; ++family) {
    const ProblemFamily shape{"allreduce", Dtype::bf16, 8, std::int64_t{1} << (sizes - 1), Mode::graph};
    const Tune tunes[] = {tune(truth, family, 1000 + family, limits), tune(truth, family, 2000 + family, limits)};
    const std::vector<SizeWinner> one = winners(shape, 2, tunes[0].results, {});
    const std::vector<SizeWinner> two = winners(shape, 2, tunes[1].results, {});
    for (std::size_t i = 0; i < one.size(); ++i) {
      ++found.problems;
      if (one[i].measured().candidate.name != two[i].measured().candidate.name) ++found.differ;
    }
    found.samples += static_cast<double>(tunes[0].samples + tunes[1].samples);
  }
  found.samples /= 2.0 * static_cast<double>(candidates) * found.problems;
  return found;
}

TEST(Repeatability, ASecondTuneUnderOtherNoiseAgreesOn98OfAHundred) {
  for (const auto truth : {&scattered, &crossing}) {
    const Agreement found = tune_twice(*truth, {});
    ASSERT_EQ(found.problems, families * sizes);
    EXPECT_LE(50 * found.differ, found.problems) << found.differ << " of " << found.problems << " differ";
    EXPECT_LE(found.samples, 90) << "samples go where they can change something";
  }
}

/// What the samples are for: without them the same noise decides more.
TEST(Repeatability, WithTheFirstSamplesAloneNoiseDecides) {
  const Agreement few = tune_twice(&scattered, {30, 0, 0});
  EXPECT_EQ(few.samples, 30);
  EXPECT_GT(50 * few.differ, few.problems) << "then this test proves nothing";
}

}  // namespace
}  // namespace arbiter
