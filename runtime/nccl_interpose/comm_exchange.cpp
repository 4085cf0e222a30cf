#include "comm_exchange.hpp"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter::nccl_interpose {
namespace {

class CommBootstrap final : public Bootstrap {
 public:
  CommBootstrap(std::shared_ptr<HostComm> host, std::shared_ptr<Device> device)
      : host_(std::move(host)), device_(std::move(device)), stream_(device_->create_stream()) {}
  ~CommBootstrap() override { device_->destroy_stream(stream_); }
  CommBootstrap(const CommBootstrap&) = delete;
  CommBootstrap& operator=(const CommBootstrap&) = delete;

  int rank() const noexcept override { return host_->rank; }
  int size() const noexcept override { return host_->size; }
  std::string name() const override { return "the program's NCCL communicator"; }

  void allgather(const void* send, std::size_t bytes, void* receive) override {
    if (bytes == 0) return;
    require_open();
    const std::size_t all = bytes * static_cast<std::size_t>(size());
    char* const memory = buffer(bytes + all);
    device_->copy(memory, send, bytes, stream_);
    finish("ncclAllGather", real_library().all_gather(memory, memory + bytes, bytes, nccl_int8, host_->comm, stream()));
    device_->copy(receive, memory + bytes, all, stream_);
    device_->synchronize(stream_);
    require_open();
  }

  void broadcast(void* data, std::size_t bytes, int root) override {
    if (bytes == 0) return;
    require_open();
    char* const memory = buffer(bytes);
    device_->copy(memory, data, bytes, stream_);
    finish("ncclBroadcast", real_library().broadcast(memory, memory, bytes, nccl_int8, root, host_->comm, stream()));
    device_->copy(data, memory, bytes, stream_);
    device_->synchronize(stream_);
    require_open();
  }

  void barrier() override {
    if (host_->closed) return;
    char mine = 0;
    std::vector<char> all(static_cast<std::size_t>(size()));
    allgather(&mine, 1, all.data());
  }

 private:
  cudaStream_t stream() const noexcept { return static_cast<cudaStream_t>(stream_); }

  void require_open() const {
    if (host_->closed) throw Poisoned("the program destroyed or aborted its NCCL communicator");
  }

  char* buffer(std::size_t bytes) {
    if (memory_.bytes() < bytes) memory_ = DeviceMemory(*device_, std::max<std::size_t>(bytes, 4096));
    return static_cast<char*>(memory_.data());
  }

  void finish(const char* call, int result) {
    if (result == nccl_in_progress) {
      host_->nonblocking = true;
      return host_->settle();
    }
    if (result != nccl_success) throw NcclFailure(call, result);
  }

  std::shared_ptr<HostComm> host_;
  std::shared_ptr<Device> device_;
  StreamHandle stream_;
  DeviceMemory memory_;
};

class HostNccl final : public NcclCommunicator {
 public:
  explicit HostNccl(std::shared_ptr<HostComm> host) : host_(std::move(host)) {}

  void all_reduce(const void* input, void* output, std::size_t count, Dtype dtype, StreamHandle stream) override {
    const int result = real_library().all_reduce(input, output, count, nccl_type(dtype), nccl_sum, host_->comm,
                                                 static_cast<cudaStream_t>(stream));
    if (result != nccl_success && result != nccl_in_progress) throw NcclFailure("ncclAllReduce", result);
  }
  bool all_reduce_forced(const NcclConfiguration&, const void*, void*, std::size_t, Dtype, StreamHandle) override {
    throw Unsupported(forcing_problem());
  }
  const std::string& forcing_problem() const noexcept override { return forcing_problem_; }
  bool offers(const NcclConfiguration&, Dtype, void*) override { return false; }
  void check() const override {}  // the program asks NCCL itself
  std::unique_ptr<SymmetricBuffers> register_symmetric(std::size_t) override {
    throw Unsupported("the program's NCCL communicator gets no symmetric windows from Arbiter");
  }
  void abort() noexcept override {}  // the program aborts its communicator itself

 private:
  std::shared_ptr<HostComm> host_;
  std::string forcing_problem_ = "the NCCL communicator belongs to the program";
};

}  // namespace

NcclFailure::NcclFailure(const std::string& call, int result)
    : Error(fmt::format("{} failed: {}", call, real_library().get_error_string(result))), result_(result) {}

void HostComm::settle() const {
  for (int state = nccl_in_progress;; std::this_thread::sleep_for(std::chrono::microseconds(50))) {
    if (closed) throw Poisoned("the program destroyed or aborted its NCCL communicator");
    const int asked = real_library().comm_get_async_error(comm, &state);
    if (asked != nccl_success) state = asked;
    if (state == nccl_success) return;
    if (state != nccl_in_progress) throw NcclFailure("ncclCommGetAsyncError", state);
  }
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

std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm> host, std::shared_ptr<Device> device) {
  return std::make_unique<CommBootstrap>(std::move(host), std::move(device));
}

std::shared_ptr<NcclCommunicator> make_host_nccl(std::shared_ptr<HostComm> host) {
  return std::make_shared<HostNccl>(std::move(host));
}

}  // namespace arbiter::nccl_interpose
