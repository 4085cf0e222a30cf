// arbiter verify --link-seeds: the exchange algorithms under the link model of the CPU device.
#pragma once

#include "options/options.hpp"

namespace arbiter::cli {

/// Runs the seeds, prints what happened and returns the exit status. Throws UsageError for options that do not fit.
int run_link_seeds(const Options& options);

}  // namespace arbiter::cli
