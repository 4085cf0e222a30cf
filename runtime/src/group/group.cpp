#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>
#include <string>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/fingerprint.hpp"
#include "arbiter/runtime/group.hpp"
#include "arbiter/runtime/kernel_cache.hpp"
#include "candidate/geometry.hpp"
#include "group/collective.hpp"
#include "group/fault.hpp"
#include "memory/multicast_probe.hpp"
#include "memory/shared_buffers.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

/// Small enough that long launches use several epochs there too.
constexpr std::uint64_t cpu_push_buffer_bytes = std::uint64_t{32} << 10;

/// Preference among providers that work everywhere: the one that also reaches other nodes and multicast comes first.
constexpr SymmetricProvider preference[] = {SymmetricProvider::vmm, SymmetricProvider::cuda_ipc,
                                            SymmetricProvider::shared_memory};

void choose_provider(Device& device, Bootstrap& bootstrap, GroupCapabilities& result) {
  if (bootstrap.size() == 1) {
    result.symmetric_reason = "a single rank has no peers";
    return;
  }
  const std::vector<ProviderProbe> probes = probe_symmetric_memory(device, bootstrap);
  for (const SymmetricProvider wanted : preference) {
    for (const ProviderProbe& probe : probes) {
      if (probe.provider == wanted && probe.usable) {
        result.symmetric_provider = wanted;
        return;
      }
    }
  }
  result.symmetric_reason = joined(probes, "; ", [](const ProviderProbe& probe) {
    return fmt::format("{}: {}", to_string(probe.provider), probe.reason);
  });
  if (probes.empty()) result.symmetric_reason = "this device has no symmetric-memory provider";
}

/// "90 on ranks 0, 1; 80 on rank 2"; empty if all are equal.
std::string differences(const std::vector<std::int32_t>& all) {
  std::map<std::int32_t, std::vector<int>> ranks;
  for (std::size_t rank = 0; rank < all.size(); ++rank) ranks[all[rank]].push_back(static_cast<int>(rank));
  if (ranks.size() < 2) return {};
  return joined(ranks, "; ",
                [](const auto& item) { return fmt::format("{} on {}", item.first, list_ranks(item.second)); });
}

std::vector<std::int32_t> gathered(Bootstrap& bootstrap, std::int32_t mine) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(bootstrap.size()));
  bootstrap.allgather(&mine, sizeof(mine), all.data());
  return all;
}

/// What all ranks agree on before the first allocation.
GroupCapabilities agree_on_capabilities(Device& device, Bootstrap& bootstrap, const GroupOptions& options) {
  const EnvironmentVariables& variables = options.variables;
  GroupCapabilities result;
  result.numerics = options.variables.numerics;
  result.size = bootstrap.size();
  if (options.catalogue) result.catalogue = options.catalogue.get();
  if (options.templates) result.templates = options.templates.get();
  const DeviceProperties& properties = device.properties();
  require_equal(bootstrap, "creating a group",
                {{"world size", std::to_string(bootstrap.size())},
                 {"Arbiter version", std::string(version())},
                 {"catalogue", result.catalogue->hash()},
                 {"multicast (ARBITER_MULTICAST)", variables.multicast ? "on" : "off"},
                 {"most multiprocessors (ARBITER_MAX_SMS)", std::to_string(variables.max_sms)},
                 {"device kind", std::string(to_string(device.kind()))}});
  // Enumeration must give the same list everywhere, so the weakest device sets the limit.
  const std::vector<std::int32_t> capabilities = gathered(bootstrap, properties.compute_capability);
  const std::vector<std::int32_t> threads = gathered(bootstrap, properties.max_threads_per_block);
  result.limits.sm = *std::min_element(capabilities.begin(), capabilities.end());
  result.limits.max_threads = *std::min_element(threads.begin(), threads.end());
  const std::vector<std::string> devices = bootstrap.allgather(properties.unique_id);
  for (const std::string& one : devices) {
    result.ranks_on_device =
        std::max(result.ranks_on_device, static_cast<int>(std::count(devices.begin(), devices.end(), one)));
  }
  if (variables.off) {
    result.symmetric_reason = "Arbiter is off (ARBITER_BACKEND)";
  } else if (const std::string mixed = differences(capabilities); !mixed.empty()) {
    // The same source becomes different code there: whether its protocols get along is nothing that anybody has tried.
    result.symmetric_reason = "kernels need GPUs of one compute capability: " + mixed;
  } else {
    choose_provider(device, bootstrap, result);
  }
  return result;
}

