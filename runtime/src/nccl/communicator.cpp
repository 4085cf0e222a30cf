#include "arbiter/runtime/nccl.hpp"

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "cuda/device.hpp"
#include "group/collective.hpp"
#include "nccl/library.hpp"
#include "nccl/tuner_plugin.hpp"

namespace arbiter {
namespace {

constexpr std::chrono::seconds init_deadline{120};
constexpr std::size_t window_alignment = 4096;

// The communicator, shared with the buffers that are registered with it: these must not touch it once it is aborted.
struct Shared {
  std::shared_ptr<const NcclLibrary> library;
  std::atomic<NcclComm> comm{nullptr};
  std::optional<NcclTuner> tuner;
  std::string forcing_problem;  // empty: `tuner` is the plugin of this communicator
  int ordinal = 0;
};

/// How NCCL is told of a buffer.
struct Registration {
  const char* call;
  int (*add)(const NcclLibrary&, NcclComm, void* memory, std::size_t bytes, void** handle);
  int (*remove)(const NcclLibrary&, NcclComm, void* handle);
};

constexpr Registration as_window{
    "ncclCommWindowRegister",
    [](const NcclLibrary& library, NcclComm comm, void* memory, std::size_t bytes, void** handle) {
      return library.window_register(comm, memory, bytes, handle, nccl_window_symmetric);
    },
    [](const NcclLibrary& library, NcclComm comm, void* handle) { return library.window_deregister(comm, handle); }};

constexpr Registration as_buffer{
    "ncclCommRegister",
    [](const NcclLibrary& library, NcclComm comm, void* memory, std::size_t bytes, void** handle) {
      return library.comm_register(comm, memory, bytes, handle);
    },
    [](const NcclLibrary& library, NcclComm comm, void* handle) { return library.comm_deregister(comm, handle); }};

class BufferPair final : public NcclCommunicator::RegisteredBuffers {
 public:
  BufferPair(std::shared_ptr<Shared> shared, const Registration& registration)
      : shared_(std::move(shared)), registration_(registration) {}
  BufferPair(const BufferPair&) = delete;
  BufferPair& operator=(const BufferPair&) = delete;
  ~BufferPair() override {
    const CudaDeviceScope scope(shared_->ordinal);
    const NcclComm comm = shared_->comm.load();
    for (Buffer& buffer : buffers_) {
      if (buffer.handle != nullptr && comm != nullptr) registration_.remove(*shared_->library, comm, buffer.handle);
      if (buffer.memory != nullptr) shared_->library->mem_free(buffer.memory);
    }
  }
  void* input() const noexcept override { return buffers_[0].memory; }
  void* output() const noexcept override { return buffers_[1].memory; }

  void allocate(std::size_t bytes) {
    for (Buffer& buffer : buffers_) {
      const int result = shared_->library->mem_alloc(&buffer.memory, bytes);
      if (result != nccl_success) throw Unavailable(shared_->library->message("ncclMemAlloc", result));
    }
  }
  /// `refused`: what it means that NCCL succeeds and gives no handle.
  void add(std::size_t bytes, const char* refused) {
    const NcclComm comm = shared_->comm.load();
    if (comm == nullptr) throw Poisoned("this NCCL communicator was aborted");
    for (Buffer& buffer : buffers_) {
      const int result = registration_.add(*shared_->library, comm, buffer.memory, bytes, &buffer.handle);
      if (result != nccl_success) throw Unavailable(shared_->library->message(registration_.call, result, comm));
      if (buffer.handle == nullptr) throw Unsupported("NCCL " + shared_->library->version() + " " + refused);
    }
  }

 private:
  struct Buffer {
    void* memory = nullptr;
    void* handle = nullptr;
  };
  std::shared_ptr<Shared> shared_;
  const Registration& registration_;
  Buffer buffers_[2];
};

class NcclCommunicatorImpl final : public NcclCommunicator {
 public:
  NcclCommunicatorImpl(std::shared_ptr<Shared> shared, Bootstrap& bootstrap)
      : shared_(std::move(shared)), bootstrap_(bootstrap) {}
  ~NcclCommunicatorImpl() override {
    const CudaDeviceScope scope(shared_->ordinal);
    if (const NcclComm comm = shared_->comm.exchange(nullptr)) shared_->library->comm_destroy(comm);
  }

  void all_reduce(const void* input, void* output, std::size_t count, Dtype dtype, StreamHandle stream) override {
    if (!shared_->forcing_problem.empty()) return call(input, output, count, dtype, stream);
    const NcclTuner::Request request(*shared_->tuner, NcclConfiguration{});
    call(input, output, count, dtype, stream);
  }

