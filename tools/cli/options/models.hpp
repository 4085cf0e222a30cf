// Models that people tune for, by name: what their layers ask of an allreduce. The list is
// tools/cli/presets/models.json.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arbiter/vocabulary.hpp"
#include "options/options.hpp"

namespace arbiter::cli {

struct ModelPreset {
  std::string name;     ///< "llama-70b"
  std::string summary;  ///< "Llama 3 70B"
  int hidden = 0;       ///< elements of a row
  std::vector<std::string> patterns;
  std::vector<Dtype> dtypes;
  std::int64_t max_tokens = 0;  ///< of one step, prefill in pieces included
};

/// Throws Error if the built-in list is damaged.
const std::vector<ModelPreset>& model_presets();

/// Throws UsageError naming the nearest.
const ModelPreset& find_model(const std::string& name);

/// Declares --model.
void declare_model(Options& options);

/// Several models at once: every pattern and hidden size that one of them has. Empty members without --model.
ModelPreset read_models(const Options& options, std::vector<int>& hiddens);

}  // namespace arbiter::cli
