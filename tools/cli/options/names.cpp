#include "options/names.hpp"

#include <algorithm>

#include "arbiter/generator/catalogue.hpp"
#include "compile/variant_options.hpp"

namespace arbiter::cli {

std::vector<std::string> dtype_names() {
  std::vector<std::string> names;
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) names.emplace_back(to_string(dtype));
  return names;
}

std::vector<std::string> mode_names() {
  return {std::string(to_string(Mode::graph)), std::string(to_string(Mode::eager))};
}

std::vector<std::string> device_names() { return {"cuda", "cpu"}; }

std::vector<std::string> pattern_names() { return Catalogue::builtin().usual_patterns(); }

std::vector<std::string> backend_names() {
  std::vector<std::string> names;
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    const std::string name(to_string(entry.backend));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const AlgorithmEntry& entry : Catalogue::builtin().algorithms()) {
    if (entry.exchange) names.push_back(std::string(to_string(entry.backend)) + "/" + entry.name);
  }
  return names;
}

std::vector<std::string> target_names() {
  const auto names = known_targets();
  return {names.begin(), names.end()};
}

}  // namespace arbiter::cli