  bool all_reduce_forced(const NcclConfiguration& configuration, const void* input, void* output, std::size_t count,
                         Dtype dtype, StreamHandle stream) override {
    if (!shared_->forcing_problem.empty()) {
      throw Unsupported("NCCL cannot be told to use " + configuration.text() + ": " + shared_->forcing_problem);
    }
    const NcclTuner::Request request(*shared_->tuner, configuration);
    call(input, output, count, dtype, stream);
    return request.applied();
  }

  const std::string& forcing_problem() const noexcept override { return shared_->forcing_problem; }

  bool offers(const NcclConfiguration& configuration, Dtype dtype, void* scratch) override {
    const std::pair key(configuration.text(), dtype);
    const auto known = offered_.find(key);
    if (known != offered_.end()) return known->second;
    const CudaDeviceScope scope(shared_->ordinal);
    const bool offered = all_reduce_forced(configuration, scratch, scratch, 1, dtype, nullptr);
    cuda_check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
    return offered_.emplace(key, offered).first->second;
  }

  void check() const override {
    const NcclComm comm = shared_->comm.load(std::memory_order_acquire);
    if (comm == nullptr || !used_) return;
    int error = nccl_success;
    const int result = shared_->library->comm_get_async_error(comm, &error);
    if (result == nccl_success && (error == nccl_success || error == nccl_in_progress)) return;
    throw Poisoned(
        shared_->library->message("an NCCL call in the background", result != nccl_success ? result : error, comm) +
        "; destroy the communicator and create a new one");
  }

  std::unique_ptr<RegisteredBuffers> register_symmetric(std::size_t bytes) override {
    const NcclLibrary& library = *shared_->library;
    // Equal on all ranks, because their NCCL versions are.
    if (library.window_register == nullptr || library.window_deregister == nullptr) {
      throw Unsupported("NCCL " + library.version() + " has no symmetric windows; 2.27 or newer is needed");
    }
    // Success without a window is how NCCL says that it would run its classic kernels anyway.
    return registered(bytes, as_window,
                      "has no symmetric kernels for these GPUs or this configuration (NCCL_CUMEM_ENABLE=0, "
                      "NCCL_WIN_ENABLE=0 or no peer access turn them off)");
  }

  std::unique_ptr<RegisteredBuffers> register_buffers(std::size_t bytes) override {
    const NcclLibrary& library = *shared_->library;
    if (library.comm_register == nullptr || library.comm_deregister == nullptr) {
      throw Unsupported("NCCL " + library.version() + " registers no buffers; 2.19 or newer is needed");
    }
    return registered(bytes, as_buffer, "registers no buffers where NCCL_LOCAL_REGISTER=0 is set");
  }

  void abort() noexcept override {
    const CudaDeviceScope scope(shared_->ordinal);
    if (const NcclComm comm = shared_->comm.exchange(nullptr)) shared_->library->comm_abort(comm);
  }

 private:
  std::unique_ptr<RegisteredBuffers> registered(std::size_t bytes, const Registration& registration,
                                                const char* refused) {
    if (bytes == 0) throw InvalidArgument("registered NCCL buffers of 0 bytes were asked for; expected at least 1");
    if (shared_->library->mem_alloc == nullptr || shared_->library->mem_free == nullptr) {
      throw Unsupported("NCCL " + shared_->library->version() + " allocates no buffers; 2.19 or newer is needed");
    }
    const std::size_t padded = (bytes + window_alignment - 1) / window_alignment * window_alignment;
    auto buffers = std::make_unique<BufferPair>(shared_, registration);
    // Registration is collective inside NCCL: no rank may enter it while another failed to allocate.
    everywhere(bootstrap_, "allocate NCCL buffers", [&] {
      cuda_check(cudaSetDevice(shared_->ordinal), "cudaSetDevice");
      buffers->allocate(padded);
    });
    everywhere(bootstrap_, "register NCCL buffers", [&] { buffers->add(padded, refused); });
    return buffers;
  }

  void call(const void* input, void* output, std::size_t count, Dtype dtype, StreamHandle stream) {
    const NcclComm comm = shared_->comm.load(std::memory_order_acquire);
    if (comm == nullptr) throw Poisoned("this NCCL communicator was aborted after a failure; create a new one");
    used_ = true;
    const int result = shared_->library->all_reduce(input, output, count, nccl_type(dtype), nccl_sum, comm,
                                                    static_cast<cudaStream_t>(stream));
    if (result != nccl_success) [[unlikely]]
      throw DeviceError(shared_->library->message("ncclAllReduce", result, comm));
  }

