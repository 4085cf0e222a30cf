// JSON lines to contents. The text may come from anywhere: nothing in it is believed unchecked.
#include <fmt/format.h>
#include <llvm/Support/JSON.h>

#include <algorithm>
#include <array>
#include <istream>
#include <limits>
#include <set>
#include <tuple>

#include "arbiter/db/fields.hpp"
#include "arbiter/generator/json_limits.hpp"
#include "records/contents.hpp"
#include "records/digest.hpp"
#include "sqlite/rows.hpp"

namespace arbiter {
namespace {

[[noreturn]] void refuse(const std::string& why) { throw DatabaseError(why); }

/// The members of the object on one line. Errors say what was expected; the caller adds where.
class Members {
 public:
  explicit Members(const llvm::json::Object& object) : object_(&object) {}

  std::string text(const char* name) {
    const auto value = member(name).getAsString();
    if (!value) expected(name, "a text");
    return value->str();
  }
  std::int64_t integer(const char* name) {
    const auto value = member(name).getAsInteger();
    if (!value) expected(name, "a whole number");
    return *value;
  }
  int small(const char* name) {
    const std::int64_t value = integer(name);
    if (value < std::numeric_limits<int>::min() || value > std::numeric_limits<int>::max()) {
      expected(name, "a whole number of 32 bits");
    }
    return static_cast<int>(value);
  }
  double number(const char* name) {
    const auto value = member(name).getAsNumber();
    if (!value) expected(name, "a number");
    return *value;
  }
  bool boolean(const char* name) {
    const auto value = member(name).getAsBoolean();
    if (!value) expected(name, "true or false");
    return *value;
  }
  std::optional<std::string> text_or_null(const char* name) {
    if (member(name).getAsNull()) return std::nullopt;
    return text(name);
  }
  std::vector<double> numbers(const char* name) {
    const llvm::json::Array* array = member(name).getAsArray();
    if (array == nullptr) expected(name, "a list of numbers");
    std::vector<double> values;
    for (const llvm::json::Value& value : *array) {
      const auto number = value.getAsNumber();
      if (!number) expected(name, "a list of numbers");
      values.push_back(*number);
    }
    return values;
  }
  std::map<std::string, std::string> texts(const char* name) {
    const llvm::json::Object* object = member(name).getAsObject();
    if (object == nullptr) expected(name, "an object of texts");
    std::map<std::string, std::string> values;
    for (const auto& [key, value] : *object) {
      const auto string = value.getAsString();
      if (!string) expected(name, "an object of texts");
      values.emplace(key.str(), string->str());
    }
    return values;
  }

  void read(const char* name, std::string& field) { field = text(name); }
  void read(const char* name, std::int64_t& field) { field = integer(name); }
  void read(const char* name, int& field) { field = small(name); }
  void read(const char* name, bool& field) { field = boolean(name); }
  void read(const char* name, std::map<std::string, std::string>& field) { field = texts(name); }
  template <typename Enumeration>
  requires std::is_enum_v<Enumeration>
  void read(const char* name, Enumeration& field) { parse_field(text(name), field); }
  template <typename Record>
  void read_fields(Record& record) {
    for_each_field(record, [&](const char* name, auto& field) { read(name, field); });
  }

  /// What is written only where it was recorded.
  template <typename Field>
  void read_if_there(const char* name, Field& field) {
    if (!has(name)) return;
    read(name, field);
    if (!is_recorded(field)) refuse(fmt::format("member '{}' is {}, which is not written down", name, field));
  }

  bool has(const char* name) const { return object_->get(name) != nullptr; }

  /// Nothing may be left over: a misspelled member must not be lost silently.
  void done() const {
    for (const auto& [key, value] : *object_) {
      if (!used_.contains(key.str())) refuse("member '" + key.str() + "' is unknown, expected " + list());
    }
  }

 private:
  const llvm::json::Value& member(const char* name) {
    used_.insert(name);
    const llvm::json::Value* value = object_->get(name);
    if (value == nullptr) refuse(std::string("member '") + name + "' is missing");
    return *value;
  }
  [[noreturn]] static void expected(const char* name, const char* what) {
    refuse(std::string("member '") + name + "' is of another kind, expected " + what);
  }
  std::string list() const {
    std::string all = "only:";
    for (const std::string& name : used_) all += " " + name;
    return all;
  }

