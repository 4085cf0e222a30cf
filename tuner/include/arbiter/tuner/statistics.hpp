// Statistics over the samples of one trial. A sample is the slowest rank of one replay, in microseconds per call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace arbiter {

struct Summary {
  double median_us = 0;
  double ci_low_us = 0;  ///< 95% bootstrap confidence interval of the median
  double ci_high_us = 0;
  std::size_t samples = 0;
  bool bimodal = false;  ///< flagged, never trimmed
  bool operator==(const Summary&) const = default;
};

/// Middle value, or the mean of the two middle ones. Throws InvalidArgument for no samples.
double median(std::span<const double> samples);

/// Percentile bootstrap of the median: resample with replacement, take the 2.5% and 97.5% quantiles of the resampled
/// medians. The same samples and seed give the same interval everywhere. Fewer than 4 samples carry no information on
/// their spread beyond their range, so the interval is [min, max] then.
/// Throws InvalidArgument for no samples.
Summary summarise(std::span<const double> samples, std::uint64_t seed = 1, int resamples = 1000);

/// Do the samples fall into two groups? They are split in two at the cut that leaves the least variance within the
/// groups (the optimal one-dimensional 2-means). Bimodal: each group has at least a fifth of at least 8 samples, the
/// gap between the groups exceeds 3% of the median, and the distance of the means exceeds 5 times the root mean square
/// of the two deviations (2.7 for one normal distribution, 3.5 for a uniform one).
bool is_bimodal(std::span<const double> samples);

}  // namespace arbiter
