// The tuner plugin that NCCL opens (NCCL_TUNER_PLUGIN=libarbiter-nccl-tuner.so). Around calls of Arbiter's own runtime
// it forces what the runtime asks for; for everyone else it serves the snapshot that ARBITER_DB names.
//
// Rank invariance: NCCL hangs if ranks choose differently, so a choice here depends on nothing but the function, its
// bytes and the communicator's ranks and nodes, which are equal on all ranks. The number of pipelined operations is
// equal too; single calls were measured, so groups of several are left to NCCL. Whether buffers are registered is about
// this rank's buffers alone, and is not looked at.
//
// Nothing is thrown at NCCL and no error is returned to it: either would fail the caller's collective.
#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "arbiter/db/kernels.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/plain_text.hpp"
#include "nccl/force.hpp"
#include "plugin_abi.hpp"
#include "serving_table.hpp"

#define ARBITER_EXPORT __attribute__((visibility("default")))

namespace arbiter::nccl_plugin {
namespace {

constexpr const char* plugin_name = "arbiter";

// State of the process, because NCCL opens this library once for all communicators.
std::atomic<unsigned long long> announced{0};
thread_local NcclForce* forced = nullptr;

/// True the first time: every communicator says the same, and programs may have thousands. What is new behind a
/// thousand messages is nothing that a person reads.
bool first_time(const std::string& message) {
  constexpr std::size_t most = 1000;
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  return said.size() < most && said.insert(message).second;
}

struct Context {
  Logger logger = nullptr;
  ServingTable table;
  std::atomic<bool> absence_said{false};

  void say(LogLevel level, const std::string& message) const {
    if (logger == nullptr || !first_time(message)) return;
    logger(level, log_init | log_tuning, __FILE__, __LINE__, "TUNER/arbiter: %s", one_line(message).c_str());
  }
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::unique_ptr<Context> make_context(std::size_t ranks, std::size_t nodes, Logger logger) {
  auto context = std::make_unique<Context>();
  context->logger = logger;
  const std::string path = variable("ARBITER_DB");
  if (path.empty()) {
    context->say(log_info, "ARBITER_DB names no snapshot: NCCL chooses as without a tuner plugin");
    return context;
  }
  try {
    context->table = read_serving_table(path, variable("ARBITER_ENVIRONMENT"), ranks, nodes);
    context->say(
        log_info,
        fmt::format("'{}' serves allreduce of {} ranks on {} nodes: {}. Symmetric kernels do not ask tuner plugins",
                    path, ranks, nodes, context->table.describe()));
    if (const std::string kernels = not_loaded(path, carried_kernels(path)); !kernels.empty()) {
      context->say(log_info, kernels);
    }
  } catch (const std::exception& error) {
    context->say(log_warn, std::string("NCCL chooses as without a tuner plugin: ") + error.what());
  }
  return context;
}

int start(void** out, std::size_t ranks, std::size_t nodes, Logger logger) noexcept {
  announced.fetch_add(1);
  if (out == nullptr) return success;
  *out = nullptr;
  try {
    *out = make_context(ranks, nodes, logger).release();
  } catch (...) {  // no memory: NCCL goes on without us
  }
  return success;
}

/// False if NCCL does not offer the pair here; then nothing is changed.
bool apply(int algorithm, int protocol, int max_channels, float** cost_table, int algorithms, int protocols,
           int* channels) noexcept {
  if (algorithm >= 0) {
    if (cost_table == nullptr || algorithm >= algorithms || protocol < 0 || protocol >= protocols) return false;
    float& cost = reinterpret_cast<float*>(cost_table)[algorithm * protocols + protocol];
    if (!(cost >= 0)) return false;  // `ignored`, and whatever else NCCL would not take
    cost = 0;
  }
  // What is set for these NCCL does not limit to the channels that there are.
  const bool collnet = algorithm == static_cast<int>(NcclAlgorithm::collnet_direct) ||
                       algorithm == static_cast<int>(NcclAlgorithm::collnet_chain);
  if (max_channels > 0 && channels != nullptr && !collnet) *channels = max_channels;
  return true;
}

int get_coll_info(void* opaque, int function, std::size_t bytes, int pipelined, float** cost_table, int algorithms,
                  int protocols, int /*registered*/, int* channels) noexcept {
  if (function != all_reduce) return success;
  if (NcclForce* wanted = forced) {
    ++wanted->consulted;
    if (apply(wanted->algorithm, wanted->protocol, wanted->channels, cost_table, algorithms, protocols, channels)) {
      ++wanted->applied;
    }
    return success;
  }
  auto* context = static_cast<Context*>(opaque);
  if (context == nullptr || pipelined > 1) return success;
  const NcclConfiguration* found = context->table.find(bytes);
  if (found == nullptr) return success;
  if (apply(static_cast<int>(found->algorithm), static_cast<int>(found->protocol), found->channels, cost_table,
            algorithms, protocols, channels)) {
    return success;
  }
  if (!context->absence_said.exchange(true)) {
    try {
      context->say(
          log_warn,
          fmt::format(
              "NCCL does not offer {} for allreduce of {} bytes here, though it was measured; it chooses by itself",
              found->text(), bytes));
    } catch (...) {  // no memory for a message
    }
  }
  return success;
}

int finish(void* context) noexcept {
  delete static_cast<Context*>(context);
  return success;
}

int start_v4(std::size_t ranks, std::size_t nodes, Logger logger, void** context) noexcept {
  return start(context, ranks, nodes, logger);
}

int start_v5(void** context, std::uint64_t /*id*/, std::size_t ranks, std::size_t nodes, Logger logger,
             void* /*domains*/, void* /*constants*/) noexcept {
  return start(context, ranks, nodes, logger);
}

}  // namespace

extern "C" {

ARBITER_EXPORT extern const TunerV4 ncclTunerPlugin_v4;
ARBITER_EXPORT extern const TunerV5 ncclTunerPlugin_v5;
ARBITER_EXPORT extern const TunerV6 ncclTunerPlugin_v6;
ARBITER_EXPORT extern const TunerV6 ncclTunerPlugin_v7;
const TunerV4 ncclTunerPlugin_v4 = {plugin_name, start_v4, get_coll_info, finish};
const TunerV5 ncclTunerPlugin_v5 = {plugin_name, start_v5, get_coll_info, finish};
const TunerV6 ncclTunerPlugin_v6 = {plugin_name, start_v5, get_coll_info, finish, nullptr};
const TunerV6 ncclTunerPlugin_v7 = {plugin_name, start_v5, get_coll_info, finish, nullptr};

ARBITER_EXPORT void arbiter_nccl_tuner_force_v1(NcclForce* force) noexcept { forced = force; }
ARBITER_EXPORT unsigned long long arbiter_nccl_tuner_announced_v1() noexcept { return announced.load(); }
}

}  // namespace arbiter::nccl_plugin
