#include "records/digest.hpp"

#include <llvm/Support/JSON.h>

#include <array>
#include <charconv>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/json_limits.hpp"

namespace arbiter::db {

Digest& Digest::add(std::string_view field, std::string_view value) {
  text_.append(field).append("=").append(std::to_string(value.size())).append(":").append(value).append(";");
  return *this;
}

Digest& Digest::add(std::string_view field, double value) { return add(field, std::string_view(exact_text(value))); }

Digest& Digest::add(std::string_view field, const std::map<std::string, std::string>& values) {
  return add(field, std::string_view(nccl_variables_text(values)));
}

std::string Digest::hex() const { return sha256_hex(text_); }

std::string exact_text(double value) {
  if (value == 0) return "0";  // SQLite does not keep the sign of zero
  std::array<char, 32> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  return {text.data(), end};
}

std::string trial_key(const std::string& environment_key, const std::string& problem_key,
                      const std::string& candidate_key, const std::string& run_id, std::int64_t sequence) {
  return Digest("trial")
      .add("environment", environment_key)
      .add("problem", problem_key)
      .add("candidate", candidate_key)
      .add("run", run_id)
      .add("sequence", sequence)
      .hex();
}

namespace {

/// Digests and keys of what older schemas hold stay as they are.
template <typename Value>
void add_if_recorded(Digest& digest, const char* name, Value value) {
  if (is_recorded(value)) digest.add(name, value);
}

}  // namespace

std::string outcome_digest(TrialStatus status, const std::string& reason, int calls_per_sample, int blocks,
                           const std::vector<double>& samples_us, const KernelUse& use) {
  Digest digest("outcome");
  digest.add("status", to_string(status)).add("reason", reason);
  digest.add("calls_per_sample", calls_per_sample).add("blocks", blocks);
  for (const double us : samples_us) digest.add("us", us);
  for_each_field(use, [&](const char* name, int value) { add_if_recorded(digest, name, value); });
  return digest.hex();
}

std::string run_digest(const std::string& environment_key, const Run& run) {
  return Digest("run").add("environment", environment_key).add("id", run.id).add_fields(run).hex();
}

namespace {

void add_candidate(Digest& digest, std::string_view role, const Candidate& candidate) {
  digest.add("role", role).add_fields(candidate);
}

}  // namespace

std::string decision_key(const std::string& environment_key, const Decision& decision) {
  Digest digest("decision");  // in the order that stored keys have, which is not that of the columns
  digest.add("environment", environment_key)
      .add("pattern", decision.pattern)
      .add("dtype", to_string(decision.dtype))
      .add("hidden", decision.hidden)
      .add("world", decision.world)
      .add("mode", to_string(decision.mode))
      .add("tokens_min", decision.tokens_min)
      .add("tokens_max", decision.tokens_max)
      .add("median_us", decision.median_us);
  add_candidate(digest, "candidate", decision.candidate);
  if (decision.runner_up) {
    add_candidate(digest, "runner_up", *decision.runner_up);
    digest.add("runner_up_median_us", decision.runner_up_median_us);
  }
  for_each_later_field(decision, [&](const char* name, auto value) { add_if_recorded(digest, name, value); });
  return digest.hex();
}

std::string nccl_choice_key(const std::string& environment_key, const NcclChoice& choice) {
  Digest digest("nccl_choice");
  digest.add("environment", environment_key)
      .add("world", choice.world)
      .add("bytes_min", choice.bytes_min)
      .add("bytes_max", choice.bytes_max)
      .add("median_us", choice.median_us);
  add_candidate(digest, "candidate", choice.candidate);
  if (choice.forced) {
    add_candidate(digest, "forced", *choice.forced);
    digest.add("forced_median_us", choice.forced_median_us);
  }
  return digest.hex();
}

std::string nccl_variables_text(const std::map<std::string, std::string>& variables) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream);
  json.object([&] {
    for (const auto& [name, value] : variables) json.attribute(name, value);
  });
  stream.flush();
  return text;
}

std::map<std::string, std::string> parse_nccl_variables(const std::string& text) {
  if (const std::string problem = json_problem(text, {1, std::size_t{1} << 20}); !problem.empty()) {
    throw DatabaseError("column nccl_variables: " + problem + ". The file is damaged or was edited by hand");
  }
  auto parsed = llvm::json::parse(text);
  if (!parsed) {
    throw DatabaseError("column nccl_variables is not JSON (" + llvm::toString(parsed.takeError()) + ")");
  }
  const llvm::json::Object* object = parsed->getAsObject();
  if (object == nullptr) throw DatabaseError("column nccl_variables is not a JSON object");
  std::map<std::string, std::string> variables;
  for (const auto& [name, value] : *object) {
    const auto string = value.getAsString();
    if (!string) throw DatabaseError("column nccl_variables holds a value that is not a string");
    variables.emplace(name.str(), string->str());
  }
  return variables;
}

}  // namespace arbiter::db
