// A database as a tune of a GPU host would leave it, with times from a formula: made for tests, measured nowhere.
#pragma once

#include <string>
#include <vector>

namespace arbiter::testing {

struct ExampleShape {
  std::vector<std::string> patterns{"allreduce", "allreduce_residual_rmsnorm"};
  std::vector<int> worlds{2, 4};
  std::vector<int> hiddens{4096, 8192};
  std::vector<long> tokens{1, 4, 16, 64, 256, 1024, 4096};
  int samples = 12;
  std::string gpu_name = "Example GPU";
  std::string run = "e0a1b2c3-0000-4000-8000-000000000001";
  bool dropped = false;  ///< clocks and power, during the run
};

/// Several one-shot and two-shot candidates, NCCL, unfused ones for fused patterns, and at every size one candidate
/// each that was wrong, failed and was pruned. Small messages are won by one-shot, large ones by NCCL. Adds to what is
/// in `file`; decides as `arbiter merge` does.
void make_example_database(const std::string& file, const ExampleShape& shape = {});

}  // namespace arbiter::testing
