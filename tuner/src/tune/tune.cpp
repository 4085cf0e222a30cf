#include "arbiter/tuner/tune.hpp"

#include <fmt/format.h>

#include <memory>

#include "arbiter/error.hpp"
#include "tune/agreement.hpp"
#include "tune/family_state.hpp"
#include "tune/run.hpp"
#include "tune/schedule.hpp"

namespace arbiter {

using namespace tuning;

namespace {

/// Refused before anything is opened or launched.
void check(Group& group, const TuneOptions& options) {
  if (options.families.empty()) throw InvalidArgument("nothing to tune: pass at least one family");
  if (options.database.empty()) throw InvalidArgument("no database to store the result in: pass its path");
  if (group.size() < 2) throw InvalidArgument("a tune needs at least 2 ranks; this group has 1");
  if (options.measure.replays < 1 || options.measure.min_calls < 1) {
    throw InvalidArgument("measure settings: replays and min_calls must be at least 1");
  }
  for (const ProblemFamily& family : options.families) {
    group.catalogue().pattern(family.pattern);
    if (family.max_tokens < 1) {
      throw InvalidArgument(
          fmt::format("family '{}': max_tokens is {}; expected at least 1", family.pattern, family.max_tokens));
    }
    const std::size_t vector = vector_elements(family.dtype);
    if (family.hidden <= 0 || static_cast<std::size_t>(family.hidden) % vector != 0) {
      throw InvalidArgument(fmt::format("family '{}': hidden is {}; expected a positive multiple of {}", family.pattern,
                                        family.hidden, vector));
    }
  }
}

}  // namespace

CandidateSource CandidateSource::runtime(bool exhaustive) {
  CandidateSource source;
  source.enumerate = [exhaustive](Group& group, const ProblemFamily& family,
                                  std::span<const CandidateSpec> best_plain) {
    return enumerate_candidates(group.capabilities(), family, best_plain, nullptr, exhaustive);
  };
  source.load = [](Group& group, const CandidateSpec& spec, const ProblemFamily& family) {
    const LoadRequest request{spec, family};
    return std::move(load_on_all_ranks(group, {&request, 1}).front());
  };
  source.compile = [](Group& group, const Variant& variant) { compile_kernel(group, variant); };
  return source;
}

SearchEffort SearchEffort::for_device(DeviceKind kind) noexcept {
  SearchEffort effort;
  if (kind == DeviceKind::cuda) return effort;
  effort.anchor_candidates = 6;
  effort.candidates = 5;
  effort.anchors = 1;
  effort.finalists = 2;
  effort.final_samples = 6;
  effort.tie_samples = 0;
  effort.compiles = 8;
  effort.bisections = 2;  // times of the CPU device are noise: there is little to find, in near ties too
  return effort;
}

TuneResult tune(Group& group, const TuneOptions& options, ProgressSink* sink) {
  check(group, options);
  std::vector<std::unique_ptr<FamilyState>> states;
  for (const ProblemFamily& family : options.families) {
    states.push_back(std::make_unique<FamilyState>(family, sizes_of(family, options.tokens),
                                                   options.source.enumerate(group, family, {})));
  }
  require_equal_searches(group, options, states);
  return TuneRun(group, options, std::move(states), sink).run();
}

}  // namespace arbiter
