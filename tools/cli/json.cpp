#include "json.hpp"

#include <llvm/Support/raw_ostream.h>

#include <cmath>
#include <cstdio>
#include <string>

namespace arbiter::cli {
namespace {

llvm::StringRef view(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void print_json(const std::function<void(llvm::json::OStream&)>& body) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream, 2);
  json.object([&] { body(json); });
  std::printf("%s\n", stream.str().c_str());
}

void print_json(const Environment& environment, const std::function<void(llvm::json::OStream&)>& body) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_environment(json, "environment", environment);
    body(json);
  });
}

void write_text(llvm::json::OStream& json, std::string_view name, std::string_view text) {
  json.attribute(view(name), llvm::json::fixUTF8(view(text)));
}

void write_environment(llvm::json::OStream& json, std::string_view name, const Environment& environment) {
  json.attributeObject(view(name), [&] {
    write_text(json, "key", environment.key());
    write_text(json, "device", environment.device);
    write_text(json, "gpu_name", environment.gpu_name);
    json.attribute("sm_count", environment.sm_count);
    json.attribute("compute_capability", environment.compute_capability);
    json.attribute("memory_clock_mhz", environment.memory_clock_mhz);
    json.attribute("power_limit_watts", environment.power_limit_watts);
    write_text(json, "driver_version", environment.driver_version);
    write_text(json, "cuda_runtime", environment.cuda_runtime);
    write_text(json, "compiler_version", environment.compiler_version);
    write_text(json, "nccl_version", environment.nccl_version);
    write_text(json, "topology", environment.topology);
    json.attribute("nodes", environment.nodes);
    json.attribute("ranks_per_node", environment.ranks_per_node);
    write_text(json, "symmetric_memory", environment.symmetric_memory);
    json.attribute("multicast", environment.multicast);
    json.attributeObject("nccl_variables", [&] {
      for (const auto& [variable, value] : environment.nccl_variables) write_text(json, variable, value);
    });
    write_text(json, "arbiter_version", environment.arbiter_version);
    write_text(json, "catalogue_hash", environment.catalogue_hash);
  });
}

void write_microseconds(llvm::json::OStream& json, std::string_view name, double microseconds) {
  if (!std::isfinite(microseconds)) {
    json.attribute(view(name), nullptr);
    return;
  }
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", microseconds);
  json.attributeBegin(view(name));
  json.rawValue(llvm::StringRef(digits));
  json.attributeEnd();
}

}  // namespace arbiter::cli
