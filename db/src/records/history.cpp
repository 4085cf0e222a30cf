// Where and when was measured what.
#include <algorithm>
#include <tuple>

#include "records/contents.hpp"

namespace arbiter {

std::vector<RunHistory> read_history(const std::filesystem::path& path) {
  const Contents contents = read_contents(path);
  std::map<std::string, RunHistory> runs;
  for (const auto& [id, stored] : contents.runs) {
    runs[id] = {stored.run, contents.environments.at(stored.environment), 0, 0, 0};
  }
  for (const auto& [key, trial] : contents.trials) {
    RunHistory& run = runs.at(trial.run);
    ++run.trials;
    if (trial.status == TrialStatus::done) ++run.done;
    run.samples += trial.samples_us.size();
  }
  std::vector<RunHistory> result;
  for (auto& [id, run] : runs) result.push_back(std::move(run));
  std::sort(result.begin(), result.end(), [](const RunHistory& a, const RunHistory& b) {
    return std::tie(a.run.started, a.run.id) < std::tie(b.run.started, b.run.id);
  });
  return result;
}

}  // namespace arbiter
