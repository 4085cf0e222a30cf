#include "names.hpp"

#include "arbiter/generator/catalogue.hpp"
#include "variant_options.hpp"

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

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const EpilogueEntry& epilogue : Catalogue::builtin().epilogues()) names.push_back(epilogue.pattern);
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
