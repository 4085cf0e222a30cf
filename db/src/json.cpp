#include "arbiter/db/json.hpp"

#include <llvm/Support/JSON.h>

#include "digest.hpp"
#include "json_fields.hpp"

namespace arbiter {

namespace db {

void text(llvm::json::OStream& json, const char* name, std::string_view value) {
  json.attribute(name, llvm::json::fixUTF8(llvm::StringRef(value.data(), value.size())));
}

void number(llvm::json::OStream& json, const char* name, double value) {
  json.attributeBegin(name);
  json.rawValue(exact_text(value));
  json.attributeEnd();
}

void write_environment(llvm::json::OStream& json, const Environment& environment) {
  json.attribute("key", environment.key());
  text(json, "device", environment.device);
  text(json, "gpu_name", environment.gpu_name);
  json.attribute("sm_count", environment.sm_count);
  json.attribute("compute_capability", environment.compute_capability);
  json.attribute("memory_clock_mhz", environment.memory_clock_mhz);
  json.attribute("power_limit_watts", environment.power_limit_watts);
  text(json, "driver_version", environment.driver_version);
  text(json, "cuda_runtime", environment.cuda_runtime);
  text(json, "compiler_version", environment.compiler_version);
  text(json, "nccl_version", environment.nccl_version);
  text(json, "topology", environment.topology);
  json.attribute("nodes", environment.nodes);
  json.attribute("ranks_per_node", environment.ranks_per_node);
  if (!environment.nvlink_domains.empty()) text(json, "nvlink_domains", environment.nvlink_domains);
  text(json, "symmetric_memory", environment.symmetric_memory);
  json.attribute("multicast", environment.multicast);
  json.attributeObject("nccl_variables", [&] {
    for (const auto& [name, value] : environment.nccl_variables) {
      json.attribute(llvm::json::fixUTF8(name), llvm::json::fixUTF8(value));
    }
  });
  text(json, "arbiter_version", environment.arbiter_version);
  text(json, "catalogue_hash", environment.catalogue_hash);
}

}  // namespace db

namespace {

using db::number;
using db::text;
using llvm::json::OStream;

void write(OStream& json, const Environment& environment) {
  json.object([&] { db::write_environment(json, environment); });
}

void write(OStream& json, const Decision& decision) {
  json.object([&] {
    text(json, "mode", to_string(decision.mode));
    json.attribute("world", decision.world);
    text(json, "dtype", to_string(decision.dtype));
    text(json, "pattern", decision.pattern);
    json.attribute("hidden", decision.hidden);
    json.attribute("tokens_min", decision.tokens_min);
    json.attribute("tokens_max", decision.tokens_max);
    json.attribute("bytes_min", decision.bytes_min());
    json.attribute("bytes_max", decision.bytes_max());
    text(json, "backend", to_string(decision.candidate.backend));
    text(json, "algorithm", decision.candidate.algorithm);
    text(json, "candidate", decision.candidate.name);
    text(json, "numerics", to_string(decision.candidate.numerics));
    number(json, "median_us", decision.median_us);
    if (!decision.runner_up) {
      json.attribute("runner_up", nullptr);
      return;
    }
    json.attributeObject("runner_up", [&] {
      text(json, "backend", to_string(decision.runner_up->backend));
      text(json, "algorithm", decision.runner_up->algorithm);
      number(json, "median_us", decision.runner_up_median_us);
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

std::string decisions_json(const DecisionSet& set) {
  return pretty([&](OStream& json) {
           json.object([&] {
             json.attribute("schema", 1);
             json.attributeBegin("environment");
             write(json, set.environment);
             json.attributeEnd();
             json.attributeArray("decisions", [&] {
               for (const Decision& decision : set.decisions) write(json, decision);
             });
           });
         }) +
         "\n";
}

}  // namespace arbiter
