#include "conformance/case_list.hpp"

namespace arbiter::tuning {

std::vector<ConformanceCase> conformance_cases(const Group& group, const ConformanceOptions& options) {
  CaseList list(group, options);
  add_plain_cases(list);
  add_shared_input_cases(list);
  add_token_cases(list);
  add_hidden_size_cases(list);
  add_fusion_cases(list);
  add_group_size_cases(list);
  add_sentinel_cases(list);
  add_moe_cases(list);
  add_graph_cases(list);
  add_grid_change_cases(list);
  add_numerics_cases(list);
  add_communicator_cases(list);
  add_cases_of_elsewhere(list);
  return list.take();
}

}  // namespace arbiter::tuning
