#include "exports/curves.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "arbiter/db/fields.hpp"

namespace arbiter::db {
namespace {

double median(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const std::size_t middle = samples.size() / 2;
  return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

/// No engine's table can say that it wants 8-bit values on the links.
bool is_lossy(const Candidate& candidate) { return candidate.numerics == Numerics::fp8_transport; }

std::vector<ProblemTimes> from_trials(const Contents& contents, const std::string& environment) {
  // Latest last, as the database orders them.
  std::map<std::pair<std::string, std::string>, const StoredTrial*> latest;
  const auto order = [&](const StoredTrial& trial) {
    const Run& run = contents.runs.at(trial.run).run;
    return std::tie(trial.sequence, run.started, run.id);
  };
  for (const auto& [key, trial] : contents.trials) {
    if (trial.environment != environment || trial.status == TrialStatus::running) continue;
    const StoredTrial*& here = latest[{trial.problem, trial.candidate}];
    if (here == nullptr || order(*here) < order(trial)) here = &trial;
  }
  std::map<std::string, ProblemTimes> problems;
  for (const auto& [keys, trial] : latest) {
    const Problem& problem = contents.problems.at(trial->problem);
    if (trial->status != TrialStatus::done || problem.in_place) continue;
    ProblemTimes& times = problems[trial->problem];
    times.problem = problem;
    const Candidate& candidate = contents.candidates.at(trial->candidate);
    if (!is_lossy(candidate)) times.times.push_back({candidate, median(trial->samples_us)});
  }
  std::vector<ProblemTimes> result;
  for (auto& [key, times] : problems) result.push_back(std::move(times));
  return result;
}

std::vector<ProblemTimes> from_decisions(const Contents& contents, const std::string& environment) {
  std::vector<ProblemTimes> result;
  const auto found = contents.decisions.find(environment);
  if (found == contents.decisions.end()) return result;
  for (const Decision& decision : found->second) {
    ProblemTimes times;
    times.problem = {decision.pattern, decision.dtype, decision.hidden, timed_tokens(decision), decision.world,
                     decision.mode,    false};
    if (!is_lossy(decision.candidate)) times.times.push_back({decision.candidate, decision.median_us});
    if (decision.runner_up) times.times.push_back({*decision.runner_up, decision.runner_up_median_us});
    result.push_back(std::move(times));
  }
  return result;
}

}  // namespace

std::vector<ProblemTimes> problem_times(const Contents& contents, const std::string& environment) {
  std::vector<ProblemTimes> result = from_trials(contents, environment);
  if (result.empty()) result = from_decisions(contents, environment);
  std::sort(result.begin(), result.end(), [](const ProblemTimes& a, const ProblemTimes& b) {
    const auto key = [](const Problem& p) { return std::tie(p.mode, p.world, p.dtype, p.pattern, p.hidden, p.tokens); };
    return key(a.problem) < key(b.problem);
  });
  return result;
}

std::optional<double> fastest(const ProblemTimes& times, const std::function<bool(const Candidate&)>& belongs) {
  std::optional<double> best;
  for (const Timed& timed : times.times) {
    if (belongs(timed.candidate) && (!best || timed.median_us < *best)) best = timed.median_us;
  }
  return best;
}

void add_loss(Loss& loss, const std::optional<double>& chosen, double best) {
  ++loss.points;
  if (!chosen) {
    ++loss.unmeasured;
    return;
  }
  const double percent = best > 0 ? 100 * (*chosen - best) / best : 0;
  loss.mean_percent += percent;
  loss.worst_percent = std::max(loss.worst_percent, percent);
}

void finish_loss(Loss& loss) {
  const std::size_t known = loss.points - loss.unmeasured;
  if (known != 0) loss.mean_percent /= static_cast<double>(known);
}

BandFit fit_bands(std::vector<BandPoint> points, std::size_t classes, std::string what) {
  std::erase_if(points, [](const BandPoint& point) {
    return std::none_of(point.class_us.begin(), point.class_us.end(), [](const auto& us) { return us.has_value(); });
  });
  std::stable_sort(points.begin(), points.end(),
                   [](const BandPoint& a, const BandPoint& b) { return a.bytes < b.bytes; });
  std::vector<double> best;
  for (const BandPoint& point : points) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& us : point.class_us) least = us ? std::min(least, *us) : least;
    best.push_back(least);
  }
  // cost[c]: of the sizes so far, when the last of them is in class c. Equal sizes cannot be told apart.
  using Cost = std::pair<std::size_t, double>;  // unmeasured, loss
  std::vector<Cost> cost(classes, Cost{0, 0});
  std::vector<std::vector<std::size_t>> from;  // per distinct size, for each class: the class before
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < points.size();) {
    std::size_t end = i;
    while (end < points.size() && points[end].bytes == points[i].bytes) ++end;
    std::vector<Cost> next(classes);
    std::vector<std::size_t> came(classes);
    for (std::size_t c = 0; c < classes; ++c) {
      std::size_t before = 0;
      for (std::size_t p = 0; p <= c; ++p) {
        if (cost[p] < cost[before]) before = p;
      }
      next[c] = cost[before];
      came[c] = before;
      for (std::size_t j = i; j < end; ++j) {
        const auto& us = points[j].class_us[c];
        if (!us) ++next[c].first;
        if (us && best[j] > 0) next[c].second += (*us - best[j]) / best[j];
      }
    }
    cost = next;
    from.push_back(came);
    sizes.push_back(points[i].bytes);
    i = end;
  }
  BandFit fit;
  fit.loss.what = std::move(what);
  std::vector<std::size_t> chosen(sizes.size());
  auto at = static_cast<std::size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin());
  for (std::size_t i = sizes.size(); i-- > 0;) {
    chosen[i] = at;
    at = from[i][at];
  }
  fit.largest.assign(classes - 1, 0);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    for (std::size_t c = chosen[i]; c + 1 < classes; ++c) fit.largest[c] = sizes[i];
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto where = std::lower_bound(sizes.begin(), sizes.end(), points[i].bytes) - sizes.begin();
    add_loss(fit.loss, points[i].class_us[chosen[static_cast<std::size_t>(where)]], best[i]);
  }
  finish_loss(fit.loss);
  return fit;
}

}  // namespace arbiter::db