  std::shared_ptr<Shared> shared_;
  Bootstrap& bootstrap_;
  std::map<std::pair<std::string, Dtype>, bool> offered_;
  bool used_ = false;
};

// ncclCommInitRankConfig blocks, and a communicator that is set up without blocking stays slow for every call (it
// hands each one to a new thread). So set-up runs on a thread of its own, which is left behind if it does not come
// back: nothing can interrupt it safely, and it cleans up after itself if it ever does.
struct Setup {
  std::mutex mutex;
  std::condition_variable changed;
  bool finished = false;
  bool abandoned = false;
  int result = 0;
  std::string error;
  NcclComm comm = nullptr;
};

NcclComm set_up(const std::shared_ptr<const NcclLibrary>& library, int ordinal, int size, const NcclId& id, int rank) {
  auto setup = std::make_shared<Setup>();
  std::thread worker([setup, library, ordinal, size, id, rank] {
    NcclComm comm = nullptr;
    NcclConfig config;
    int result = nccl_success;
    std::string error;
    if (const cudaError_t device = cudaSetDevice(ordinal); device != cudaSuccess) {
      error = cuda_message("cudaSetDevice", device);
    } else {
      result = library->comm_init_rank_config(&comm, size, id, rank, &config);
      if (result != nccl_success) error = library->message("ncclCommInitRankConfig", result, nullptr);
    }
    const std::lock_guard lock(setup->mutex);
    setup->finished = true;
    setup->result = result;
    setup->error = error;
    setup->comm = comm;
    if (setup->abandoned && error.empty()) library->comm_abort(comm);
    setup->changed.notify_all();
  });
  std::unique_lock lock(setup->mutex);
  if (!setup->changed.wait_for(lock, init_deadline, [&] { return setup->finished; })) {
    setup->abandoned = true;
    lock.unlock();
    worker.detach();
    throw Poisoned(
        fmt::format("rank {}: NCCL did not connect all {} ranks within {} s; NCCL_DEBUG=INFO shows where it waits",
                    rank, size, init_deadline.count()));
  }
  lock.unlock();
  worker.join();
  if (!setup->error.empty()) throw Unavailable(setup->error);
  return setup->comm;
}

// Everything that would make NCCL fail late or hang, found while it can still be said plainly.
void require_usable(Bootstrap& bootstrap, const std::string& gpu, const std::string& version,
                    const std::string& missing) {
  const std::vector<std::string> all = bootstrap.allgather(pack({gpu, version, missing}));
  std::vector<std::vector<std::string>> ranks;
  for (const std::string& text : all) ranks.push_back(unpack(text));
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (!ranks[rank].at(2).empty()) throw Unavailable(fmt::format("rank {}: {}", rank, ranks[rank].at(2)));
  }
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    for (std::size_t other = 0; other < rank; ++other) {
      if (ranks[rank].at(0) == ranks[other].at(0)) {
        throw Unavailable(
            fmt::format("ranks {} and {} share one GPU ({}), which NCCL does not allow; give every rank its own GPU",
                        other, rank, ranks[rank].at(0)));
      }
    }
    if (ranks[rank].at(1) != ranks[0].at(1)) {
      throw Unavailable(fmt::format("rank 0 has NCCL {} and rank {} has {}; install the same version everywhere",
                                    ranks[0].at(1), rank, ranks[rank].at(1)));
    }
  }
}

}  // namespace

std::string nccl_version() noexcept {
  try {
    return open_nccl()->version();
  } catch (const std::exception&) {
    return {};
  }
}

std::unique_ptr<NcclCommunicator> make_nccl_communicator(Device& device, Bootstrap& bootstrap) {
  auto shared = std::make_shared<Shared>();
  std::string missing;
  try {
    shared->library = open_nccl();
    if (device.kind() != DeviceKind::cuda) missing = "NCCL needs a cuda device, not the cpu device";
  } catch (const Unavailable& error) {
    missing = error.what();
  }
  require_usable(bootstrap, device.properties().unique_id, shared->library ? shared->library->version() : "", missing);
  shared->ordinal = as_cuda(device).ordinal();

  NcclId id;
  everywhere(bootstrap, "create an NCCL id", [&] {
    device.activate();
    if (bootstrap.rank() != 0) return;
    const int result = shared->library->get_unique_id(&id);
    if (result != nccl_success) throw Unavailable(shared->library->message("ncclGetUniqueId", result));
  });
  bootstrap.broadcast(&id, sizeof(id), 0);

  const std::optional<NcclTuner> tuner_before = NcclTuner::find();
  const unsigned long long announced_before = tuner_before ? tuner_before->announced() : 0;
  auto communicator = std::make_unique<NcclCommunicatorImpl>(shared, bootstrap);
  try {
    everywhere(bootstrap, "connect NCCL", [&] {
      shared->comm = set_up(shared->library, shared->ordinal, bootstrap.size(), id, bootstrap.rank());
    });
  } catch (...) {
    communicator->abort();  // a peer has none: destroying in good order could wait for it
    throw;
  }
  shared->tuner = NcclTuner::find();
  shared->forcing_problem = nccl_tuner_problem(shared->tuner, announced_before);
  return communicator;
}

}  // namespace arbiter
