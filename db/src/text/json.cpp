#include "arbiter/db/json.hpp"

#include <llvm/Support/JSON.h>

#include "arbiter/db/json_fields.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "records/digest.hpp"

namespace arbiter {

namespace {

using llvm::json::OStream;

llvm::StringRef view(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void write_text(llvm::json::OStream& json, std::string_view name, std::string_view value) {
  json.attribute(view(name), llvm::json::fixUTF8(view(value)));
}

void write_exact_number(llvm::json::OStream& json, std::string_view name, double value) {
  json.attributeBegin(view(name));
  json.rawValue(db::exact_text(value));
  json.attributeEnd();
}

void write_field(llvm::json::OStream& json, const char* name, const std::map<std::string, std::string>& values) {
  json.attributeObject(name, [&] {
    for (const auto& [key, value] : values) json.attribute(llvm::json::fixUTF8(key), llvm::json::fixUTF8(value));
  });
}

void write_environment_fields(llvm::json::OStream& json, const Environment& environment) {
  json.attribute("key", environment.key());
  for_each_field(environment, [&](std::string_view name, const auto& value) {
    if (name != "nvlink_domains" || !environment.nvlink_domains.empty()) write_field(json, name.data(), value);
  });
}

namespace {

void write(OStream& json, const Environment& environment) {
  json.object([&] { write_environment_fields(json, environment); });
}

void write_measurements(OStream& json, const Decision& decision, const DecisionMeasurements& found) {
  const auto count_or_null = [&](const char* name, std::int64_t value) {
    if (value == 0) {
      json.attribute(name, nullptr);
    } else {
      json.attribute(name, value);
    }
  };
  const auto number_or_null = [&](const char* name, double value) {
    if (value > 0) {
      write_exact_number(json, name, value);
    } else {
      json.attribute(name, nullptr);
    }
  };
  count_or_null("measured_tokens", found.tokens);
  count_or_null("measured_bytes", found.bytes);
  number_or_null("nccl_us", found.nccl_us);
  number_or_null("times_nccl", decision.median_us > 0 ? found.nccl_us / decision.median_us : 0);
}

using MeasurementsOf = std::function<DecisionMeasurements(const Decision&)>;

void write(OStream& json, const Decision& decision, const MeasurementsOf& measurements) {
  json.object([&] {
    write_fields(json, decision);
    json.attribute("bytes_min", decision.bytes_min());
    json.attribute("bytes_max", decision.bytes_max());
    write_text(json, "backend", to_string(decision.candidate.backend));
    write_text(json, "algorithm", decision.candidate.algorithm);
    write_text(json, "candidate", decision.candidate.name);
    write_text(json, "numerics", to_string(decision.candidate.numerics));
    write_exact_number(json, "median_us", decision.median_us);
    if (measurements) write_measurements(json, decision, measurements(decision));
    write_known_fields(json, decision.use);
    if (!decision.runner_up) {
      json.attribute("runner_up", nullptr);
      return;
    }
    json.attributeObject("runner_up", [&] {
      write_text(json, "backend", to_string(decision.runner_up->backend));
      write_text(json, "algorithm", decision.runner_up->algorithm);
      write_exact_number(json, "median_us", decision.runner_up_median_us);
    });
  });
}

/// Into an object that is open: the candidate, and what it asks of NCCL.
void write_configuration(OStream& json, const Candidate& candidate) {
  const NcclConfiguration asked = nccl_configuration(candidate).value_or(NcclConfiguration{});
  const auto text_or_null = [&](const char* name, std::string_view value) {
    if (value.empty()) {
      json.attribute(name, nullptr);
    } else {
      write_text(json, name, value);
    }
  };
  write_text(json, "candidate", candidate.name);
  text_or_null("algorithm", to_string(asked.algorithm));
  text_or_null("protocol", to_string(asked.protocol));
  if (asked.channels == 0) {
    json.attribute("channels", nullptr);
  } else {
    json.attribute("channels", asked.channels);
  }
}

void write(OStream& json, const NcclChoice& choice, int nodes) {
  json.object([&] {
    json.attribute("world", choice.world);
    json.attribute("nodes", nodes);
    json.attribute("bytes_min", choice.bytes_min);
    json.attribute("bytes_max", choice.bytes_max);
    write_configuration(json, choice.candidate);
    write_exact_number(json, "median_us", choice.median_us);
    if (!choice.forced) {
      json.attribute("forced", nullptr);
      return;
    }
    json.attributeObject("forced", [&] {
      write_configuration(json, *choice.forced);
      write_exact_number(json, "median_us", choice.forced_median_us);
    });
  });
}

template <typename Write>
std::string pretty(Write&& write_value) {
  std::string result;
  llvm::raw_string_ostream stream(result);
  {
    OStream json(stream, /*IndentSize=*/2);
    write_value(json);
  }
  stream.flush();
  return result;
}

}  // namespace

std::string environment_json(const Environment& environment, unsigned indent) {
  const std::string flat = pretty([&](OStream& json) { write(json, environment); });
  std::string result;
  for (const char c : flat) {
    result += c;
    if (c == '\n') result.append(indent, ' ');
  }
  return result;
}

std::string decisions_json(const DecisionSet& set, const MeasurementsOf& measurements) {
  return pretty([&](OStream& json) {
           json.object([&] {
             json.attribute("schema", 1);
             json.attributeBegin("environment");
             write(json, set.environment);
             json.attributeEnd();
             json.attributeArray("decisions", [&] {
               for (const Decision& decision : set.decisions) write(json, decision, measurements);
             });
             json.attributeArray("nccl_choices", [&] {
               for (const NcclChoice& choice : set.nccl) {
                 write(json, choice, nodes_of(set.environment, choice.world));
               }
             });
           });
         }) +
         "\n";
}

}  // namespace arbiter
