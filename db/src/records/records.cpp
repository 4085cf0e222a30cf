#include "arbiter/db/records.hpp"

#include <array>
#include <limits>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "records/digest.hpp"

namespace arbiter {
namespace {

constexpr std::array<std::string_view, 6> trial_statuses = {"running", "done", "wrong", "failed", "crashed", "pruned"};

/// The last interval of a family may be open-ended, so the product saturates instead of overflowing.
std::int64_t message_bytes(std::int64_t tokens, int hidden, Dtype dtype) noexcept {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(tokens, static_cast<std::int64_t>(hidden), &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<std::int64_t>(element_bytes(dtype)), &bytes)) {
    return std::numeric_limits<std::int64_t>::max();
  }
  return bytes;
}

}  // namespace

std::string Environment::key() const {
  db::Digest digest("environment");
  constexpr std::string_view since_schema_2 = "nvlink_domains";
  for_each_field(*this, [&](const char* name, const auto& value) {
    if (name != since_schema_2) digest.add(name, value);
  });
  // Environments of schema version 1 keep their keys.
  if (!nvlink_domains.empty()) digest.add(since_schema_2, nvlink_domains);
  return digest.hex();
}

bool Run::power_dropped() const noexcept {
  constexpr double least = 0.8;
  return power_start_watts > 0 && power_end_watts > 0 && power_end_watts < least * power_start_watts;
}

std::string Run::dropped() const {
  if (clocks_dropped) return power_dropped() ? "clocks and power" : "clocks";
  return power_dropped() ? "power" : "";
}

std::int64_t Problem::bytes() const noexcept { return message_bytes(tokens, hidden, dtype); }

std::string Problem::key() const { return db::Digest("problem").add_fields(*this).hex(); }

std::string Problem::name() const {
  std::string name = family_text(*this);
  name.append(" tokens=").append(std::to_string(tokens));
  name.append(" world=").append(std::to_string(world));
  name.append(" ").append(to_string(mode));
  if (in_place) name.append(" in_place");
  return name;
}

std::string Candidate::key() const {
  return db::Digest("candidate").add("name", name).add("source_hash", source_hash).hex();
}

std::string_view to_string(TrialStatus status) noexcept {
  const auto index = static_cast<std::size_t>(status);
  return index < trial_statuses.size() ? trial_statuses[index] : "unknown";
}

TrialStatus parse_trial_status(std::string_view text) {
  for (std::size_t i = 0; i < trial_statuses.size(); ++i) {
    if (trial_statuses[i] == text) return static_cast<TrialStatus>(i);
  }
  throw InvalidArgument(unknown_name_message("trial status", text, trial_statuses));
}

std::int64_t Decision::bytes_min() const noexcept { return message_bytes(tokens_min, hidden, dtype); }
std::int64_t Decision::bytes_max() const noexcept { return message_bytes(tokens_max, hidden, dtype); }

}  // namespace arbiter
