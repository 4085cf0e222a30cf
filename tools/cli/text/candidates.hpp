// How tables name candidates: short where that is enough, and parameters only where they differ.
#pragma once

#include <string>
#include <vector>

#include "text/table.hpp"

namespace arbiter::cli {

/// Names of candidate families ("trtllm/oneshot_push", "nccl/classic+epilogue") with a brief form: "nccl" for NCCL
/// itself, and without the backend where the algorithm's name alone tells it from all others of the list.
std::vector<Cell> family_cells(const std::vector<std::string>& families);

/// The parameters of several candidates, side by side.
struct ParameterColumn {
  std::string title;               ///< "threads" if only that differs, else "params"; empty if nothing differs
  std::string legend;              ///< one sentence: what is in the column, and what all have; may be empty
  std::vector<std::string> cells;  ///< "512" or "128/8": the values that differ, "-" where there is none
};

/// `names` as databases hold them: "trtllm/oneshot_push:threads=256,vectors=1,...". A "-" or an empty name has none.
ParameterColumn parameter_column(const std::vector<std::string>& names);

/// "2.66x", how many times as fast as NCCL; "-" if one of the times is not known.
std::string ratio_text(double nccl_us, double us);

/// "1.2-3.7x over NCCL" of ratios, "" of none.
std::string ratio_range(const std::vector<double>& ratios);

}  // namespace arbiter::cli
