#include "ranks/tune_result.hpp"

#include "arbiter/db/json.hpp"
#include "ranks/result_text.hpp"
#include "text/json.hpp"

namespace arbiter::cli {

std::string tune_documents(const Group& group, const TuneResult& result) {
  return join_documents({environment_json(group.environment()), json_text([&](llvm::json::OStream& json) {
                           json.attribute("world", group.size());
                           json.attribute("problems", static_cast<std::int64_t>(result.problems));
                           json.attribute("measured", static_cast<std::int64_t>(result.measured));
                           json.attribute("resumed", static_cast<std::int64_t>(result.resumed));
                           json.attribute("trials", static_cast<std::int64_t>(result.trials));
                           json.attribute("wrong", static_cast<std::int64_t>(result.wrong));
                           json.attribute("failed", static_cast<std::int64_t>(result.failed));
                           json.attribute("pruned", static_cast<std::int64_t>(result.pruned));
                           json.attribute("never_tried", static_cast<std::int64_t>(result.never_tried));
                           json.attribute("model_pruned", static_cast<std::int64_t>(result.model_pruned));
                           json.attribute("model_predictions", static_cast<std::int64_t>(result.model_predictions));
                           write_number(json, "model_worst_ratio", result.model_worst_ratio);
                           json.attribute("model_worst", result.model_worst);
                           json.attribute("model_controls", static_cast<std::int64_t>(result.model_controls));
                           json.attribute("model_regrets", static_cast<std::int64_t>(result.model_regrets));
                           json.attribute("bisected", static_cast<std::int64_t>(result.bisected));
                           json.attribute("measured_again", static_cast<std::int64_t>(result.measured_again));
                           json.attribute("kernels_loaded", static_cast<std::int64_t>(result.kernels_loaded));
                           json.attribute("decisions", static_cast<std::int64_t>(result.decisions.size()));
                           json.attributeArray("undecided", [&] {
                             for (const std::string& why : result.undecided) json.value(llvm::json::fixUTF8(why));
                           });
                           json.attribute("budget_spent", result.budget_spent);
                           json.attribute("cancelled", result.cancelled);
                           write_number(json, "seconds", result.seconds);
                           json.attributeObject("times", [&] {
                             write_number(json, "load", result.times.load);
                             write_number(json, "compile", result.times.compile);
                             write_number(json, "tensors", result.times.tensors);
                             write_number(json, "verify", result.times.verify);
                             write_number(json, "measure", result.times.measure);
                             write_number(json, "record", result.times.record);
                           });
                           json.attributeArray("notes", [&] {
                             for (const std::string& note : result.notes) json.value(llvm::json::fixUTF8(note));
                           });
                         })});
}

TuneRuns tune_runs(const SessionResult& session) {
  TuneRuns runs;
  for (const std::string& result : session.results) {
    const std::vector<std::string> documents = split_documents(result);
    if (documents.size() != 2) continue;
    if (runs.environment.empty()) runs.environment = documents[0];
    const llvm::json::Object run = parse_document(documents[1]);
    runs.cancelled = runs.cancelled || run.getBoolean("cancelled").value_or(false);
    runs.decisions += run.getInteger("decisions").value_or(0);
    if (const llvm::json::Array* list = run.getArray("undecided")) {
      for (const llvm::json::Value& why : *list) runs.undecided.push_back(why.getAsString().value_or("").str());
    }
    runs.documents.push_back(documents[1]);
  }
  return runs;
}

}  // namespace arbiter::cli
