// Content-derived keys: SHA-256 over named fields, so that equal content has equal keys everywhere.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "arbiter/db/fields.hpp"

namespace arbiter::db {

/// Fields are fed as "<name>=<length>:<value>;", so that no two different lists of fields spell the same text.
class Digest {
 public:
  explicit Digest(std::string_view kind) { add("kind", kind); }
  Digest& add(std::string_view field, std::string_view value);
  Digest& add(std::string_view field, double value);
  template <std::integral Integer>
  Digest& add(std::string_view field, Integer value) {
    return add(field, std::string_view(std::to_string(static_cast<std::int64_t>(value))));
  }
  template <typename Enumeration>
  requires std::is_enum_v<Enumeration> Digest& add(std::string_view field, Enumeration value) {
    return add(field, to_string(value));
  }
  /// As in the column environment.nccl_variables.
  Digest& add(std::string_view field, const std::map<std::string, std::string>& values);
  /// Every field, in order.
  template <typename Record>
  Digest& add_fields(const Record& record) {
    for_each_field(record, [&](const char* name, const auto& value) { add(name, value); });
    return *this;
  }
  std::string hex() const;  ///< 64 lower-case digits

 private:
  std::string text_;
};

/// The shortest decimal text that reads back as exactly this value; "0" for both zeros.
std::string exact_text(double value);

/// Key of the trial begun as number `sequence` of its environment, problem and candidate in a run.
std::string trial_key(const std::string& environment_key, const std::string& problem_key,
                      const std::string& candidate_key, const std::string& run_id, std::int64_t sequence);

/// Over what a trial found, which no key covers: a damaged sample cannot pass for a measurement.
std::string outcome_digest(TrialStatus, const std::string& reason, int calls_per_sample, int blocks,
                           const std::vector<double>& samples_us, const KernelUse& = {});

/// Over a run and the key of its environment.
std::string run_digest(const std::string& environment_key, const Run&);

/// Over everything in the row and in the candidates it names: a damaged row cannot pass for another decision.
std::string decision_key(const std::string& environment_key, const Decision&);

/// Likewise.
std::string nccl_choice_key(const std::string& environment_key, const NcclChoice&);

/// The column environment.nccl_variables: a JSON object with its names in order.
std::string nccl_variables_text(const std::map<std::string, std::string>&);
/// Throws DatabaseError (without a file name) when the text is not such an object.
std::map<std::string, std::string> parse_nccl_variables(const std::string&);

}  // namespace arbiter::db
