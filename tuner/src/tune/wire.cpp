#include "tune/wire.hpp"

#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>

#include <type_traits>

#include "arbiter/db/fields.hpp"
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

/// Every field of a record.
template <typename Record>
Object object_of(const Record& record) {
  Object object;
  for_each_field(record, [&]<typename Field>(const char* name, const Field& field) {
    if constexpr (std::is_enum_v<Field>) {
      object[name] = copy(to_string(field));
    } else {
      object[name] = field;
    }
  });
  return object;
}

template <typename Record>
Record record_from(const Object* object) {
  if (object == nullptr) unreadable();
  Record record;
  for_each_field(record, [&]<typename Field>(const char* name, Field& field) {
    if constexpr (std::is_enum_v<Field>) {
      parse_field(string_at(*object, name), field);
    } else if constexpr (std::is_same_v<Field, std::string>) {
      field = string_at(*object, name);
    } else {
      field = static_cast<Field>(integer_at(*object, name));
    }
  });
  return record;
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
    array.push_back(Object{{"candidate", object_of(trial.candidate)},
                           {"status", copy(to_string(trial.status))},
                           {"reason", trial.reason},
                           {"calls", trial.calls_per_sample},
                           {"blocks", trial.blocks},
                           {"use", object_of(trial.use)},
                           {"samples", std::move(samples)}});
  }
  return text_of(std::move(array));
}

std::vector<Trial> trials_from_text(const std::string& text, const Problem& problem) {
  std::vector<Trial> trials;
  for (const Object& object : objects_from(text)) {
    Trial trial;
    trial.problem = problem;
    trial.candidate = record_from<Candidate>(object.getObject("candidate"));
    trial.status = parse_trial_status(string_at(object, "status"));
    trial.reason = string_at(object, "reason");
    trial.calls_per_sample = static_cast<int>(integer_at(object, "calls"));
    trial.blocks = static_cast<int>(integer_at(object, "blocks"));
    trial.use = record_from<KernelUse>(object.getObject("use"));
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
    Object object = object_of(decision);
    object["candidate"] = object_of(decision.candidate);
    object["median_us"] = decision.median_us;
    if (decision.runner_up) {
      object["runner_up"] = object_of(*decision.runner_up);
      object["runner_up_median_us"] = decision.runner_up_median_us;
    }
    for_each_later_field(decision, [&](const char* name, auto value) { object[name] = value; });
    array.push_back(std::move(object));
  }
  return text_of(std::move(array));
}

std::vector<Decision> decisions_from_text(const std::string& text) {
  std::vector<Decision> decisions;
  for (const Object& object : objects_from(text)) {
    auto decision = record_from<Decision>(&object);
    decision.candidate = record_from<Candidate>(object.getObject("candidate"));
    decision.median_us = number_at(object, "median_us");
    if (const Object* runner_up = object.getObject("runner_up")) {
      decision.runner_up = record_from<Candidate>(runner_up);
      decision.runner_up_median_us = number_at(object, "runner_up_median_us");
    }
    for_each_later_field(decision, [&]<typename Field>(const char* name, Field& field) {
      field = static_cast<Field>(integer_at(object, name));
    });
    decisions.push_back(std::move(decision));
  }
  return decisions;
}

}  // namespace arbiter::tuning
