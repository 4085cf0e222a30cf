#include "bootstrap/nccl.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

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

// Host data travels through small device buffers on a private stream, in chunks of a fixed size: nothing is allocated,
// freed or waited for inside the driver while a collective is outstanding. Where ranks are threads of one process, the
// driver's locks would keep other ranks from joining in. NCCL is used without blocking, so that every wait has a
// deadline: a rank that died must not hang the others.
constexpr std::size_t chunk_bytes = std::size_t{32} << 10;

class NcclBootstrap final : public Bootstrap {
 public:
  NcclBootstrap(NcclBootstrapSetup setup, const NcclId* id, NcclComm lent, int rank, int size)
      : setup_(std::move(setup)),
        library_(*setup_.library),
        device_(*setup_.device),
        rank_(rank),
        size_(size),
        comm_(lent),
        lent_(lent != nullptr) {
    try {
      if (!lent_) connect(*id);
      stream_ = device_.create_stream();
      const std::size_t bytes = chunk_bytes * static_cast<std::size_t>(size_ + 1);  // what is sent, and what comes
      memory_ = DeviceMemory(device_, bytes);
      host_ = device_.allocate_host_visible(bytes);
      if (setup_.allocated) setup_.allocated();
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
  std::string name() const override { return setup_.name; }

  void allgather(const void* send, std::size_t bytes, void* receive) override {
    if (bytes == 0) return barrier();
    for (std::size_t offset = 0; offset < bytes; offset += chunk_bytes) {
      const std::size_t part = std::min(chunk_bytes, bytes - offset);
      const std::size_t total = part * static_cast<std::size_t>(size_);
      begin();
      std::memcpy(host_, static_cast<const char*>(send) + offset, part);
      device_.copy(memory_.data(), host_, part, stream_);
      char* gathered = static_cast<char*>(memory_.data()) + chunk_bytes;
      call("ncclAllGather", library_.all_gather(memory_.data(), gathered, part, nccl_uint8, comm_, cuda_stream()));
      char* staged = static_cast<char*>(host_) + chunk_bytes;
      device_.copy(staged, gathered, total, stream_);
      wait_for_stream("allgather");
      for (std::size_t rank = 0; rank < static_cast<std::size_t>(size_); ++rank) {
        std::memcpy(static_cast<char*>(receive) + rank * bytes + offset, staged + rank * part, part);
      }
    }
  }

  void broadcast(void* data, std::size_t bytes, int root) override {
    if (root < 0 || root >= size_) {
      throw InvalidArgument(fmt::format("broadcast from rank {} of {} ranks", root, size_));
    }
    if (bytes == 0) return barrier();
    for (std::size_t offset = 0; offset < bytes; offset += chunk_bytes) {
      const std::size_t part = std::min(chunk_bytes, bytes - offset);
      char* const place = static_cast<char*>(data) + offset;
      begin();
      if (rank_ == root) {
        std::memcpy(host_, place, part);
        device_.copy(memory_.data(), host_, part, stream_);
      }
      call("ncclBroadcast",
           library_.broadcast(memory_.data(), memory_.data(), part, nccl_uint8, root, comm_, cuda_stream()));
      device_.copy(host_, memory_.data(), part, stream_);
      wait_for_stream("broadcast");
      if (rank_ != root) std::memcpy(place, host_, part);
    }
  }

  void barrier() override {
    if (closed()) return;
    const char mine = 0;
    std::string all(static_cast<std::size_t>(size_), '\0');
    allgather(&mine, 1, all.data());
  }

 private:
  cudaStream_t cuda_stream() const noexcept { return static_cast<cudaStream_t>(stream_); }
  bool closed() const noexcept { return setup_.lent && setup_.lent->closed; }

  void connect(const NcclId& id) {
    NcclConfig config;
    config.blocking = 0;
    device_.activate();
    const int result = library_.comm_init_rank_config(&comm_, size_, id, rank_, &config);
    int state = result;
    if (result == nccl_success || result == nccl_in_progress) state = settle("connecting");
    if (state == nccl_success) return;
    const std::string message = library_.message("ncclCommInitRankConfig", state, comm_);
    give_up();
    throw Unavailable(message + (state == nccl_invalid_usage
                                     ? ". NCCL needs a GPU of its own for every rank; start at most one rank per GPU"
                                     : ""));
  }

  // Waits until NCCL has nothing in progress; returns its state. Throws Poisoned after the deadline.
  int settle(const char* what) {
    const std::atomic<bool>* const closed = setup_.lent ? &setup_.lent->closed : nullptr;
    const int state = settle_nccl(library_, comm_, setup_.deadline, closed);
    if (state == nccl_in_progress) expire(what);
    return state;
  }

  void begin() {
    if (closed()) throw Poisoned(closed_message);
    if (comm_ == nullptr) throw Poisoned(setup_.name + ": an earlier exchange failed; restart the ranks");
    device_.activate();
  }

  void call(const char* function, int result) {
    if (result == nccl_in_progress) {
      if (setup_.lent) setup_.lent->nonblocking = true;
      result = settle(function);
    }
    if (result == nccl_success) return;
    if (closed()) throw Poisoned(closed_message);
    const std::string message = library_.message(function, result, comm_);
    give_up();
    throw Poisoned(message);
  }

  void wait_for_stream(const char* what) {
    const Clock::time_point begin = Clock::now();
    const Clock::time_point end = begin + setup_.deadline;
    while (!device_.finished(stream_)) {
      if (closed()) throw Poisoned(closed_message);
      int state = nccl_success;
      if (library_.comm_get_async_error(comm_, &state) == nccl_success && state != nccl_success &&
          state != nccl_in_progress) {
        call(what, state);
      }
      const Clock::time_point now = Clock::now();
      if (setup_.deadline.count() != 0 && now >= end) expire(what);
      // Most exchanges take some tens of microseconds.
      if (now - begin > std::chrono::milliseconds(1)) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (closed()) throw Poisoned(closed_message);  // an abort ends the exchange without its data
  }

  [[noreturn]] void expire(const char* what) {
    give_up();
    throw Poisoned(
        fmt::format("{}: {} did not complete on rank {} within {} ms; a rank has stopped or does something else",
                    setup_.name, what, rank_, setup_.deadline.count()));
  }

  void give_up() noexcept {
    if (comm_ != nullptr && !lent_) library_.comm_abort(comm_);
    comm_ = nullptr;
  }

  void release() noexcept {
    if (comm_ != nullptr && !lent_) {
      // Finishing is local as long as nothing is outstanding, but it must not hang when something is.
      bool finished = false;
      try {
        device_.activate();
        const int result = library_.comm_finalize(comm_);
        setup_.deadline = std::min(setup_.deadline, std::chrono::milliseconds(5000));
        finished = (result == nccl_success || result == nccl_in_progress) && settle("finishing") == nccl_success;
      } catch (...) {  // expire() has aborted it
      }
      if (finished) {
        library_.comm_destroy(comm_);
        comm_ = nullptr;
      }
      give_up();
    }
    memory_ = {};
    if (host_ != nullptr) device_.release_host_visible(host_);
    host_ = nullptr;
    device_.destroy_stream(stream_);
    stream_ = nullptr;
  }

  static constexpr const char* closed_message = "the program destroyed or aborted its NCCL communicator";

  NcclBootstrapSetup setup_;
  const NcclLibrary& library_;
  Device& device_;
  int rank_;
  int size_;
  NcclComm comm_ = nullptr;
  bool lent_ = false;  // by the host program: never finished, aborted or destroyed here
  StreamHandle stream_ = nullptr;
  DeviceMemory memory_;
  void* host_ = nullptr;  // as many bytes
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

}  // namespace

std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup setup, const NcclId& id, int rank, int size) {
  return std::make_unique<NcclBootstrap>(std::move(setup), &id, nullptr, rank, size);
}

std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup setup, NcclComm lent, int rank, int size) {
  return std::make_unique<NcclBootstrap>(std::move(setup), nullptr, lent, rank, size);
}

int settle_nccl(const NcclLibrary& library, NcclComm comm, std::chrono::milliseconds deadline,
                const std::atomic<bool>* closed) {
  const Clock::time_point end = Clock::now() + deadline;
  while (true) {
    if (closed != nullptr && *closed) throw Poisoned("the program destroyed or aborted its NCCL communicator");
    int state = nccl_success;
    const int result = library.comm_get_async_error(comm, &state);
    if (result != nccl_success) return result;
    if (state != nccl_in_progress) return state;
    if (deadline.count() != 0 && Clock::now() >= end) return nccl_in_progress;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
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
    throw InvalidArgument(fmt::format("rank {} of {} ranks; expected a rank from 0 to size - 1", rank, size));
  }
  NcclId given;
  std::memcpy(given.bytes.data(), id, given.bytes.size());
  return make_nccl_bootstrap({open_nccl_for_gpus(), make_cuda_device(current_cuda_device()), "unique id", deadline},
                             given, rank, size);
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
  return make_nccl_bootstrap(
      {open_nccl_for_gpus(), make_cuda_device(lent.ordinal), "NCCL communicator of the host program", deadline},
      static_cast<NcclComm>(lent.comm), lent.rank, lent.size);
}

}  // namespace arbiter
