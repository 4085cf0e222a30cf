#include "arbiter/tuner/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "arbiter/error.hpp"
#include "oracle/random.hpp"

namespace arbiter {
using tuning::Random;

namespace {

/// Median of a vector that may be reordered.
double median_of(std::vector<double>& values) {
  const std::size_t half = values.size() / 2;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(half);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  const double below = *std::max_element(values.begin(), middle);
  return (below + *middle) / 2;
}

double quantile(const std::vector<double>& sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto index = static_cast<std::size_t>(position);
  if (index + 1 >= sorted.size()) return sorted.back();
  const double fraction = position - static_cast<double>(index);
  return sorted[index] + fraction * (sorted[index + 1] - sorted[index]);
}

void require_samples(std::span<const double> samples) {
  if (samples.empty()) throw InvalidArgument("statistics of no samples: expected at least one sample");
}

}  // namespace

double median(std::span<const double> samples) {
  require_samples(samples);
  std::vector<double> values(samples.begin(), samples.end());
  return median_of(values);
}

Summary summarise(std::span<const double> samples, std::uint64_t seed, int resamples) {
  require_samples(samples);
  Summary summary;
  summary.samples = samples.size();
  summary.median_us = median(samples);
  summary.bimodal = is_bimodal(samples);
  if (samples.size() < 4) {
    const auto [low, high] = std::minmax_element(samples.begin(), samples.end());
    summary.ci_low_us = *low;
    summary.ci_high_us = *high;
    return summary;
  }
  Random random(seed);
  std::vector<double> medians(static_cast<std::size_t>(std::max(resamples, 100)));
  std::vector<double> drawn(samples.size());
  for (double& value : medians) {
    for (double& sample : drawn) sample = samples[random.below(samples.size())];
    value = median_of(drawn);
  }
  std::sort(medians.begin(), medians.end());
  summary.ci_low_us = quantile(medians, 0.025);
  summary.ci_high_us = quantile(medians, 0.975);
  return summary;
}

bool is_bimodal(std::span<const double> samples) {
  const std::size_t count = samples.size();
  if (count < 8) return false;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> sum(count + 1, 0.0), square(count + 1, 0.0);
  // Centred, so that the difference of squares below does not cancel.
  const double centre = sorted[count / 2];
  for (std::size_t i = 0; i < count; ++i) {
    const double value = sorted[i] - centre;
    sum[i + 1] = sum[i] + value;
    square[i + 1] = square[i] + value * value;
  }
  const auto scatter = [&](std::size_t begin, std::size_t end) {
    const double n = static_cast<double>(end - begin), s = sum[end] - sum[begin];
    return std::max(0.0, square[end] - square[begin] - s * s / n);
  };
  std::size_t cut = 1;
  for (std::size_t i = 2; i < count; ++i) {
    if (scatter(0, i) + scatter(i, count) < scatter(0, cut) + scatter(cut, count)) cut = i;
  }
  const std::size_t smaller = std::min(cut, count - cut);
  if (smaller * 5 < count) return false;
  if (sorted[cut] - sorted[cut - 1] <= 0.03 * std::fabs(median(samples))) return false;
  const double low_count = static_cast<double>(cut), high_count = static_cast<double>(count - cut);
  const double distance = (sum[count] - sum[cut]) / high_count - sum[cut] / low_count;
  const double deviation = std::sqrt((scatter(0, cut) / low_count + scatter(cut, count) / high_count) / 2);
  return distance > 5 * deviation;
}

}  // namespace arbiter
