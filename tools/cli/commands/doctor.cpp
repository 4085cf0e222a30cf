// arbiter doctor: what this machine can do, and what stops it from doing more.
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/doctor.hpp"
#include "arbiter/variables.hpp"
#include "arbiter/vocabulary.hpp"
#include "commands/command.hpp"
#include "options/options.hpp"
#include "ranks/nccl_drop_in.hpp"
#include "ranks/nccl_tuner_plugin.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

void print_as_json(const std::vector<Capability>& capabilities, const std::vector<VariableDescription>& variables) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_text(json, "version", version());
    json.attributeArray("capabilities", [&] {
      for (const Capability& capability : capabilities) {
        json.object([&] {
          write_text(json, "name", capability.name);
          json.attribute("ok", capability.ok);
          write_text(json, "value", capability.value);
          write_text(json, "reason", capability.reason);
        });
      }
    });
    json.attributeArray("variables", [&] {
      for (const VariableDescription& variable : variables) {
        json.object([&] {
          write_text(json, "name", variable.name);
          write_text(json, "value", variable.value);
          json.attribute("set", variable.set);
          write_text(json, "description", variable.description);
        });
      }
    });
  });
}

void print_as_tables(const std::vector<Capability>& capabilities, const std::vector<VariableDescription>& variables) {
  Table found({"", "capability", "found, or what is missing and what to do"});
  for (const Capability& capability : capabilities) {
    std::vector<std::string> parts{capability.value, capability.reason};
    std::erase(parts, "");
    found.add({capability.ok ? "ok" : "--", capability.name, joined(parts, "; ")});
  }
  found.print();
  print("\n");
  Table settings({"variable", "", "value, and what it means"});
  for (const VariableDescription& variable : variables) {
    settings.add({variable.name, variable.set ? "set" : "default",
                  (variable.value.empty() ? "-" : variable.value) + ": " + variable.description});
  }
  settings.print();
}

/// What was set is what the user set: the plugin that lies beside this program is offered to NCCL only afterwards.
std::vector<VariableDescription> described_variables(const EnvironmentVariables& variables) {
  std::vector<VariableDescription> described = describe(variables);
  offer_nccl_tuner_plugin();
  const std::vector<VariableDescription> in_force = describe(variables);
  for (std::size_t i = 0; i < described.size(); ++i) described[i].value = in_force[i].value;
  return described;
}

/// "cuda" is what people say; the capability is called cuda_devices.
bool has_capability(const std::vector<Capability>& capabilities, const std::string& asked) {
  const std::string name = asked == "cuda" ? "cuda_devices" : asked;
  std::vector<std::string_view> names{"cuda"};
  for (const Capability& capability : capabilities) {
    if (capability.name == name) return capability.ok;
    names.push_back(capability.name);
  }
  throw UsageError(unknown_name_message("capability", asked, names));
}

}  // namespace

Options doctor_options() {
  Options options("doctor",
                  "Says what this machine can do, what stops it from doing more and what to do about that, and prints\n"
                  "every environment variable that Arbiter reads. Tries things for real where that is safe.",
                  "arbiter doctor\narbiter doctor --require cuda --require nccl && arbiter tune");
  options.list("require", "NAME", "fail (exit status 1) unless this capability is there; cuda means any GPU")
      .choices({"cuda", "driver", "peer_access", "topology", "nvrtc", "nccl", "nccl_tuner_plugin", "nccl_drop_in",
                "symmetric_memory_vmm", "symmetric_memory_cuda_ipc", "multicast", "host_compiler"})
      .flag("json", "for programs; see docs/cli.md");
  return options;
}

int run_doctor(const Options& options) {
  const EnvironmentVariables variables = EnvironmentVariables::read();
  const std::vector<VariableDescription> described = described_variables(variables);
  std::vector<Capability> capabilities = probe_capabilities(variables);
  capabilities.push_back(probe_nccl_drop_in(capabilities));
  std::vector<std::string> missing;
  for (const std::string& required : options.texts("require")) {
    if (!has_capability(capabilities, required)) missing.push_back(required);
  }
  if (options.has("json")) {
    print_as_json(capabilities, described);
  } else {
    print_as_tables(capabilities, described);
  }
  for (const std::string& name : missing) print_error("arbiter: required but missing: %s\n", name.c_str());
  return missing.empty() ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
