#include "tune/agreement.hpp"

#include <fmt/format.h>

#include <string>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/runtime/family.hpp"

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

void require_agreement(Group& group, const TuneOptions& options, std::span<const std::unique_ptr<FamilyState>> states) {
  // What is compared, and its name in the message.
  std::vector<std::pair<std::string, std::string>> parts{{"options", text_of(options)}};
  std::string families;
  for (const auto& state : states) families += to_text(state->family) + "\n";
  parts.emplace_back("problems", families);
  for (const auto& state : states) {
    std::string names;
    for (const std::int64_t tokens : state->sizes) names += fmt::format("{} ", tokens);
    for (std::size_t i = 0; i < state->space.size(); ++i) names += "\n" + state->space.name(i);
    parts.emplace_back("candidates of " + to_text(state->family), names);
  }
  std::string mine;
  for (const auto& [name, text] : parts) mine += sha256_hex(text) + name + "\n";
  const std::vector<std::string> all = group.bootstrap().allgather(mine);
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all.front()) continue;
    const auto line = [&](std::size_t of, std::size_t number) {
      std::size_t at = 0;
      while (number-- > 0 && at != std::string::npos) at = all[of].find('\n', at) + 1;
      return all[of].substr(at, all[of].find('\n', at) - at);
    };
    std::string what = "problems";
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (line(0, i) == line(rank, i)) continue;
      what = parts[i].first;
      break;
    }
    throw Disagreement(
        fmt::format("rank {} has other {} than rank 0; every rank must tune the same problems with the same options on "
                    "the same kind of device",
                    rank, what));
  }
}

}  // namespace arbiter::tuning
