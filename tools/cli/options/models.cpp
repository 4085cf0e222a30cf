#include "options/models.hpp"

#include <llvm/Support/JSON.h>

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "arbiter/error.hpp"

namespace arbiter::embedded {
extern const char models_json[];
extern const std::size_t models_json_size;
}  // namespace arbiter::embedded

namespace arbiter::cli {
namespace {

/// What every layer of a dense model ends in, and how a layer of experts ends.
constexpr std::string_view dense_patterns[] = {"allreduce", "allreduce_residual_rmsnorm"};
constexpr std::string_view moe_pattern = "moe_finalize_allreduce_residual_rmsnorm";

std::vector<ModelPreset> parse_presets() {
  auto parsed = llvm::json::parse(llvm::StringRef(embedded::models_json, embedded::models_json_size));
  if (!parsed) throw Error("the list of models is damaged: " + llvm::toString(parsed.takeError()));
  const llvm::json::Object* document = parsed->getAsObject();
  const llvm::json::Array* list = document == nullptr ? nullptr : document->getArray("models");
  if (list == nullptr) throw Error("the list of models is damaged: no 'models'");
  std::vector<ModelPreset> presets;
  for (const llvm::json::Value& value : *list) {
    const llvm::json::Object* model = value.getAsObject();
    const llvm::json::Array* dtypes = model == nullptr ? nullptr : model->getArray("dtypes");
    if (dtypes == nullptr) throw Error("the list of models is damaged: an entry without dtypes");
    ModelPreset preset;
    preset.name = model->getString("name").value_or("").str();
    preset.summary = model->getString("summary").value_or("").str();
    preset.hidden = static_cast<int>(model->getInteger("hidden").value_or(0));
    preset.max_tokens = model->getInteger("max_tokens").value_or(0);
    preset.patterns.assign(std::begin(dense_patterns), std::end(dense_patterns));
    if (model->getBoolean("moe").value_or(false)) preset.patterns.emplace_back(moe_pattern);
    for (const llvm::json::Value& dtype : *dtypes) {
      preset.dtypes.push_back(parse_dtype(dtype.getAsString().value_or("").str()));
    }
    if (preset.name.empty() || preset.hidden <= 0 || preset.max_tokens <= 0) {
      throw Error("the list of models is damaged at '" + preset.name + "'");
    }
    presets.push_back(std::move(preset));
  }
  return presets;
}

template <typename Value>
void add_once(std::vector<Value>& list, const Value& value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

}  // namespace

const std::vector<ModelPreset>& model_presets() {
  static const std::vector<ModelPreset> presets = parse_presets();
  return presets;
}

const ModelPreset& find_model(const std::string& name) {
  std::vector<std::string_view> names;
  for (const ModelPreset& preset : model_presets()) {
    if (preset.name == name) return preset;
    names.push_back(preset.name);
  }
  throw UsageError(unknown_name_message("model", name, names) + ". Of any other, say --hidden and --pattern");
}

void declare_model(Options& options) {
  std::vector<std::string> names;
  std::string lines = "what these models ask for: hidden size, patterns, dtype, largest step;\n";
  std::size_t used = 0;
  for (const ModelPreset& preset : model_presets()) {
    names.push_back(preset.name);
    const bool fits = used + preset.name.size() <= 70;
    if (used > 0) lines += fits ? ", " : ",\n";
    lines += preset.name;
    used = (fits ? used : 0) + preset.name.size() + 2;
  }
  options.list("model", "NAME", lines).choices(names);
}

ModelPreset read_models(const Options& options, std::vector<int>& hiddens) {
  ModelPreset all;
  for (const std::string& name : options.texts("model")) {
    const ModelPreset& preset = find_model(name);
    add_once(hiddens, preset.hidden);
    for (const std::string& pattern : preset.patterns) add_once(all.patterns, pattern);
    for (const Dtype dtype : preset.dtypes) add_once(all.dtypes, dtype);
    all.max_tokens = std::max(all.max_tokens, preset.max_tokens);
  }
  std::sort(hiddens.begin(), hiddens.end());
  return all;
}

}  // namespace arbiter::cli
