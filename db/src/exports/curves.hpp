// The times behind the decisions of one environment: what tables of engines are fitted to.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/db/export.hpp"

namespace arbiter::db {

struct Timed {
  Candidate candidate;
  double median_us = 0;
};

/// All candidates with a known time on one problem.
struct ProblemTimes {
  Problem problem;
  std::vector<Timed> times;
};

/// From the trials: the latest of each candidate, if it is done. Without trials (a snapshot), from the decisions:
/// winner and runner-up at the largest size of each interval. Calls in place are left out. Ordered.
std::vector<ProblemTimes> problem_times(const Contents&, const std::string& environment);

/// The fastest of the candidates that `belongs` admits.
std::optional<double> fastest(const ProblemTimes&, const std::function<bool(const Candidate&)>& belongs);

/// A message size and the time of each class of candidates, in the order of the bands.
struct BandPoint {
  std::int64_t bytes = 0;
  std::vector<std::optional<double>> class_us;
};

struct BandFit {
  std::vector<std::int64_t> largest;  ///< bytes up to which each class but the last is used (inclusive); 0: never
  Loss loss;
};

/// One band for each class, in order, with the least mean loss over the points, avoiding what was not measured.
BandFit fit_bands(std::vector<BandPoint>, std::size_t classes, std::string what);

/// Adds one point: `chosen` was taken where `best` was possible.
void add_loss(Loss&, const std::optional<double>& chosen, double best);
/// After the last one.
void finish_loss(Loss&);

}  // namespace arbiter::db
