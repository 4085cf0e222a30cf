#include "arbiter/tuner/nccl_choices.hpp"

#include <map>
#include <optional>
#include <set>
#include <string>

#include "arbiter/db/nccl_configuration.hpp"
#include "oracle/seed.hpp"

namespace arbiter {
namespace {

struct Pooled {
  Candidate candidate;
  std::vector<double> samples_us;
};

/// All samples of one message size, by candidate.
struct Size {
  std::uint64_t seed = 0;
  std::map<std::string, Pooled> candidates;
};

using Sizes = std::map<std::int64_t, Size>;  // by bytes

/// By number of ranks and mode.
std::map<std::pair<int, Mode>, Sizes> measured_sizes(const WorkDatabase& database, const Environment& environment) {
  std::map<std::pair<int, Mode>, Sizes> all;
  for (const Problem& problem : database.problems(environment)) {
    if (problem.pattern != "allreduce" || problem.in_place || problem.world < 2) continue;
    for (const Trial& latest : database.trials(environment, problem)) {
      if (!nccl_configuration(latest.candidate)) continue;
      std::optional<Trial> trial = latest;
      // As for decisions: one that has not ended says nothing yet.
      if (trial->status == TrialStatus::running) trial = database.trial(environment, problem, latest.candidate);
      if (!trial || trial->status != TrialStatus::done) continue;
      Size& size = all[{problem.world, problem.mode}][problem.bytes()];
      if (size.candidates.empty()) size.seed = tuning::seed_of(problem, 0);
      Pooled& pooled = size.candidates[trial->candidate.name];
      pooled.candidate = trial->candidate;
      pooled.samples_us.insert(pooled.samples_us.end(), trial->samples_us.begin(), trial->samples_us.end());
    }
  }
  return all;
}

using Incumbent = std::optional<Candidate>;

const Measured* best(const std::vector<Measured>& measured, const Incumbent& incumbent, const ChoiceRules& rules) {
  const std::optional<Choice> choice = choose(measured, incumbent, rules);
  return choice ? &measured[choice->index] : nullptr;
}

/// Follows the sizes upwards and cuts where the choice changes.
class Chooser {
 public:
  Chooser(int world, const ChoiceRules& rules) : world_(world), rules_(rules) {}

  void add(std::int64_t bytes, const Size& size) {
    std::vector<Measured> all, complete;
    Incumbent own;
    for (const auto& [name, pooled] : size.candidates) {
      const Measured measured{pooled.candidate, 0, summarise(pooled.samples_us, size.seed)};
      const NcclConfiguration configuration = *nccl_configuration(pooled.candidate);
      if (!configuration.forces()) own = pooled.candidate;
      if (configuration.complete()) complete.push_back(measured);
      all.push_back(measured);
    }
    const Measured* winner = best(all, own, rules_);
    if (!own || winner->candidate != *own) {
      winner = best(all, choices_.empty() ? Incumbent() : choices_.back().candidate, rules_);
    }
    const Measured* forced = best(complete, choices_.empty() ? Incumbent() : choices_.back().forced, rules_);
    if (nccl_configuration(winner->candidate)->complete()) forced = winner;
    NcclChoice choice;
    choice.world = world_;
    choice.candidate = winner->candidate;
    choice.median_us = winner->summary.median_us;
    if (forced != nullptr) {
      choice.forced = forced->candidate;
      choice.forced_median_us = forced->summary.median_us;
    }
    const bool same =
        !choices_.empty() && choices_.back().candidate == choice.candidate && choices_.back().forced == choice.forced;
    if (same) {
      choice.bytes_min = choices_.back().bytes_min;
      choices_.pop_back();
    } else if (!choices_.empty()) {
      choices_.back().bytes_max = boundary(choices_.back().bytes_max, bytes);
      choice.bytes_min = choices_.back().bytes_max + 1;
    } else {
      choice.bytes_min = 1;
    }
    choice.bytes_max = bytes;
    choices_.push_back(std::move(choice));
  }

  const std::vector<NcclChoice>& choices() const noexcept { return choices_; }

 private:
  int world_;
  const ChoiceRules& rules_;
  std::vector<NcclChoice> choices_;
};

}  // namespace

std::vector<NcclChoice> nccl_choices(const WorkDatabase& database, const Environment& environment,
                                     const ChoiceRules& rules) {
  const auto measured = measured_sizes(database, environment);
  std::set<int> worlds;
  for (const auto& [key, sizes] : measured) worlds.insert(key.first);
  std::vector<NcclChoice> result;
  for (const int world : worlds) {
    auto sizes = measured.find({world, Mode::graph});
    if (sizes == measured.end()) sizes = measured.find({world, Mode::eager});
    Chooser chooser(world, rules);
    for (const auto& [bytes, size] : sizes->second) chooser.add(bytes, size);
    result.insert(result.end(), chooser.choices().begin(), chooser.choices().end());
  }
  return result;
}

}  // namespace arbiter
