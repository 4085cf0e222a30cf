#include "tune/agreement.hpp"

#include <fmt/format.h>

#include <string>

#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/family.hpp"
#include "group/collective.hpp"

namespace arbiter::tuning {
namespace {

std::string text_of(const TuneOptions& options) {
  const SearchEffort& effort = options.effort;
  const MeasureSettings& measure = options.measure;
  std::string text;
  for (const long long number :
       {static_cast<long long>(effort.anchor_candidates), static_cast<long long>(effort.candidates),
        static_cast<long long>(effort.anchors), static_cast<long long>(effort.finalists),
        static_cast<long long>(effort.final_samples), static_cast<long long>(effort.tie_samples),
        static_cast<long long>(effort.verdict_samples), static_cast<long long>(effort.compiles),
        static_cast<long long>(effort.bisections), static_cast<long long>(measure.min_calls),
        static_cast<long long>(measure.max_calls), static_cast<long long>(measure.calibration_calls),
        static_cast<long long>(measure.replays), static_cast<long long>(measure.rotated_bytes),
        static_cast<long long>(measure.max_sets), static_cast<long long>(options.seed),
        static_cast<long long>(options.resume), static_cast<long long>(options.restarted)}) {
    text += fmt::format("{} ", number);
  }
  for (const double number : {effort.give_up, effort.narrow_to, measure.replay_us, options.rules.gain,
                              options.rules.largest_tie, options.rules.precision}) {
    text += fmt::format("{} ", number);
  }
  return text;
}

}  // namespace

void require_equal_searches(Group& group, const TuneOptions& options,
                            std::span<const std::unique_ptr<FamilyState>> states) {
  NamedValues mine{{"options", text_of(options)}};
  mine.emplace_back("problems", joined(states, "; ", [](const auto& state) { return to_text(state->family); }));
  for (const auto& state : states) {
    std::string names;
    for (std::size_t i = 0; i < state->space.size(); ++i) names += state->space.name(i) + "\n";
    // The list is long: its number and a digest of it.
    mine.emplace_back("sizes of " + to_text(state->family), joined(state->sizes, ","));
    mine.emplace_back("candidates of " + to_text(state->family),
                      fmt::format("{} ({})", state->space.size(), sha256_hex(names).substr(0, 16)));
  }
  require_equal(group.bootstrap(), "tuning", mine);
}

}  // namespace arbiter::tuning
