// The compressed lists that Slurm puts into the environment.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace arbiter {

/// "gpu[03-07,09],login1" -> "gpu03"; empty for an empty or broken list.
std::string slurm_first_node(std::string_view list);

/// Tasks on the node with index `node` in "4(x2),3": 4, 4, 3. Empty when the list does not say.
std::optional<int> slurm_tasks_of_node(std::string_view list, int node);

}  // namespace arbiter
