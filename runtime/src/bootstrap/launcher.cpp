#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "bootstrap/id_exchange.hpp"
#include "cuda/device.hpp"
#include "nccl/library.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

class LoneBootstrap final : public Bootstrap {
 public:
  explicit LoneBootstrap(std::string name) : name_(std::move(name)) {}
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    if (bytes > 0) std::memmove(receive, send, bytes);
  }
  void broadcast(void*, std::size_t, int) override {}
  void barrier() override {}
  std::string name() const override { return name_; }

 private:
  std::string name_;
};

// Host data travels through small device buffers on a private stream. NCCL is used without blocking, so that every wait
// has a deadline: a rank that died must not hang the others.
class NcclBootstrap final : public Bootstrap {
 public:
  NcclBootstrap(std::shared_ptr<const NcclLibrary> library, const LauncherVariables& variables, int ordinal,
                const NcclId& id, std::chrono::milliseconds deadline)
      : library_(std::move(library)),
        rank_(variables.rank),
        size_(variables.size),
        ordinal_(ordinal),
        deadline_(deadline),
        name_("launcher (" + variables.launcher + ")") {
    try {
      connect(id);
      cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
      reserve(4096);
      barrier();  // NCCL connects at first use: do that here, where a failure is expected
    } catch (...) {
      release();
      throw;
    }
  }
  NcclBootstrap(const NcclBootstrap&) = delete;
  NcclBootstrap& operator=(const NcclBootstrap&) = delete;
  ~NcclBootstrap() override { release(); }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string name() const override { return name_; }

