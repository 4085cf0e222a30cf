// Contents as JSON lines.
#include <ostream>

#include "arbiter/db/json_fields.hpp"
#include "records/contents.hpp"
#include "records/digest.hpp"

namespace arbiter {
namespace {

using llvm::json::OStream;

template <typename Write>
void line(std::ostream& out, const char* type, Write&& write) {
  std::string result;
  llvm::raw_string_ostream stream(result);
  {
    OStream json(stream);
    json.object([&] {
      json.attribute("type", type);
      write(json);
    });
  }
  stream.flush();
  out << result << '\n';
}

template <typename Value>
void write_if_recorded(OStream& json, const char* name, Value value) {
  if (is_recorded(value)) json.attribute(name, value);
}

void write(OStream& json, const StoredRun& stored) {
  write_text(json, "id", stored.run.id);
  write_text(json, "environment", stored.environment);
  write_fields(json, stored.run);
}

void write(OStream& json, const StoredTrial& trial) {
  write_text(json, "environment", trial.environment);
  write_text(json, "problem", trial.problem);
  write_text(json, "candidate", trial.candidate);
  write_text(json, "run", trial.run);
  json.attribute("sequence", trial.sequence);
  write_text(json, "status", to_string(trial.status));
  write_text(json, "reason", trial.reason);
  json.attribute("calls_per_sample", trial.calls_per_sample);
  json.attribute("blocks", trial.blocks);
  json.attributeArray("samples_us", [&] {
    for (const double us : trial.samples_us) json.rawValue(db::exact_text(us));
  });
  for_each_field(trial.use, [&](const char* name, int value) { write_if_recorded(json, name, value); });
}

void write(OStream& json, const Decision& decision) {
  write_fields(json, decision);
  write_text(json, "candidate", decision.candidate.key());
  write_exact_number(json, "median_us", decision.median_us);
  if (decision.runner_up) {
    write_text(json, "runner_up", decision.runner_up->key());
  } else {
    json.attribute("runner_up", nullptr);
  }
  write_exact_number(json, "runner_up_median_us", decision.runner_up_median_us);
  for_each_later_field(decision, [&](const char* name, auto value) { write_if_recorded(json, name, value); });
}

void write(OStream& json, const NcclChoice& choice) {
  json.attribute("world", choice.world);
  json.attribute("bytes_min", choice.bytes_min);
  json.attribute("bytes_max", choice.bytes_max);
  write_text(json, "candidate", choice.candidate.key());
  write_exact_number(json, "median_us", choice.median_us);
  if (choice.forced) {
    write_text(json, "forced", choice.forced->key());
  } else {
    json.attribute("forced", nullptr);
  }
  write_exact_number(json, "forced_median_us", choice.forced_median_us);
}

template <typename Record>
void lines(std::ostream& out, const char* type, const std::map<std::string, Record>& records) {
  for (const auto& [key, record] : records) {
    line(out, type, [&, &k = key, &r = record](OStream& json) {
      json.attribute("key", k);
      if constexpr (std::is_same_v<Record, StoredTrial>) {
        write(json, r);
      } else {
        write_fields(json, r);
      }
    });
  }
}

}  // namespace

void write_jsonl(std::ostream& out, const Contents& contents) {
  std::size_t decisions = 0;
  for (const auto& [key, list] : contents.decisions) decisions += list.size();
  std::size_t nccl_choices = 0;
  for (const auto& [key, list] : contents.nccl) nccl_choices += list.size();
  line(out, "header", [&](OStream& json) {
    json.attribute("schema", jsonl_schema_version);
    const auto count = [&](const char* name, std::size_t value) { write_field(json, name, value); };
    count("environments", contents.environments.size());
    count("runs", contents.runs.size());
    count("problems", contents.problems.size());
    count("candidates", contents.candidates.size());
    count("trials", contents.trials.size());
    count("decisions", decisions);
    count("nccl_choices", nccl_choices);
  });
  for (const auto& [key, environment] : contents.environments) {
    line(out, "environment", [&e = environment](OStream& json) { write_environment_fields(json, e); });
  }
  for (const auto& [id, run] : contents.runs) {
    line(out, "run", [&r = run](OStream& json) { write(json, r); });
  }
  lines(out, "problem", contents.problems);
  lines(out, "candidate", contents.candidates);
  lines(out, "trial", contents.trials);
  for (const auto& [key, list] : contents.decisions) {
    for (const Decision& decision : list) {
      line(out, "decision", [&, &k = key](OStream& json) {
        json.attribute("key", db::decision_key(k, decision));
        json.attribute("environment", k);
        write(json, decision);
      });
    }
  }
  for (const auto& [key, list] : contents.nccl) {
    for (const NcclChoice& choice : list) {
      line(out, "nccl_choice", [&, &k = key](OStream& json) {
        json.attribute("key", db::nccl_choice_key(k, choice));
        json.attribute("environment", k);
        write(json, choice);
      });
    }
  }
}

}  // namespace arbiter
