// What a record must satisfy to be stored or believed.
#include <fmt/format.h>
#include <llvm/Support/JSON.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "arbiter/db/family_text.hpp"
#include "arbiter/db/fields.hpp"
#include "arbiter/generator/plain_text.hpp"
#include "records/digest.hpp"
#include "sqlite/rows.hpp"

namespace arbiter::db {
namespace {

[[noreturn]] void refuse(const std::string& subject, const std::string& why) {
  throw DatabaseError(subject + ": " + why);
}

void require_text(const std::string& subject, const char* field, const std::string& text) {
  if (text.find('\0') != std::string::npos) refuse(subject, std::string(field) + " holds a NUL byte");
  if (!llvm::json::isUTF8(text)) refuse(subject, std::string(field) + " is not UTF-8 text");
}

/// A text that terminals, tables and generated files can show: one line without control characters.
void require_line(const std::string& subject, const char* field, const std::string& text, std::size_t most = 4096) {
  require_text(subject, field, text);
  if (text.size() > most) {
    refuse(subject, fmt::format("{} has {} bytes, expected at most {}", field, text.size(), most));
  }
  if (const std::size_t at = find_control_character(text); at != std::string::npos) {
    refuse(subject, fmt::format("{} holds a control character at byte {}, expected one line of plain text", field, at));
  }
}

constexpr std::size_t most_bytes_of_a_name = 200;

void require_word(const std::string& subject, const char* field, const std::string& text) {
  require_line(subject, field, text, most_bytes_of_a_name);
  if (text.empty()) refuse(subject, std::string(field) + " is empty");
}

template <typename Integer>
void require_at_least(const std::string& subject, const char* field, Integer value, Integer least) {
  if (value < least) {
    refuse(subject, fmt::format("{} is {}, expected at least {}", field, value, least));
  }
}

void require_microseconds(const std::string& subject, const char* field, double value) {
  if (!std::isfinite(value) || value < 0) {
    refuse(subject, std::string(field) + " is " + exact_text(value) + ", expected a finite time in microseconds");
  }
}

/// The family of decisions among which intervals must not overlap, in the order of DecisionSet::decisions.
auto family(const Decision& decision) {
  return std::tie(decision.mode, decision.world, decision.dtype, decision.pattern, decision.hidden);
}

std::string describe(const Decision& decision) {
  std::string text = "decision for " + family_text(decision);
  text.append(" world=").append(std::to_string(decision.world));
  text.append(" ").append(to_string(decision.mode));
  text.append(" tokens=").append(std::to_string(decision.tokens_min));
  text.append("..").append(std::to_string(decision.tokens_max));
  return text;
}

void validate_use(const std::string& subject, const KernelUse& use) {
  for_each_field(use, [&](const char* field, int value) { require_at_least(subject, field, value, -1); });
}

void validate_decision(const Decision& decision) {
  require_word("decision", "pattern", decision.pattern);
  const std::string subject = describe(decision);
  require_at_least(subject, "hidden", decision.hidden, 1);
  require_at_least(subject, "world", decision.world, 1);
  require_at_least<std::int64_t>(subject, "tokens_min", decision.tokens_min, 1);
  require_at_least(subject, "tokens_max", decision.tokens_max, decision.tokens_min);
  require_microseconds(subject, "median_us", decision.median_us);
  validate(decision.candidate);
  if (decision.runner_up) {
    validate(*decision.runner_up);
    require_microseconds(subject, "runner_up_median_us", decision.runner_up_median_us);
  } else if (decision.runner_up_median_us != 0) {
    refuse(subject, "runner_up_median_us is set, but there is no runner_up");
  }
  if (is_recorded(decision.measured_tokens)) {
    require_at_least(subject, "measured_tokens", decision.measured_tokens, decision.tokens_min);
    if (decision.measured_tokens > decision.tokens_max) {
      refuse(subject,
             fmt::format("measured_tokens is {}, expected at most {}", decision.measured_tokens, decision.tokens_max));
    }
  }
  validate_use(subject, decision.use);
  validate_use(subject, decision.runner_up_use);
  if (!decision.runner_up && decision.runner_up_use != KernelUse{}) {
    refuse(subject, "runner_up_registers or runner_up_spill_bytes is set, but there is no runner_up");
  }
}

}  // namespace

void validate(const Environment& environment) {
  require_line("environment", "gpu_name", environment.gpu_name, most_bytes_of_a_name);
  const std::string subject = "environment '" + environment.gpu_name + "'";
  for_each_field(environment, [&]<typename Value>(const char* field, const Value& value) {
    if constexpr (std::is_same_v<Value, std::string>) {
      require_line(subject, field, value, std::size_t{1} << 16);
    } else if constexpr (std::is_same_v<Value, int>) {
      require_at_least(subject, field, value, 0);
    }
  });
  for (const auto& [name, value] : environment.nccl_variables) {
    require_word(subject, "the name of an NCCL variable", name);
    require_line(subject, name.c_str(), value);
  }
}

void validate(const Problem& problem) {
  require_word("problem", "pattern", problem.pattern);
  const std::string subject = "problem '" + problem.name() + "'";
  require_at_least(subject, "hidden", problem.hidden, 1);
  require_at_least<std::int64_t>(subject, "tokens", problem.tokens, 1);
  require_at_least(subject, "world", problem.world, 1);
}

void validate(const Candidate& candidate) {
  const std::string subject = "candidate '" + candidate.name + "'";
  require_word(subject, "name", candidate.name);
  require_word(subject, "algorithm", candidate.algorithm);
  require_text(subject, "source_hash", candidate.source_hash);
  if (candidate.backend == Backend::automatic) {
    refuse(subject, "backend is auto, but a candidate belongs to one backend");
  }
}

void validate(const Trial& trial) {
  const std::string subject = "trial of '" + trial.candidate.name + "' on '" + trial.problem.name() + "'";
  require_text(subject, "reason", trial.reason);
  require_at_least(subject, "calls_per_sample", trial.calls_per_sample, 0);
  require_at_least(subject, "blocks", trial.blocks, 0);
  validate_use(subject, trial.use);
  for (const double sample : trial.samples_us) require_microseconds(subject, "a sample", sample);
  if (trial.status == TrialStatus::done && trial.samples_us.empty()) {
    refuse(subject, "it is done, but has no samples");
  }
}

void validate(const Run& run) {
  require_word("run", "id", run.id);
  const std::string subject = "run '" + run.id + "'";
  require_text(subject, "host", run.host);
  require_text(subject, "command", run.command);
}

void validate_and_sort(std::vector<Decision>& decisions) {
  for (const Decision& decision : decisions) validate_decision(decision);
  std::sort(decisions.begin(), decisions.end(), [](const Decision& a, const Decision& b) {
    return std::tuple_cat(family(a), std::tie(a.tokens_min)) < std::tuple_cat(family(b), std::tie(b.tokens_min));
  });
  const auto overlap = std::adjacent_find(decisions.begin(), decisions.end(), [](const Decision& a, const Decision& b) {
    return family(a) == family(b) && b.tokens_min <= a.tokens_max;
  });
  if (overlap != decisions.end()) {
    refuse(describe(*overlap),
           fmt::format("it overlaps the next one, which starts at {} tokens", (overlap + 1)->tokens_min));
  }
}

void validate_and_sort(std::vector<NcclChoice>& choices) {
  const auto describe = [](const NcclChoice& choice) {
    return fmt::format("NCCL choice for world={} bytes={}..{}", choice.world, choice.bytes_min, choice.bytes_max);
  };
  for (const NcclChoice& choice : choices) {
    const std::string subject = describe(choice);
    require_at_least(subject, "world", choice.world, 1);
    require_at_least<std::int64_t>(subject, "bytes_min", choice.bytes_min, 1);
    require_at_least(subject, "bytes_max", choice.bytes_max, choice.bytes_min);
    require_microseconds(subject, "median_us", choice.median_us);
    require_microseconds(subject, "forced_median_us", choice.forced_median_us);
    for (const Candidate* candidate : {&choice.candidate, choice.forced ? &*choice.forced : nullptr}) {
      if (candidate == nullptr) continue;
      validate(*candidate);
      if (candidate->backend != Backend::nccl) {
        refuse(subject, "candidate '" + candidate->name + "' is not one of backend nccl");
      }
    }
    if (!choice.forced && choice.forced_median_us != 0) refuse(subject, "forced_median_us is set, but forced is not");
  }
  std::sort(choices.begin(), choices.end(), [](const NcclChoice& a, const NcclChoice& b) {
    return std::tie(a.world, a.bytes_min) < std::tie(b.world, b.bytes_min);
  });
  const auto overlap = std::adjacent_find(choices.begin(), choices.end(), [](const NcclChoice& a, const NcclChoice& b) {
    return a.world == b.world && b.bytes_min <= a.bytes_max;
  });
  if (overlap != choices.end()) {
    refuse(describe(*overlap),
           fmt::format("it overlaps the next one, which starts at {} bytes", (overlap + 1)->bytes_min));
  }
}

}  // namespace arbiter::db
