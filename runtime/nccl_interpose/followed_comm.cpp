#include "followed_comm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"
#include "group/collective.hpp"
#include "settings.hpp"

namespace arbiter::nccl_interpose {
namespace {

/// Rows of the prepared families: short, so that the choice changes at the message size where it should.
constexpr int row_bytes = 1024;
constexpr std::array dtypes{Dtype::bf16, Dtype::fp16, Dtype::fp32};  // as the enumeration has them

int asked(int (*ask)(NcclComm, int*), NcclComm comm, const char* call) {
  int value = 0;
  if (const int result = ask(comm, &value); result != nccl_success) throw NcclFailure(call, result);
  return value;
}

/// Differs between machines, also where containers have equal names.
std::string machine() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

std::vector<ProblemFamily> families(std::size_t message_bytes) {
  std::vector<ProblemFamily> all;
  for (const Dtype dtype : dtypes) {
    ProblemFamily family;
    family.dtype = dtype;
    family.hidden = row_bytes / static_cast<int>(element_bytes(dtype));
    family.max_tokens = static_cast<std::int64_t>(message_bytes / row_bytes);
    family.mode = Mode::graph;  // one mode, so that ranks need not agree on whether a call is captured
    all.push_back(family);
  }
  return all;
}

std::string settings_text() {
  return fmt::format("verify each {}, workspace {}", settings().verify_each, settings().workspace_bytes);
}

/// One line for every mismatch, and one at each power of two of comparisons, so that silence means something.
void report(const std::string& difference, std::int64_t call) {
  if (!difference.empty()) {
    log().error(fmt::format("ARBITER_NCCL=verify: allreduce {} of this communicator: {}", call, difference));
    return;
  }
  const std::int64_t compared = call / settings().verify_each;
  if ((compared & (compared - 1)) == 0) log().info(fmt::format("verified {} allreduces against NCCL's", compared));
}

}  // namespace

FollowedComm::FollowedComm(NcclComm comm) : settings_cpu_(settings().cpu_device) { host_->comm = comm; }

void FollowedComm::set_up(cudaStream_t stream, const std::function<void()>& allocated) noexcept {
  bool called = false;
  const auto call_once = [&] {
    if (!std::exchange(called, true)) allocated();
  };
  {
    const std::lock_guard lock(mutex_);
    if (fresh() && (settings_cpu_ || !is_capturing(stream))) set_up_or_forward(call_once);
  }
  call_once();
}

void FollowedComm::set_up_or_forward(const std::function<void()>& allocated) noexcept {
  std::string reason;
  Phase expected = Phase::fresh;  // another thread may abort it meanwhile
  try {
    set_up_or_throw(allocated);
    if (!phase_.compare_exchange_strong(expected, Phase::ready, std::memory_order_release)) communicator_->abort();
    return;
  } catch (const std::exception& error) {
    reason = error.what();
  }
  if (phase_.compare_exchange_strong(expected, Phase::forwarded)) {
    const CurrentDevice current(device_ ? ordinal() : -1);
    release();
  }
  if (host_->rank == 0) log().info(fmt::format("allreduces of this communicator are NCCL's: {}", reason));
}

void FollowedComm::set_up_or_throw(const std::function<void()>& allocated) {
  const RealLibrary& real = real_library();
  host_->settle();
  host_->size = asked(real.nccl->comm_count, host_->comm, "ncclCommCount");
  host_->rank = asked(real.nccl->comm_user_rank, host_->comm, "ncclCommUserRank");
  if (host_->size < 2) throw Unsupported("a single rank has nothing to exchange");
  if (host_->size > max_world) {
    throw Unsupported(fmt::format("it has {} ranks, and kernels are for up to {}", host_->size, max_world));
  }
  const int device = settings_cpu_ ? -1 : asked(real.nccl->comm_cu_device, host_->comm, "ncclCommCuDevice");
  const CurrentDevice current(device);
  const RelaxedCapture relaxed(!settings_cpu_);
  const auto started = std::chrono::steady_clock::now();
  device_ = settings_cpu_ ? make_cpu_device(host_->rank) : make_cuda_device(device);
  const std::shared_ptr<Bootstrap> bootstrap = make_comm_bootstrap(host_, device_, allocated);

  // From here on, what fails on one rank fails on all.
  CommunicatorOptions options;
  const auto read_options = [&] {
    options.variables = EnvironmentVariables::read();
    options.variables.timeout = std::chrono::milliseconds(0);  // as NCCL: whoever watches the program aborts it
    options.nccl_communicator = make_host_nccl(host_);
    options.check_pointers = false;  // NCCL takes whatever the device can address
    options.warm_nccl = false;       // the program calls its own NCCL when it sees fit
    options.workspace_limit = settings().workspace_bytes;
    if (!settings_cpu_) {
      follow_nccl_ = std::make_unique<FollowNccl>(host_, *device_);
      order_.emplace(make_cuda_stream_calls(device), [this](cudaStream_t stream) { follow_nccl_->enqueue(stream); });
    }
    if (settings().verify_each > 0) verifier_ = std::make_unique<Verifier>(host_, device_, settings().message_bytes());
  };
  everywhere(*bootstrap, "read the environment", read_options);
  const std::string here = machine();
  for (const std::string& other : bootstrap->allgather(here)) {
    if (other != here) throw Unsupported("its ranks are on several machines");
  }
  require_equal(*bootstrap, "set up behind NCCL", {{"ARBITER_NCCL and ARBITER_NCCL_WORKSPACE", settings_text()}});
  communicator_ = std::make_unique<Communicator>(bootstrap, device_, std::move(options));
  const SymmetricProvider provider = communicator_->symmetric_provider();
  prepare();
  if (host_->rank == 0) {
    const auto milliseconds =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - started).count();
    const ProblemFamily& family = families_.front().family();
    log().info(fmt::format(
        "communicator of {} ranks: allreduces (sum of bf16, fp16, fp32) up to {} bytes are Arbiter's where "
        "it chooses a kernel; {} bytes of device memory ({}), set up in {} ms",
        host_->size, family.max_tokens * row_bytes, communicator_->workspace_bytes() + communicator_->scratch_bytes(),
        to_string(provider), milliseconds));
  }
}

