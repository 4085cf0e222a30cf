// A report that also keeps the least time of each benchmark: what the program takes, whatever else the machine does.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace arbiter::bench {

/// Remembers the least time of each benchmark, and prints as usual.
class Least final : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      const double time = run.GetAdjustedCPUTime();
      const auto [known, is_new] = least.emplace(run.run_name.function_name, time);
      if (!is_new) known->second = std::min(known->second, time);
    }
    ConsoleReporter::ReportRuns(runs);
  }
  std::map<std::string, double> least;
};

}  // namespace arbiter::bench
