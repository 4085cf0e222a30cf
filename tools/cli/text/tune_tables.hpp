// What a tune would do, and what it did.
#pragma once

#include <string>

#include "ranks/tune_plan.hpp"
#include "ranks/tune_result.hpp"

namespace arbiter::cli {

void print_tune_plan(const TunePlan&);
void print_tune_plan_json(const TunePlan&);

/// `database`: where the decisions were stored.
void print_tune_runs(const TuneRuns&, const std::string& database);

}  // namespace arbiter::cli