  const llvm::json::Object* object_;
  std::set<std::string> used_;
};

constexpr std::array<std::string_view, 8> types = {"header",    "environment", "run",      "problem",
                                                   "candidate", "trial",       "decision", "nccl_choice"};
constexpr std::array<const char*, 8> counts = {"",           "environments", "runs",      "problems",
                                               "candidates", "trials",       "decisions", "nccl_choices"};
/// What exports of schema 1 had of these.
constexpr std::size_t types_of_schema_1 = 7;

class Parser {
 public:
  void parse(const std::string& line) {
    // Nothing here is deeper than 2.
    if (const std::string problem = json_problem(line, {2}); !problem.empty()) {
      refuse(problem + ", expected an object of plain values");
    }
    auto value = llvm::json::parse(line);
    if (!value) refuse("it is not JSON (" + llvm::toString(value.takeError()) + "), expected one object");
    const llvm::json::Object* object = value->getAsObject();
    if (object == nullptr) refuse("it is not a JSON object, expected {\"type\": ...}");
    Members members(*object);
    const std::string name = members.text("type");
    const auto type = static_cast<std::size_t>(std::find(types.begin(), types.end(), name) - types.begin());
    if (type == types.size()) refuse("type " + unknown_name_message("record type", name, types));
    if (!header_ && type != 0) refuse("type '" + name + "' comes before the header, expected type 'header' first");
    if (header_ && type == 0) refuse("there is a second header, expected one");
    if (type < last_type_) {
      refuse("type '" + name + "' comes after type '" + std::string(types[last_type_]) +
             "', expected the order of an export: environment, run, problem, candidate, trial, decision, nccl_choice");
    }
    last_type_ = type;
    read(type, members);
    members.done();
    ++found_[type];
  }

  Contents finish() {
    if (!header_) refuse("there is no line, expected a header");
    for (std::size_t type = 1; type < types.size(); ++type) {
      if (found_[type] != promised_[type]) {
        refuse(fmt::format("there are {} lines of type '{}', but the header says {}. Lines are missing or were added",
                           found_[type], types[type], promised_[type]));
      }
    }
    for (auto& [key, decisions] : contents_.decisions) db::validate_and_sort(decisions);
    for (auto& [key, choices] : contents_.nccl) db::validate_and_sort(choices);
    return std::move(contents_);
  }

 private:
  void read(std::size_t type, Members& members) {
    switch (type) {
      case 0:
        return header(members);
      case 1:
        return environment(members);
      case 2:
        return run(members);
      case 3:
        return problem(members);
      case 4:
        return candidate(members);
      case 5:
        return trial(members);
      case 6:
        return decision(members);
      default:
        return nccl_choice(members);
    }
  }

  void header(Members& members) {
    const std::int64_t schema = members.integer("schema");
    if (schema < 1 || schema > jsonl_schema_version) {
      refuse(fmt::format(
          "schema is {}, expected 1 to {}{}", schema, jsonl_schema_version,
          (schema > jsonl_schema_version ? ". It was exported by a newer Arbiter: import it with that one" : "")));
    }
    const std::size_t known = schema == 1 ? types_of_schema_1 : types.size();
    for (std::size_t i = 1; i < known; ++i) promised_[i] = members.integer(counts[i]);
    header_ = true;
  }

  template <typename Record>
  static void store(std::map<std::string, Record>& records, Members& members, const std::string& computed,
                    Record record) {
    const std::string key = members.text("key");
    if (key != computed) refuse("member 'key' does not match the rest of the line, expected " + computed);
    if (!records.emplace(key, std::move(record)).second) refuse("key " + key + " is there twice, expected it once");
  }

  template <typename Record>
  static const Record& find(const std::map<std::string, Record>& records, const char* member, const std::string& key) {
    const auto found = records.find(key);
    if (found == records.end()) {
      refuse(std::string("member '") + member + "' is " + key + ", expected the key of an earlier line");
    }
    return found->second;
  }

  void environment(Members& members) {
    Environment e;
    const bool domains = members.has("nvlink_domains");  // exports of schema 1 have none
    for_each_field(e, [&](std::string_view name, auto& field) {
      if (name != "nvlink_domains" || domains) members.read(name.data(), field);
    });
    db::validate(e);
    const std::string key = e.key();
    store(contents_.environments, members, key, std::move(e));
  }

  void run(Members& members) {
    StoredRun stored;
    stored.environment = members.text("environment");
    find(contents_.environments, "environment", stored.environment);
    Run& run = stored.run;
    run.id = members.text("id");
    members.read_fields(run);
    db::validate(run);
    const std::string id = run.id;
    if (!contents_.runs.emplace(id, std::move(stored)).second) refuse("run " + id + " is there twice, expected once");
  }

  void problem(Members& members) {
    Problem p;
    members.read_fields(p);
    db::validate(p);
    const std::string key = p.key();
    store(contents_.problems, members, key, std::move(p));
  }

