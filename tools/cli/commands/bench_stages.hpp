// arbiter bench --stages: what each stage behind the sum costs, as a kernel of its own on one device.
#pragma once

#include "options/options.hpp"
#include "options/problem.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {

/// Times the stand-alone kernels of every pattern in `problems` on the first device of `session` and prints them beside
/// the first pattern. Every variant is verified before it is timed; the fastest is shown.
int run_stages(const Options& options, const SessionOptions& session, const Problems& problems);

}  // namespace arbiter::cli
