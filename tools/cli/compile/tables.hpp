// What `arbiter compile` prints about the kernels it compiled, on standard output.
#pragma once

#include <vector>

#include "compile/jobs.hpp"

namespace arbiter::cli {

/// The document of --json; `seconds` is how long all of it took.
void print_as_json(const std::vector<CompileOutcome>&, double seconds);

/// A line for each kernel.
void print_each(const std::vector<CompileOutcome>&);

/// A line for each target, algorithm and pattern.
void print_by_algorithm(const std::vector<CompileOutcome>&);

/// How many and how long; the errors of those that failed on standard error.
void print_summary(const std::vector<CompileOutcome>&, double seconds);

}  // namespace arbiter::cli
