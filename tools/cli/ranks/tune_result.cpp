#include "ranks/tune_result.hpp"

#include "arbiter/db/json.hpp"
#include "ranks/result_text.hpp"
#include "text/json.hpp"

namespace arbiter::cli {

std::string tune_documents(const Group& group, const TuneResult& result) {
  return join_documents({environment_json(group.environment()), json_text([&](llvm::json::OStream& json) {
                           json.attribute("world", group.size());
                           write_field(json, "problems", result.problems);
                           write_field(json, "measured", result.measured);
                           write_field(json, "resumed", result.resumed);
                           write_field(json, "trials", result.trials);
                           write_field(json, "wrong", result.wrong);
                           write_field(json, "failed", result.failed);
                           write_field(json, "pruned", result.pruned);
                           write_field(json, "never_tried", result.never_tried);
                           write_field(json, "model_pruned", result.model_pruned);
                           write_field(json, "model_predictions", result.model_predictions);
                           write_number(json, "model_worst_ratio", result.model_worst_ratio);
                           json.attribute("model_worst", result.model_worst);
                           write_field(json, "model_controls", result.model_controls);
                           write_field(json, "model_regrets", result.model_regrets);
                           write_field(json, "bisected", result.bisected);
                           write_field(json, "measured_again", result.measured_again);
                           write_field(json, "kernels_loaded", result.kernels_loaded);
                           write_field(json, "decisions", result.decisions.size());
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
