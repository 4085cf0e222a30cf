#include "comm_exchange.hpp"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "arbiter/error.hpp"

namespace arbiter::nccl_interpose {
namespace {

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

std::unique_ptr<Bootstrap> make_comm_bootstrap(std::shared_ptr<HostComm> host, std::shared_ptr<Device> device) {
  NcclBootstrapSetup setup{real_library().nccl, std::move(device), "the program's NCCL communicator", {}, host};
  return make_nccl_bootstrap(std::move(setup), host->comm, host->rank, host->size);
}

std::shared_ptr<NcclCommunicator> make_host_nccl(std::shared_ptr<HostComm> host) {
  return std::make_shared<HostNccl>(std::move(host));
}

}  // namespace arbiter::nccl_interpose