/// The largest messages whose workspace is allowed. All ranks come to the same.
void FollowedComm::prepare() {
  for (std::size_t bytes = settings().message_bytes();; bytes -= std::max<std::size_t>(bytes / 8, 1)) {
    bytes = bytes / row_bytes * row_bytes;
    if (bytes == 0) {
      throw Unsupported(fmt::format("ARBITER_NCCL_WORKSPACE={} is too small for any message; set a larger one",
                                    settings().workspace_bytes));
    }
    const std::vector<ProblemFamily> wanted = families(bytes);
    try {
      communicator_->prepare(wanted);
    } catch (const WorkspaceLimit&) {
      continue;
    }
    for (const ProblemFamily& family : wanted) families_.push_back(communicator_->prepare(family));
    return;
  }
}

int FollowedComm::run(const TakenCall& call) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    const CurrentDevice current(ordinal());
    // What NCCL has not enqueued yet would run behind this call here, and before it elsewhere.
    if (host_->nonblocking) host_->settle();
    const bool captured = order_ && order_->enter(call.stream);
    const bool verify = verifier_ && !captured && ++calls_ % settings().verify_each == 0;
    if (verify) verifier_->expect(call);
    families_[static_cast<std::size_t>(call.dtype)].all_reduce(call.input, call.output,
                                                               static_cast<std::int64_t>(call.count), call.stream,
                                                               captured ? Mode::graph : Mode::eager);
    if (order_) order_->leave(call.stream);
    if (verify) report(verifier_->compare(call), calls_);
    return nccl_success;
  } catch (const NcclFailure& failure) {
    return failure.result();
  } catch (const Poisoned&) {
    return nccl_remote_error;
  } catch (const InvalidArgument& error) {
    log().warn(fmt::format("ncclAllReduce: {}", error.what()));
    return nccl_invalid_argument;
  } catch (const std::exception& error) {
    log().error(fmt::format("ncclAllReduce: {}", error.what()));
    return nccl_internal_error;
  }
}

void FollowedComm::pass(cudaStream_t stream) noexcept {
  if (phase_.load(std::memory_order_acquire) != Phase::ready || !order_) return;
  try {
    const std::lock_guard lock(mutex_);
    if (order_->pass_again(stream)) return;
    // The default streams' handles are the same on all devices; every other handle says where it belongs.
    const bool default_stream = reinterpret_cast<std::uintptr_t>(stream) <= 2;
    const CurrentDevice current(default_stream ? ordinal() : -1);
    order_->pass(stream);
  } catch (const std::exception& error) {  // NCCL will find the same fault, and says so to the program
    log().error(fmt::format("a stream could not wait for an allreduce of Arbiter's: {}", error.what()));
  }
}

int FollowedComm::async_error() const noexcept {
  if (phase_.load(std::memory_order_acquire) != Phase::ready) return nccl_success;
  try {
    communicator_->check();
    return nccl_success;
  } catch (const std::exception&) {
    return nccl_remote_error;
  }
}

void FollowedComm::destroy() noexcept {
  const std::lock_guard lock(mutex_);
  const bool was_ready = phase_.exchange(Phase::closed) == Phase::ready;
  if (!was_ready) {
    host_->closed = true;
    return;
  }
  const CurrentDevice current(ordinal());
  if (order_) order_->finish();
  // No rank waits for another here, because NCCL's ranks need not destroy at the same time: memory that peers have
  // mapped stays until they let go of it too. Legacy IPC does not work like that, so that memory is kept.
  host_->closed = true;
  if (communicator_->symmetric_provider() == SymmetricProvider::cuda_ipc) static_cast<void>(communicator_.release());
  release();
}

/// While the device is current, and not when the last thread forgets this object.
void FollowedComm::release() noexcept {
  families_.clear();
  communicator_.reset();
  verifier_.reset();
  order_.reset();
  follow_nccl_.reset();
}

void FollowedComm::abort() noexcept {
  // Without the lock: a call that holds it may be waiting for what only this ends.
  const bool was_ready = phase_.exchange(Phase::closed) == Phase::ready;
  host_->closed = true;
  if (!was_ready) return;
  const CurrentDevice current(ordinal());
  communicator_->abort();
}

}  // namespace arbiter::nccl_interpose