/// Sets `reason` to that of the first rank that has one; clears it if none has.
bool first_reason(int own_rank, const std::vector<std::string>& reasons, std::string& reason) {
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    if (reasons[i].empty()) continue;
    reason = static_cast<int>(i) == own_rank ? reasons[i] : fmt::format("rank {}: {}", i, reasons[i]);
    return true;
  }
  reason.clear();
  return false;
}

}  // namespace

Group::Group(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device, const GroupOptions& options)
    : device_(std::move(device)),
      bootstrap_(std::move(bootstrap)),
      options_(options),
      uncaught_(std::uncaught_exceptions()) {
  everywhere(*bootstrap_, "make its device current", [&] { device_->activate(); });
  capabilities_ = agree_on_capabilities(*device_, *bootstrap_, options_);
  if (!options_.cache) options_.cache = make_kernel_cache(options_.variables, rank() == 0, options_.warn);
  prove_multicast();
  find_nccl();
  if (!options_.nccl_when_needed || !nccl_can_wait()) require_nccl();
  const std::optional<SymmetricProvider> provider = capabilities_.symmetric_provider;
  if (size() > 1 && !provider && !nccl_ && !options_.variables.off) {
    throw Unavailable("no way to exchange data between the ranks. Symmetric memory: " + capabilities_.symmetric_reason +
                      ". NCCL: " + capabilities_.nccl_reason + ". `arbiter doctor` shows what each rank can do.");
  }
  everywhere(*bootstrap_, "allocate its fault record", [&] {
    const bool multicast = capabilities_.multicast();
    workspace_ = std::make_unique<Workspace>(*device_, *bootstrap_, provider, multicast, catalogue().control_arrays(),
                                             options_.first_epoch);
    fault_state_ = &workspace_->fault()->state;
    shared_buffers_ = std::make_unique<SharedBuffers>(*device_, *bootstrap_, provider, multicast);
  });
  capabilities_.environment = fingerprint(
      *device_, *bootstrap_, provider ? std::string(to_string(*provider)) : std::string("none"), catalogue().hash());
  capabilities_.environment.multicast = capabilities_.multicast();
  // What kernels take on a part of the GPU, and which of them is fastest there, says nothing of the whole GPU.
  int& sms = capabilities_.environment.sm_count;
  if (options_.variables.max_sms > 0) sms = std::min(sms, options_.variables.max_sms);
  // Decisions are chosen by the environment: a rank that sees another one would choose others.
  require_equal(*bootstrap_, "creating a group",
                {{"environment", environment().key()},
                 {"push_buffer_bytes", std::to_string(push_buffer_bytes())},
                 {"first_epoch", std::to_string(options_.first_epoch)}});
}

Group::~Group() {
  // A rank that leaves early tells its peers. Otherwise all wait for each other, because a peer's last kernel may
  // still be storing into this rank's workspace; after a fault that wait could be for a dead rank.
  try {
    device_->activate();
    const bool leaving_early = std::uncaught_exceptions() > uncaught_;
    if (leaving_early) abort();
    if (!leaving_early && !poisoned()) {
      // Whatever streams the calls were made in: peers' memory goes away when the last rank is here.
      device_->synchronize_device();
      bootstrap_->barrier();
    } else if (nccl_) {
      nccl_->abort();
    }
  } catch (...) {  // destructors do not throw, and there is nobody left to tell
  }
  symmetric_buffers_.reset();
  nccl_buffers_.reset();
  nccl_.reset();
  shared_buffers_.reset();
  workspace_.reset();
}

std::uint64_t Group::push_buffer_bytes() const noexcept {
  if (options_.push_buffer_bytes != 0) return options_.push_buffer_bytes;
  return device_->kind() == DeviceKind::cpu ? cpu_push_buffer_bytes : default_push_buffer_bytes;
}

NcclCommunicator::RegisteredBuffers& Group::reserve_nccl_symmetric(std::size_t bytes) {
  if (!nccl_) throw Unavailable("NCCL symmetric windows need NCCL: " + capabilities_.nccl_reason);
  if (!symmetric_buffers_ || symmetric_bytes_ < bytes) {
    symmetric_buffers_ = nccl_->register_symmetric(bytes);
    symmetric_bytes_ = bytes;
  }
  return *symmetric_buffers_;
}

NcclCommunicator::RegisteredBuffers& Group::reserve_nccl_buffers(std::size_t bytes) {
  if (!nccl_) throw Unavailable("buffers that NCCL knows need NCCL: " + capabilities_.nccl_reason);
  if (!nccl_buffers_ || nccl_buffer_bytes_ < bytes) {
    nccl_buffers_ = nccl_->register_buffers(bytes);
    nccl_buffer_bytes_ = bytes;
  }
  return *nccl_buffers_;
}

