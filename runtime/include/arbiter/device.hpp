// A device runs kernels. Two implementations: `cuda`, and `cpu`, which executes the same rendered kernels with one
// fiber per CUDA thread. A Device object belongs to one rank and is used from that rank's host thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace arbiter {

struct CompiledKernel;   // what a compiler makes: arbiter/generator/compile.hpp
struct KernelResources;  // registers, shared memory and spills of a kernel: the same

/// cudaStream_t on `cuda` (nullptr is the default stream); ignored by `cpu`, where every launch runs to completion
/// before it returns.
using StreamHandle = void*;

enum class DeviceKind : std::uint8_t { cuda, cpu };
std::string_view to_string(DeviceKind) noexcept;

/// How ranks make their memory addressable by the others.
enum class SymmetricProvider : std::uint8_t { vmm, cuda_ipc, shared_memory };
std::string_view to_string(SymmetricProvider) noexcept;

struct DeviceProperties {
  std::string name;            ///< "NVIDIA H200"
  std::string unique_id;       ///< UUID on cuda; "cpu:<rank>" on cpu
  int ordinal = 0;             ///< CUDA ordinal as visible to this process
  int compute_capability = 0;  ///< 90; 0 on the CPU device
  int sm_count = 0;
  int max_threads_per_block = 0;
  int max_cluster = 1;  ///< largest cluster a launch may ask for (8: the portable limit)
  std::size_t shared_bytes_per_block = 0;
  std::size_t memory_bytes = 0;
  std::string compile_target;  ///< what Compiler to use: "sm_90a", "compute_120", or "cpu"
};

/// A loaded kernel. Destroying it unloads it; keep it alive while a captured graph uses it.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual const KernelResources& resources() const noexcept = 0;
};

struct Launch {
  unsigned blocks = 1;
  unsigned threads = 1;       ///< per block
  unsigned cluster = 1;       ///< blocks per cluster; divides `blocks`
  unsigned shared_bytes = 0;  ///< dynamic, per block
  bool programmatic = false;  ///< programmatic dependent launch: may start before the previous kernel has finished
};

/// A captured sequence of launches, ready to be replayed.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch(StreamHandle) = 0;
};

/// A point in a stream, for timing.
class Event {
 public:
  virtual ~Event() = default;
  virtual void record(StreamHandle) = 0;
  /// Microseconds between two recorded and completed events. Synchronises on `this`.
  virtual double microseconds_since(const Event& earlier) = 0;
};

enum class PointerKind : std::uint8_t { here, other_device, host, unknown };

class Device {
 public:
  virtual ~Device() = default;
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  virtual DeviceKind kind() const noexcept = 0;
  virtual const DeviceProperties& properties() const noexcept = 0;
  /// Make this device current for the calling thread.
  virtual void activate() = 0;

  /// Device memory, 512-byte aligned; legal during capture. Throws Unavailable when there is not enough.
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void release(void*) noexcept = 0;
  /// Bytes that are free on the device now, whoever uses the rest; 0 where that is not known.
  virtual std::size_t free_memory_bytes() { return 0; }
  /// Host memory that kernels can write while they run and the host can read at any time.
  virtual void* allocate_host_visible(std::size_t bytes) = 0;
  virtual void release_host_visible(void*) noexcept = 0;

  /// Any direction, stream-ordered.
  virtual void copy(void* destination, const void* source, std::size_t bytes, StreamHandle) = 0;
  virtual void fill_words(void* destination, std::uint32_t value, std::size_t words, StreamHandle) = 0;

  virtual StreamHandle create_stream() = 0;
  virtual void destroy_stream(StreamHandle) noexcept = 0;
  /// Wait for everything in the stream. Throws DeviceError on a device fault.
  virtual void synchronize(StreamHandle) = 0;
  /// The same for everything in every stream of the device, whoever made it.
  virtual void synchronize_device() { synchronize(nullptr); }
  /// Has everything in the stream run? Throws DeviceError on a device fault.
  virtual bool finished(StreamHandle) = 0;
  virtual bool capturing(StreamHandle) = 0;
  virtual void begin_capture(StreamHandle) = 0;
  virtual std::unique_ptr<Graph> end_capture(StreamHandle) = 0;
  virtual std::unique_ptr<Event> create_event() = 0;

  /// `rank` selects the entry on the CPU device, where one image holds the kernels of all ranks.
  virtual std::unique_ptr<Kernel> load(const CompiledKernel&, int rank) = 0;
  /// Blocks of this launch shape that are resident together on the whole device (clusters included): the largest
  /// legal grid of a kernel that waits for its peers. Launch::blocks is ignored.
  virtual int resident_blocks(const Kernel&, const Launch&) = 0;
  /// Arguments are copied. Legal during capture.
  virtual void launch(const Kernel&, const Launch&, const void* arguments, std::size_t bytes, StreamHandle) = 0;

  virtual PointerKind classify(const void*) = 0;
};

/// Memory of a device, released with its owner.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(Device& device, std::size_t bytes) : device_(&device), data_(device.allocate(bytes)), bytes_(bytes) {}
  DeviceMemory(DeviceMemory&& other) noexcept { swap(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    DeviceMemory moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) device_->release(data_);
  }
  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void swap(DeviceMemory& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Visible CUDA devices; 0 without a driver. Never throws.
int cuda_device_count() noexcept;
/// Ordinal of the calling thread's current device; 0 without a driver. Never throws.
int current_cuda_device() noexcept;

struct CudaDeviceOptions {
  /// Allow clusters of 16 blocks where the chip has them. DeviceProperties::max_cluster says what is possible.
  bool nonportable_clusters = false;
};
/// Makes the device current for the calling thread. Other threads call activate() before launch().
/// Throws Unavailable without a driver, InvalidArgument for an ordinal that does not exist.
std::unique_ptr<Device> make_cuda_device(int ordinal, const CudaDeviceOptions& = {});

class CpuLinkModel;

struct CpuDeviceOptions {
  std::uint64_t seed = 0;  ///< order in which fibers run; the same seed gives the same order
  int sm_count = 4;        ///< blocks resident together (one block per SM), or one cluster if that is more
  int max_threads_per_block = 256;
  std::shared_ptr<CpuLinkModel> link = nullptr;  ///< see cpu_link.hpp; null: stores are visible at once, in order
};
/// Throws Unavailable if no host compiler is found only when a kernel has to be compiled, not here.
std::unique_ptr<Device> make_cpu_device(int rank, const CpuDeviceOptions& = {});

}  // namespace arbiter
