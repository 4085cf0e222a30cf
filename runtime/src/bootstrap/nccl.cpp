#include "bootstrap/nccl.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "cuda/device.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

// Host data travels through small device buffers on a private stream. NCCL is used without blocking, so that every wait
// has a deadline: a rank that died must not hang the others.
class NcclBootstrap final : public Bootstrap {
 public:
  NcclBootstrap(NcclBootstrapSetup setup, const NcclId* id, NcclComm lent, int rank, int size)
      : library_(std::move(setup.library)),
        rank_(rank),
        size_(size),
        ordinal_(setup.ordinal),
        deadline_(setup.deadline),
        name_(std::move(setup.name)),
        comm_(lent),
        lent_(lent != nullptr) {
    try {
      if (!lent_) connect(*id);
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
    if (comm_ != nullptr && !lent_) library_->comm_abort(comm_);
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
    if (comm_ != nullptr && !lent_) {
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
  bool lent_ = false;  // by the host program: never finished, aborted or destroyed here
  cudaStream_t stream_ = nullptr;
  void* device_ = nullptr;
  void* host_ = nullptr;
  std::size_t capacity_ = 0;
};

int asked(const NcclLibrary& library, const char* function, int (*ask)(NcclComm, int*), NcclComm comm) {
  int value = 0;
  const int result = ask(comm, &value);
  if (result != nccl_success) {
    throw InvalidArgument(library.message(function, result, comm) +
                          "; expected an ncclComm_t that is connected and was not aborted or destroyed");
  }
  return value;
}

std::shared_ptr<const NcclLibrary> open_nccl_for_gpus() {
  if (std::string missing = cuda_missing(); !missing.empty()) {
    throw Unavailable("ranks that talk through NCCL need GPUs, and " + missing);
  }
  return open_nccl();
}

int current_ordinal() {
  int ordinal = 0;
  cuda_check(cudaGetDevice(&ordinal), "cudaGetDevice");
  return ordinal;
}

}  // namespace

std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup setup, const NcclId& id, int rank, int size) {
  return std::make_unique<NcclBootstrap>(std::move(setup), &id, nullptr, rank, size);
}

void make_unique_id(void* id) {
  const std::shared_ptr<const NcclLibrary> library = open_nccl();
  NcclId made;
  const int result = library->get_unique_id(&made);
  if (result != nccl_success) throw Unavailable(library->message("ncclGetUniqueId", result));
  std::memcpy(id, made.bytes.data(), made.bytes.size());
}

std::unique_ptr<Bootstrap> make_unique_id_bootstrap(const void* id, int rank, int size,
                                                    std::chrono::milliseconds deadline) {
  if (id == nullptr) throw InvalidArgument("the unique id is null; expected the 128 bytes of an ncclUniqueId");
  if (size < 1 || rank < 0 || rank >= size) {
    throw InvalidArgument("rank " + std::to_string(rank) + " of " + std::to_string(size) +
                          " ranks; expected a rank from 0 to size - 1");
  }
  NcclId given;
  std::memcpy(given.bytes.data(), id, given.bytes.size());
  return make_nccl_bootstrap({open_nccl_for_gpus(), current_ordinal(), "unique id", deadline}, given, rank, size);
}

LentNcclComm examine_nccl_comm(void* comm) {
  if (comm == nullptr) throw InvalidArgument("the ncclComm_t is null; expected one that is connected");
  const std::shared_ptr<const NcclLibrary> library = open_nccl_for_gpus();
  auto* lent = static_cast<NcclComm>(comm);
  return {comm, asked(*library, "ncclCommUserRank", library->comm_user_rank, lent),
          asked(*library, "ncclCommCount", library->comm_count, lent),
          asked(*library, "ncclCommCuDevice", library->comm_cu_device, lent)};
}

std::unique_ptr<Bootstrap> make_nccl_comm_bootstrap(const LentNcclComm& lent, std::chrono::milliseconds deadline) {
  return std::make_unique<NcclBootstrap>(
      NcclBootstrapSetup{open_nccl_for_gpus(), lent.ordinal, "NCCL communicator of the host program", deadline},
      nullptr, static_cast<NcclComm>(lent.comm), lent.rank, lent.size);
}

}  // namespace arbiter
