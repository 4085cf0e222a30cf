#include "structs.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arbiter/generator/tensor_table.hpp"
#include "startup_tuner.hpp"

namespace arbiter::c {
namespace {

std::string text_or_empty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

/// ARBITER_DEFAULT leaves `value` as it is.
void apply_switch(const char* name, int given, bool& value) {
  switch (given) {
    case ARBITER_DEFAULT:
      return;
    case ARBITER_ON:
      value = true;
      return;
    case ARBITER_OFF:
      value = false;
      return;
    default:
      throw InvalidArgument(fmt::format(
          "arbiter_communicator_options.{} is {}; expected ARBITER_DEFAULT, ARBITER_ON or ARBITER_OFF", name, given));
  }
}

/// 0: what the variable says; -1: none.
void apply_deadline(const char* name, const char* variable, std::int64_t given, std::chrono::milliseconds& deadline) {
  if (given < -1) {
    throw InvalidArgument(
        fmt::format("arbiter_communicator_options.{} is {}; expected milliseconds, -1 for no deadline, or 0 for {}",
                    name, given, variable));
  }
  if (given != 0) deadline = std::chrono::milliseconds(given < 0 ? 0 : given);
}

NumericsPolicy numerics_policy(std::string_view text) {
  try {
    return parse_numerics_policy(text);
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(std::string("arbiter_communicator_options.numerics: ") + error.what());
  }
}

}  // namespace

void refuse_size(const char* name, std::size_t size, std::size_t known, const char* macro) {
  throw InvalidArgument(fmt::format(
      "{}: struct_size is {}, and this library (version {}) knows {} bytes. Set the struct up with {}; a program that "
      "uses members of a newer arbiter.h needs the library of that header",
      name, size, version(), known, macro));
}

arbiter_communicator_options read_options(const arbiter_communicator_options* given) {
  const arbiter_communicator_options defaults = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  if (given == nullptr) return defaults;
  constexpr std::size_t first = offsetof(arbiter_communicator_options, log_user) + sizeof(void*);
  // The version first: with another one, even the size may mean something else.
  if (given->struct_size >= offsetof(arbiter_communicator_options, device) &&
      given->abi_version != ARBITER_ABI_VERSION) {
    throw InvalidArgument(fmt::format(
        "arbiter_communicator_options.abi_version is {}, and this library (version {}) has ABI version {}. Set the "
        "struct up with ARBITER_COMMUNICATOR_OPTIONS_INIT, and compile against the arbiter.h of the library",
        given->abi_version, version(), ARBITER_ABI_VERSION));
  }
  return read_struct(given, defaults, first, "arbiter_communicator_options", "ARBITER_COMMUNICATOR_OPTIONS_INIT");
}

arbiter_callbacks read_callbacks(const arbiter_callbacks* given) {
  const arbiter_callbacks defaults = ARBITER_CALLBACKS_INIT;
  constexpr std::size_t first = offsetof(arbiter_callbacks, user) + sizeof(void*);
  return read_struct(given, defaults, first, "arbiter_callbacks", "ARBITER_CALLBACKS_INIT");
}

Dtype read_dtype(int dtype) {
  switch (dtype) {
    case ARBITER_BF16:
      return Dtype::bf16;
    case ARBITER_FP16:
      return Dtype::fp16;
    case ARBITER_FP32:
      return Dtype::fp32;
    default:
      throw InvalidArgument(
          fmt::format("dtype {} is unknown; expected ARBITER_BF16, ARBITER_FP16 or ARBITER_FP32", dtype));
  }
}

ProblemFamily read_family(const arbiter_family* given) {
  const arbiter_family defaults = ARBITER_FAMILY_INIT;
  constexpr std::size_t first = offsetof(arbiter_family, reserved) + sizeof(std::int32_t);
  const arbiter_family family = read_struct(given, defaults, first, "arbiter_family", "ARBITER_FAMILY_INIT");
  if (family.pattern == nullptr) {
    throw InvalidArgument("arbiter_family.pattern is NULL; expected a name such as \"allreduce\" (docs/catalogue.md)");
  }
  if (family.mode != ARBITER_GRAPH && family.mode != ARBITER_EAGER) {
    throw InvalidArgument(
        fmt::format("arbiter_family.mode is {}; expected ARBITER_GRAPH or ARBITER_EAGER", family.mode));
  }
  return {family.pattern, read_dtype(family.dtype), family.hidden, family.max_tokens,
          family.mode == ARBITER_GRAPH ? Mode::graph : Mode::eager};
}

CallTensors read_tensors(const arbiter_tensors* given) {
  const arbiter_tensors defaults = ARBITER_TENSORS_INIT;
  constexpr std::size_t first = offsetof(arbiter_tensors, moe_rows) + sizeof(std::int64_t);
  const arbiter_tensors tensors = read_struct(given, defaults, first, "arbiter_tensors", "ARBITER_TENSORS_INIT");
  CallTensors call;
  copy_tensors(tensors, call);
  call.epsilon = tensors.epsilon;
  call.weight_bias = tensors.weight_bias;
  call.gamma_fp32 = tensors.gamma_fp32 != 0;
  call.scale_out_bytes = tensors.scale_out_bytes;
  call.moe_weights_fp32 = tensors.moe_weights_fp32 != 0;
  call.moe_experts = tensors.moe_experts;
  call.moe_top_k = tensors.moe_top_k;
  call.moe_rows = tensors.moe_rows;
  return call;
}

CommunicatorOptions communicator_options(const arbiter_communicator_options& given) {
  CommunicatorOptions options;
  EnvironmentVariables& variables = options.variables;
  if (given.reserved != 0) throw InvalidArgument("arbiter_communicator_options.reserved must be 0");
  apply_switch("multicast", given.multicast, variables.multicast);
  apply_switch("nccl", given.nccl, options.nccl);
  apply_switch("jit", given.jit, variables.jit);
  apply_switch("shipped", given.shipped, options.shipped_decisions);
  apply_switch("kernels", given.kernels, variables.kernels);
  options.trust_decisions_data = given.kernels == ARBITER_ON;
  if (given.decisions_data != nullptr || given.decisions_bytes != 0) {
    if (given.decisions_data == nullptr || given.decisions_bytes == 0) {
      throw InvalidArgument(
          "arbiter_communicator_options: decisions_data and decisions_bytes belong together; one is 0");
    }
    options.decisions_data.assign(static_cast<const char*>(given.decisions_data), given.decisions_bytes);
    options.require_decisions = true;
  } else if (given.decisions_path != nullptr) {
    variables.db = given.decisions_path;
    options.require_decisions = !variables.db.empty();
  }
  if (given.backend != nullptr) {
    variables.off = std::string_view(given.backend) == "off";
    variables.backend = variables.off ? Backend::nccl : parse_backend(given.backend);
  }
  if (given.max_sms < 0) {
    throw InvalidArgument(
        fmt::format("arbiter_communicator_options.max_sms is {}; expected multiprocessors, or 0 for ARBITER_MAX_SMS",
                    given.max_sms));
  }
  if (given.max_sms > 0) variables.max_sms = given.max_sms;
  if (given.numerics != nullptr) variables.numerics = numerics_policy(given.numerics);
  options.candidate = text_or_empty(given.candidate);
  if (given.cache_dir != nullptr) variables.cache_dir = given.cache_dir;
  apply_deadline("timeout_ms", "ARBITER_TIMEOUT_MS", given.timeout_ms, variables.timeout);
  apply_deadline("first_timeout_ms", "ARBITER_FIRST_TIMEOUT_MS", given.first_timeout_ms, variables.first_timeout);
  if (given.startup_tune_ms < -1) {
    throw InvalidArgument(
        fmt::format("arbiter_communicator_options.startup_tune_ms is {}; expected milliseconds, -1 for none, or 0 for "
                    "ARBITER_STARTUP_TUNE_MS",
                    given.startup_tune_ms));
  }
  if (given.startup_tune_ms != 0) {
    variables.startup_tune = std::chrono::milliseconds(std::max<std::int64_t>(given.startup_tune_ms, 0));
  }
  options.startup_tuner = startup_tuner();
  if (given.log_level != nullptr) variables.log = given.log_level;
  if (given.log != nullptr) {
    options.log = [log = given.log, user = given.log_user](LogLevel level, std::string_view text) {
      log(user, static_cast<arbiter_log_level>(level), std::string(text).c_str());
    };
  }
  return options;
}

}  // namespace arbiter::c
