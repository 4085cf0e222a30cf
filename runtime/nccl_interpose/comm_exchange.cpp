#include "comm_exchange.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter::nccl_interpose {
namespace {

/// Ranks of this process meet here, once NCCL has told them that they are all of one process.
class MeetingPoint {
 public:
  std::unique_ptr<Bootstrap> enter(std::uint64_t key, int rank, int size) {
    const std::lock_guard lock(mutex_);
    Party& party = parties_[key];
    if (party.bootstraps.empty()) party.bootstraps = make_in_process_bootstraps(size, std::chrono::minutes(10));
    std::unique_ptr<Bootstrap> mine = std::move(party.bootstraps[static_cast<std::size_t>(rank)]);
    if (++party.entered == size) parties_.erase(key);
    return mine;
  }

 private:
  struct Party {
    std::vector<std::unique_ptr<Bootstrap>> bootstraps;
    int entered = 0;
  };
  std::mutex mutex_;
  std::map<std::uint64_t, Party> parties_;
};

std::uint64_t random_number() {
  std::random_device source;
  return std::uint64_t{source()} << 32 | source();
}

/// NCCL's exchange, or, among threads of one process, one without NCCL: there, kernels that wait for a peer and a peer
/// that waits for the driver can wait for each other.
class CommBootstrap final : public Bootstrap {
 public:
  CommBootstrap(std::shared_ptr<HostComm> host, std::unique_ptr<Bootstrap> nccl)
      : host_(std::move(host)), nccl_(std::move(nccl)) {
    static MeetingPoint* const meeting_point = new MeetingPoint;  // never destroyed: other threads may be in it
    static const std::uint64_t process = random_number();
    struct Identity {
      std::uint64_t process = 0;
      std::int64_t pid = 0;  // a fork has the same number
      std::uint64_t rank = 0;
    } const mine{process, getpid(), random_number()};
    std::vector<Identity> all(static_cast<std::size_t>(size()));
    nccl_->allgather(&mine, sizeof(mine), all.data());
    for (const Identity& one : all) {
      if (one.process != mine.process || one.pid != mine.pid) return;
    }
    threads_ = meeting_point->enter(all.front().rank, rank(), size());
  }

  int rank() const noexcept override { return nccl_->rank(); }
  int size() const noexcept override { return nccl_->size(); }
  std::string name() const override { return nccl_->name(); }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    require_open();
    inner().allgather(send, bytes, receive);
    require_open();
  }
  void broadcast(void* data, std::size_t bytes, int root) override {
    require_open();
    inner().broadcast(data, bytes, root);
    require_open();
  }
  void barrier() override {
    if (!host_->closed) inner().barrier();
  }

 private:
  Bootstrap& inner() const noexcept { return threads_ ? *threads_ : *nccl_; }
  void require_open() const {
    if (host_->closed) throw Poisoned("the program destroyed or aborted its NCCL communicator");
  }

  std::shared_ptr<HostComm> host_;
  std::unique_ptr<Bootstrap> nccl_;
  std::unique_ptr<Bootstrap> threads_;
};

class HostNccl final : public NcclCommunicator {
 public:
  explicit HostNccl(std::shared_ptr<HostComm> host) : host_(std::move(host)) {}

  void all_reduce(const void* input, void* output, std::size_t count, Dtype dtype, StreamHandle stream) override {
    const int result = real_library().nccl->all_reduce(input, output, count, nccl_type(dtype), nccl_sum, host_->comm,
                                                       static_cast<cudaStream_t>(stream));
    if (result != nccl_success && result != nccl_in_progress) throw NcclFailure("ncclAllReduce", result);
  }
  bool all_reduce_forced(const NcclConfiguration&, const void*, void*, std::size_t, Dtype, StreamHandle) override {
    throw Unsupported(forcing_problem());
  }
  const std::string& forcing_problem() const noexcept override { return forcing_problem_; }
  bool offers(const NcclConfiguration&, Dtype, void*) override { return false; }
  void check() const override {}  // the program asks NCCL itself
  std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t) override {
    throw Unsupported("the program's NCCL communicator gets no symmetric windows from Arbiter");
  }
  std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t) override {
    throw Unsupported("the program's NCCL communicator gets no buffers from Arbiter");
  }
  void abort() noexcept override {}  // the program aborts its communicator itself

 private:
  std::shared_ptr<HostComm> host_;
  std::string forcing_problem_ = "the NCCL communicator belongs to the program";
};

}  // namespace

NcclFailure::NcclFailure(const std::string& call, int result)
    : Error(fmt::format("{} failed: {}", call, real_library().nccl->get_error_string(result))), result_(result) {}

void HostComm::settle() const {
  const int state = settle_nccl(*real_library().nccl, comm, std::chrono::milliseconds(0), &closed);
  if (state != nccl_success) throw NcclFailure("ncclCommGetAsyncError", state);
}

FollowNccl::FollowNccl(std::shared_ptr<HostComm> host, Device& device) : host_(std::move(host)), memory_(device, 512) {}

void FollowNccl::enqueue(cudaStream_t stream) const {
  const RealLibrary& real = real_library();
  char* const from = static_cast<char*>(memory_.data());
  char* const to = from + memory_.bytes() / 2;
  const auto check = [](const char* call, int result) {
    if (result != nccl_success && result != nccl_in_progress) throw NcclFailure(call, result);
  };
  check("ncclGroupStart", real.group_start());
  const int sent = real.send(from, 1, nccl_int8, host_->rank, host_->comm, stream);
  const int received = real.receive(to, 1, nccl_int8, host_->rank, host_->comm, stream);
  const int ended = real.group_end();
  check("ncclSend", sent);
  check("ncclRecv", received);
  check("ncclGroupEnd", ended);
  if (host_->nonblocking) host_->settle();
}

std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm> host, std::shared_ptr<Device> device,
                                               std::function<void()> allocated) {
  NcclBootstrapSetup setup{
      real_library().nccl, std::move(device), "the program's NCCL communicator", {}, std::move(allocated), host};
  std::unique_ptr<Bootstrap> nccl = make_nccl_bootstrap(std::move(setup), host->comm, host->rank, host->size);
  return std::make_unique<CommBootstrap>(std::move(host), std::move(nccl));
}

std::shared_ptr<NcclCommunicator> make_host_nccl(std::shared_ptr<HostComm> host) {
  return std::make_shared<HostNccl>(std::move(host));
}

}  // namespace arbiter::nccl_interpose
