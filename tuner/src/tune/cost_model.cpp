#include "tune/cost_model.hpp"

#include <algorithm>
#include <cmath>

namespace arbiter::tuning {
namespace {

constexpr std::size_t points_of_a_line = 4;
constexpr double farthest = 8;        // times larger or smaller than the nearest measured size
constexpr double worth_timing = 1.3;  // times the best, if predictions were exact
constexpr double first_guess = 0.4;   // assumed miss while there are few to go by
constexpr std::size_t few = 10;

double distance(double a, double b) { return std::fabs(std::log(a / b)); }

/// The measured sizes nearest to `bytes`; empty if none is near enough.
std::vector<CostPoint> nearest(const std::map<double, double>& measured, double bytes) {
  std::vector<CostPoint> points;
  for (const auto& [at, us] : measured) points.push_back({at, us});
  std::sort(points.begin(), points.end(), [&](const CostPoint& a, const CostPoint& b) {
    return std::make_pair(distance(a.bytes, bytes), a.bytes) < std::make_pair(distance(b.bytes, bytes), b.bytes);
  });
  if (points.empty() || distance(points.front().bytes, bytes) > std::log(farthest)) return {};
  if (points.size() > points_of_a_line) points.resize(points_of_a_line);
  return points;
}

}  // namespace

CostLine fit_cost(std::span<const CostPoint> points) {
  // Weights 1/us^2 make the errors relative. With one weight per point, the usual normal equations.
  double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
  for (const CostPoint& point : points) {
    const double weight = 1 / std::max(point.us * point.us, 1e-18);
    w += weight;
    wx += weight * point.bytes;
    wy += weight * point.us;
    wxx += weight * point.bytes * point.bytes;
    wxy += weight * point.bytes * point.us;
  }
  const double determinant = w * wxx - wx * wx;
  CostLine line{wy / w, 0};
  if (determinant <= 1e-12 * w * wxx) return line;  // all of one size
  const double slope = (w * wxy - wx * wy) / determinant;
  const double latency = (wy - slope * wx) / w;
  if (slope < 0) return line;
  if (latency < 0) return {0, wxy / wxx};
  return {latency, slope};
}

std::optional<CostMiss> CostModel::observe(double bytes, std::span<const CostObservation> observations) {
  std::optional<CostMiss> worst;
  const auto usable = [](double us) { return std::isfinite(us) && us > 0; };
  for (const auto& [candidate, group, us] : observations) {
    const auto own = own_.find(candidate);
    if (!usable(us) || (own != own_.end() && own->second.count(bytes) != 0)) continue;
    const std::optional<double> predicted = predict(candidate, group, bytes);
    if (!predicted) continue;
    const CostMiss miss{candidate, us / *predicted};
    const double size = std::fabs(std::log(miss.ratio));
    misses_.insert(std::upper_bound(misses_.begin(), misses_.end(), size), size);
    if (!worst || size > std::fabs(std::log(worst->ratio))) worst = miss;
  }
  for (const auto& [candidate, group, us] : observations) {
    if (!usable(us)) continue;
    own_[candidate][bytes] = us;
    double& fastest = group_[group].emplace(bytes, us).first->second;
    fastest = std::min(fastest, us);
  }
  return worst;
}

std::optional<double> CostModel::predict(std::size_t candidate, std::size_t group, double bytes) const {
  const auto of_group = group_.find(group);
  if (of_group == group_.end()) return std::nullopt;
  const std::vector<CostPoint> shape = nearest(of_group->second, bytes);
  const auto own = own_.find(candidate);
  const std::vector<CostPoint> mine = own == own_.end() ? std::vector<CostPoint>{} : nearest(own->second, bytes);
  if (mine.size() >= 2) return fit_cost(mine).at(bytes);
  if (shape.size() < 2) return std::nullopt;
  const CostLine line = fit_cost(shape);
  if (mine.empty()) return line.at(bytes);
  return mine.front().us * line.at(bytes) / line.at(mine.front().bytes);
}

double CostModel::margin() const {
  double miss = first_guess;
  if (misses_.size() >= few) miss = misses_[misses_.size() * 9 / 10];
  return worth_timing * std::exp(miss);
}

bool CostModel::hopeless(std::size_t candidate, std::size_t group, double bytes, double best_us) const {
  const std::optional<double> predicted = predict(candidate, group, bytes);
  return predicted && *predicted > margin() * best_us;
}

}  // namespace arbiter::tuning
