#include "tune/wire.hpp"

#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include "arbiter/error.hpp"
#include "arbiter/generator/json_limits.hpp"

namespace arbiter::tuning {
namespace {

using llvm::json::Array;
using llvm::json::Object;
using llvm::json::Value;

std::string text_of(const Value& value) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << value;
  stream.flush();
  return text;
}

std::string copy(std::string_view text) { return std::string(text); }

[[noreturn]] void unreadable() {
  throw Disagreement("a message from rank 0 cannot be read: are all ranks running the same version?");
}

Value json_of(const Candidate& candidate) {
  return Object{{"backend", copy(to_string(candidate.backend))},
                {"algorithm", candidate.algorithm},
                {"name", candidate.name},
                {"numerics", copy(to_string(candidate.numerics))},
                {"source_hash", candidate.source_hash}};
}

std::string string_at(const Object& object, const char* key) {
  const auto value = object.getString(key);
  if (!value) unreadable();
  return value->str();
}

std::int64_t integer_at(const Object& object, const char* key) {
  const auto value = object.getInteger(key);
  if (!value) unreadable();
  return *value;
}

double number_at(const Object& object, const char* key) {
  const auto value = object.getNumber(key);
  if (!value) unreadable();
  return *value;
}

Candidate candidate_from(const Object* object) {
  if (object == nullptr) unreadable();
  Candidate candidate;
  candidate.backend = parse_backend(string_at(*object, "backend"));
  candidate.algorithm = string_at(*object, "algorithm");
  candidate.name = string_at(*object, "name");
  candidate.numerics = parse_numerics(string_at(*object, "numerics"));
  candidate.source_hash = string_at(*object, "source_hash");
  return candidate;
}

/// The elements of a JSON array of objects.
std::vector<Object> objects_from(const std::string& text) {
  // Ranks are believed about what they measured, not about how deep a parser may recurse.
  if (!json_problem(text, {4, std::size_t{1} << 28}).empty()) unreadable();
  llvm::Expected<Value> value = llvm::json::parse(text);
  if (!value) {
    llvm::consumeError(value.takeError());
    unreadable();
  }
  const Array* array = value->getAsArray();
  if (array == nullptr) unreadable();
  std::vector<Object> objects;
  for (const Value& element : *array) {
    const Object* object = element.getAsObject();
    if (object == nullptr) unreadable();
    objects.push_back(*object);
  }
  return objects;
}

}  // namespace

std::string to_text(const std::vector<Trial>& trials) {
  Array array;
  for (const Trial& trial : trials) {
    Array samples;
    for (const double us : trial.samples_us) samples.push_back(us);
    array.push_back(Object{{"candidate", json_of(trial.candidate)},
                           {"status", copy(to_string(trial.status))},
                           {"reason", trial.reason},
                           {"calls", trial.calls_per_sample},
                           {"blocks", trial.blocks},
                           {"samples", std::move(samples)}});
  }
  return text_of(std::move(array));
}

std::vector<Trial> trials_from_text(const std::string& text, const Problem& problem) {
  std::vector<Trial> trials;
  for (const Object& object : objects_from(text)) {
    Trial trial;
    trial.problem = problem;
    trial.candidate = candidate_from(object.getObject("candidate"));
    trial.status = parse_trial_status(string_at(object, "status"));
    trial.reason = string_at(object, "reason");
    trial.calls_per_sample = static_cast<int>(integer_at(object, "calls"));
    trial.blocks = static_cast<int>(integer_at(object, "blocks"));
    const Array* samples = object.getArray("samples");
    if (samples == nullptr) unreadable();
    for (const Value& value : *samples) {
      const auto us = value.getAsNumber();
      if (!us) unreadable();
      trial.samples_us.push_back(*us);
    }
    trials.push_back(std::move(trial));
  }
  return trials;
}

std::string to_text(const std::vector<Decision>& decisions) {
  Array array;
  for (const Decision& decision : decisions) {
    Object object{{"pattern", decision.pattern},
                  {"dtype", copy(to_string(decision.dtype))},
                  {"hidden", decision.hidden},
                  {"world", decision.world},
                  {"mode", copy(to_string(decision.mode))},
                  {"tokens_min", decision.tokens_min},
                  {"tokens_max", decision.tokens_max},
                  {"candidate", json_of(decision.candidate)},
                  {"median_us", decision.median_us}};
    if (decision.runner_up) {
      object["runner_up"] = json_of(*decision.runner_up);
      object["runner_up_median_us"] = decision.runner_up_median_us;
    }
    array.push_back(std::move(object));
  }
  return text_of(std::move(array));
}

std::vector<Decision> decisions_from_text(const std::string& text) {
  std::vector<Decision> decisions;
  for (const Object& object : objects_from(text)) {
    Decision decision;
    decision.pattern = string_at(object, "pattern");
    decision.dtype = parse_dtype(string_at(object, "dtype"));
    decision.hidden = static_cast<int>(integer_at(object, "hidden"));
    decision.world = static_cast<int>(integer_at(object, "world"));
    decision.mode = parse_mode(string_at(object, "mode"));
    decision.tokens_min = integer_at(object, "tokens_min");
    decision.tokens_max = integer_at(object, "tokens_max");
    decision.candidate = candidate_from(object.getObject("candidate"));
    decision.median_us = number_at(object, "median_us");
    if (const Object* runner_up = object.getObject("runner_up")) {
      decision.runner_up = candidate_from(runner_up);
      decision.runner_up_median_us = number_at(object, "runner_up_median_us");
    }
    decisions.push_back(std::move(decision));
  }
  return decisions;
}

}  // namespace arbiter::tuning