  void allgather(const void* send, std::size_t bytes, void* receive) override {
    if (bytes == 0) return barrier();
    const std::size_t total = bytes * static_cast<std::size_t>(size_);
    begin(bytes + total);
    std::memcpy(host_, send, bytes);
    cuda_check(cudaMemcpyAsync(device_, host_, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    char* gathered = static_cast<char*>(device_) + bytes;
    call("ncclAllGather", library_->all_gather(device_, gathered, bytes, nccl_uint8, comm_, stream_));
    char* staged = static_cast<char*>(host_) + bytes;
    cuda_check(cudaMemcpyAsync(staged, gathered, total, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    wait_for_stream("allgather");
    std::memcpy(receive, staged, total);
  }

  void broadcast(void* data, std::size_t bytes, int root) override {
    if (root < 0 || root >= size_) {
      throw InvalidArgument("broadcast from rank " + std::to_string(root) + " of " + std::to_string(size_) + " ranks");
    }
    if (bytes == 0) return barrier();
    begin(bytes);
    if (rank_ == root) {
      std::memcpy(host_, data, bytes);
      cuda_check(cudaMemcpyAsync(device_, host_, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    }
    call("ncclBroadcast", library_->broadcast(device_, device_, bytes, nccl_uint8, root, comm_, stream_));
    cuda_check(cudaMemcpyAsync(host_, device_, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    wait_for_stream("broadcast");
    if (rank_ != root) std::memcpy(data, host_, bytes);
  }

  void barrier() override {
    const char mine = 0;
    std::string all(static_cast<std::size_t>(size_), '\0');
    allgather(&mine, 1, all.data());
  }

 private:
  void connect(const NcclId& id) {
    NcclConfig config;
    config.blocking = 0;
    const int result = library_->comm_init_rank_config(&comm_, size_, id, rank_, &config);
    int state = result;
    if (result == nccl_success || result == nccl_in_progress) state = settle("connecting");
    if (state == nccl_success) return;
    const std::string message = library_->message("ncclCommInitRankConfig", state, comm_);
    give_up();
    throw Unavailable(message + (state == nccl_invalid_usage
                                     ? ". NCCL needs a GPU of its own for every rank; start at most one rank per GPU"
                                     : ""));
  }

  // Waits until NCCL has nothing in progress; returns its state. Throws Poisoned after the deadline.
  int settle(const char* what) {
    const Clock::time_point end = Clock::now() + deadline_;
    while (true) {
      int state = nccl_success;
      const int result = library_->comm_get_async_error(comm_, &state);
      if (result != nccl_success) return result;
      if (state != nccl_in_progress) return state;
      if (Clock::now() >= end) expire(what);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  void begin(std::size_t bytes) {
    if (comm_ == nullptr) throw Poisoned(name_ + ": an earlier exchange failed; restart the ranks");
    cuda_check(cudaSetDevice(ordinal_), "cudaSetDevice");
    reserve(bytes);
  }

  void call(const char* function, int result) {
    if (result == nccl_in_progress) result = settle(function);
    if (result == nccl_success) return;
    const std::string message = library_->message(function, result, comm_);
    give_up();
    throw Poisoned(message);
  }

  void wait_for_stream(const char* what) {
    const Clock::time_point begin = Clock::now();
    const Clock::time_point end = begin + deadline_;
    while (true) {
      const cudaError_t error = cudaStreamQuery(stream_);
      if (error == cudaSuccess) return;
      if (error != cudaErrorNotReady) cuda_check(error, "cudaStreamQuery");
      int state = nccl_success;
      if (library_->comm_get_async_error(comm_, &state) == nccl_success && state != nccl_success &&
          state != nccl_in_progress) {
        call(what, state);
      }
      const Clock::time_point now = Clock::now();
      if (now >= end) expire(what);
      // Most exchanges take some tens of microseconds.
      if (now - begin > std::chrono::milliseconds(1)) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  [[noreturn]] void expire(const char* what) {
    give_up();
    throw Poisoned(name_ + ": " + what + " did not complete on rank " + std::to_string(rank_) + " within " +
                   std::to_string(deadline_.count()) + " ms; a rank has stopped or does something else");
  }

  void give_up() noexcept {
    if (comm_ != nullptr) library_->comm_abort(comm_);
    comm_ = nullptr;
  }

  void reserve(std::size_t bytes) {
    if (bytes <= capacity_) return;
    const std::size_t wanted = std::max(bytes, capacity_ * 2);
    free_buffers();
    cuda_check(cudaMalloc(&device_, wanted), "cudaMalloc");
    cuda_check(cudaMallocHost(&host_, wanted), "cudaMallocHost");
    capacity_ = wanted;
  }

  void free_buffers() noexcept {
    if (device_ != nullptr) cudaFree(device_);
    if (host_ != nullptr) cudaFreeHost(host_);
    device_ = nullptr;
    host_ = nullptr;
    capacity_ = 0;
  }

  void release() noexcept {
    const CudaDeviceScope scope(ordinal_);
    if (comm_ != nullptr) {
      // Finishing is local as long as nothing is outstanding, but it must not hang when something is.
      bool finished = false;
      try {
        const int result = library_->comm_finalize(comm_);
        deadline_ = std::min(deadline_, std::chrono::milliseconds(5000));
        finished = (result == nccl_success || result == nccl_in_progress) && settle("finishing") == nccl_success;
      } catch (...) {  // expire() has aborted it
      }
      if (finished) {
        library_->comm_destroy(comm_);
        comm_ = nullptr;
      }
      give_up();
    }
    free_buffers();
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    stream_ = nullptr;
  }

  std::shared_ptr<const NcclLibrary> library_;
  int rank_;
  int size_;
  int ordinal_;
  std::chrono::milliseconds deadline_;
  std::string name_;
  NcclComm comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  void* device_ = nullptr;
  void* host_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace

std::unique_ptr<Bootstrap> make_launcher_bootstrap(const LauncherVariables& variables,
                                                   std::chrono::milliseconds deadline) {
  if (variables.launcher.empty()) {
    throw InvalidArgument(
        "no launcher started this process: neither torchrun, mpirun nor srun variables are set; "
        "start the ranks with one of them, or use --gpus on one host");
  }
  if (variables.size < 1 || variables.rank < 0 || variables.rank >= variables.size) {
    throw InvalidArgument("rank " + std::to_string(variables.rank) + " of " + std::to_string(variables.size) +
                          " ranks; expected a rank from 0 to size - 1");
  }
  if (variables.size == 1) return std::make_unique<LoneBootstrap>("launcher (" + variables.launcher + ")");
  if (std::string missing = cuda_missing(); !missing.empty()) {
    throw Unavailable("the launcher's ranks talk through NCCL, which needs GPUs, and " + missing);
  }
  std::shared_ptr<const NcclLibrary> library = open_nccl();
  int ordinal = 0;
  cuda_check(cudaGetDevice(&ordinal), "cudaGetDevice");
  NcclId id;
  if (variables.rank == 0) {
    const int result = library->get_unique_id(&id);
    if (result != nccl_success) throw Unavailable(library->message("ncclGetUniqueId", result));
  }
  IdExchange exchange;
  exchange.rendezvous = variables.rendezvous;
  exchange.job = variables.job;
  exchange.rank = variables.rank;
  exchange.size = variables.size;
  exchange.deadline = deadline;
  if (const char* secret = std::getenv("ARBITER_JOB_SECRET")) exchange.secret = secret;
  id = exchange_id(exchange, id);
  return std::make_unique<NcclBootstrap>(std::move(library), variables, ordinal, id, deadline);
}

}  // namespace arbiter