  void candidate(Members& members) {
    Candidate c;
    members.read_fields(c);
    db::validate(c);
    const std::string key = c.key();
    store(contents_.candidates, members, key, std::move(c));
  }

  void trial(Members& members) {
    StoredTrial t;
    t.environment = members.text("environment");
    t.problem = members.text("problem");
    t.candidate = members.text("candidate");
    t.run = members.text("run");
    t.sequence = members.integer("sequence");
    if (t.sequence < 1) refuse(fmt::format("member 'sequence' is {}, expected at least 1", t.sequence));
    t.status = parse_trial_status(members.text("status"));
    t.reason = members.text("reason");
    t.calls_per_sample = members.small("calls_per_sample");
    t.blocks = members.small("blocks");
    t.samples_us = members.numbers("samples_us");
    for_each_field(t.use, [&](const char* name, int& field) { members.read_if_there(name, field); });
    find(contents_.environments, "environment", t.environment);
    find(contents_.problems, "problem", t.problem);
    find(contents_.candidates, "candidate", t.candidate);
    if (find(contents_.runs, "run", t.run).environment != t.environment) {
      refuse("member 'environment' is not that of the run, expected " + contents_.runs.at(t.run).environment);
    }
    db::validate(db::trial_of(contents_, t));
    const std::string key = db::trial_key(t.environment, t.problem, t.candidate, t.run, t.sequence);
    store(contents_.trials, members, key, std::move(t));
  }

  void decision(Members& members) {
    const std::string environment = members.text("environment");
    find(contents_.environments, "environment", environment);
    Decision d;
    members.read_fields(d);
    d.candidate = find(contents_.candidates, "candidate", members.text("candidate"));
    d.median_us = members.number("median_us");
    if (const auto runner_up = members.text_or_null("runner_up")) {
      d.runner_up = find(contents_.candidates, "runner_up", *runner_up);
    }
    d.runner_up_median_us = members.number("runner_up_median_us");
    for_each_later_field(d, [&](const char* name, auto& field) { members.read_if_there(name, field); });
    const std::string key = db::decision_key(environment, d);
    if (members.text("key") != key) refuse("member 'key' does not match the rest of the line, expected " + key);
    std::vector<Decision> alone{d};
    db::validate_and_sort(alone);
    auto& intervals = intervals_[{environment, d.mode, d.world, d.dtype, d.pattern, d.hidden}];
    for (const auto& [first, last] : intervals) {
      if (d.tokens_min <= last && first <= d.tokens_max) {
        refuse(
            fmt::format("the tokens {}-{} overlap those of an earlier decision ({}-{}), expected every token count to "
                        "be decided once",
                        d.tokens_min, d.tokens_max, first, last));
      }
    }
    intervals.emplace_back(d.tokens_min, d.tokens_max);
    contents_.decisions[environment].push_back(std::move(d));
  }

  void nccl_choice(Members& members) {
    const std::string environment = members.text("environment");
    find(contents_.environments, "environment", environment);
    NcclChoice c;
    c.world = members.small("world");
    c.bytes_min = members.integer("bytes_min");
    c.bytes_max = members.integer("bytes_max");
    c.candidate = find(contents_.candidates, "candidate", members.text("candidate"));
    c.median_us = members.number("median_us");
    if (const auto forced = members.text_or_null("forced")) {
      c.forced = find(contents_.candidates, "forced", *forced);
    }
    c.forced_median_us = members.number("forced_median_us");
    const std::string key = db::nccl_choice_key(environment, c);
    if (members.text("key") != key) refuse("member 'key' does not match the rest of the line, expected " + key);
    auto& choices = contents_.nccl[environment];
    choices.push_back(std::move(c));
    std::vector<NcclChoice> so_far = choices;  // a handful: an overlap is reported on its own line
    db::validate_and_sort(so_far);
  }

  Contents contents_;
  bool header_ = false;
  std::size_t last_type_ = 0;
  std::array<std::int64_t, 8> promised_{}, found_{};
  std::map<std::tuple<std::string, Mode, int, Dtype, std::string, int>,
           std::vector<std::pair<std::int64_t, std::int64_t>>>
      intervals_;
};

}  // namespace

Contents parse_jsonl(std::istream& in, const std::string& name) {
  Parser parser;
  std::size_t number = 0;
  std::string line;
  try {
    while (std::getline(in, line)) {
      ++number;
      parser.parse(line);
    }
    ++number;  // what is missing is missing after the last line
    if (in.bad()) refuse("it cannot be read");
    return parser.finish();
  } catch (const Error& error) {
    throw DatabaseError(fmt::format("'{}' line {}: {}.", name, number, error.what()));
  }
}

}  // namespace arbiter