void Group::reserve(std::uint64_t push_bytes, std::uint64_t staging_bytes) {
  check();
  workspace_->reserve(push_bytes, staging_bytes);
}
std::size_t Group::workspace_bytes() const noexcept { return workspace_->bytes(); }

void Group::throw_fault() const {
  if (is_poisoned(*workspace_->fault())) throw_poisoned(workspace_->read_fault(), options_.variables);
  throw Poisoned(fmt::format(
      "rank {} gave up on this group (abort was called); destroy the communicator and create a new one", rank()));
}

void Group::abort() noexcept {
  aborted_ = true;
  try {
    if (workspace_) workspace_->abort_all();
    if (nccl_) nccl_->abort();
  } catch (...) {  // giving up cannot fail
  }
}

void Group::recover() {
  workspace_->reset();
  const bool nccl_lost = !bootstrap_->all(!aborted_);
  aborted_ = false;
  if (nccl_lost && nccl_) {  // an aborted NCCL communicator is of no use any more
    symmetric_buffers_.reset();
    nccl_buffers_.reset();
    symmetric_bytes_ = 0;
    nccl_.reset();
    find_nccl();
    require_nccl();
  }
}

/// Opt-in, and only what a store and a load have proven on all ranks. The ranks agreed on the option before.
void Group::prove_multicast() {
  std::string& reason = capabilities_.multicast_reason;
  if (!options_.variables.multicast) {
    reason = "opt-in: set ARBITER_MULTICAST=on (and not NCCL_NVLS_ENABLE=0) to allow it";
  } else if (!capabilities_.symmetric_provider) {
    reason = "there is no symmetric memory: " + capabilities_.symmetric_reason;
  } else {
    reason = probe_multicast(*device_, *bootstrap_, *capabilities_.symmetric_provider, *options_.cache);
  }
  if (capabilities_.multicast()) capabilities_.limits.capabilities.emplace_back("multicast");
}

/// Is anything but NCCL left to serve calls?
bool Group::nccl_can_wait() const {
  return capabilities_.symmetric_provider && !options_.variables.off && options_.variables.backend != Backend::nccl &&
         !options_.nccl_communicator;
}

/// Could there be one? The same answer on all ranks.
void Group::find_nccl() {
  std::string& nccl_reason = capabilities_.nccl_reason;
  nccl_reason = [&]() -> std::string {
    if (!options_.nccl) return "switched off by the caller";
    if (options_.nccl_communicator || options_.make_nccl) return "";
    if (device_->kind() == DeviceKind::cpu) return "the CPU device has no NCCL";
    if (size() == 1) return "a single rank has no peers";
    return nccl_version().empty() ? "NCCL was not found on this rank" : "";
  }();
  // Its creation is collective: no rank may enter while another cannot.
  capabilities_.nccl_forcing_reason.clear();
  first_reason(rank(), bootstrap_->allgather(nccl_reason), nccl_reason);
}

void Group::require_nccl() {
  if (!nccl_ && capabilities_.has_nccl()) create_nccl();
}

void Group::create_nccl() {
  std::string failure;
  try {
    nccl_ = options_.nccl_communicator;
    if (!nccl_ && options_.make_nccl) nccl_ = options_.make_nccl(*device_, *bootstrap_);
    if (!nccl_) nccl_ = make_nccl_communicator(*device_, *bootstrap_);
  } catch (const Poisoned&) {
    throw;
  } catch (const Error& error) {
    failure = error.what();
  }
  if (first_reason(rank(), bootstrap_->allgather(failure), capabilities_.nccl_reason)) {
    nccl_.reset();
    return;
  }
  first_reason(rank(), bootstrap_->allgather(nccl_->forcing_problem()), capabilities_.nccl_forcing_reason);
}

std::unique_ptr<Group> make_group(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                  const GroupOptions& options) {
  if (!bootstrap || !device) throw InvalidArgument("make_group needs a bootstrap and a device; one of them is null");
  const int size = bootstrap->size();
  if (size < 1 || size > max_world) {
    throw InvalidArgument(fmt::format("a group of {} ranks; expected 1 to {}", size, max_world));
  }
  return std::unique_ptr<Group>(new Group(std::move(bootstrap), std::move(device), options));
}

std::string_view version() noexcept { return ARBITER_VERSION; }

}  // namespace arbiter
