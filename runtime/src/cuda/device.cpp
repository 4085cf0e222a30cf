#include "cuda/device.hpp"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "cuda/graph.hpp"
#include "cuda/kernel.hpp"

namespace arbiter {
namespace {

constexpr std::size_t alignment = 512;

int attribute(int ordinal, cudaDeviceAttr which, const char* name) {
  int value = 0;
  cuda_check(cudaDeviceGetAttribute(&value, which, ordinal), std::string("cudaDeviceGetAttribute(") + name + ")");
  return value;
}

// As nvidia-smi prints it: GPU-8-4-4-4-12.
std::string uuid_text(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    std::array<char, 3> byte{};
    std::snprintf(byte.data(), byte.size(), "%02x", static_cast<unsigned>(static_cast<unsigned char>(uuid.bytes[i])));
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += byte.data();
  }
  return text;
}

// Without NVRTC, kernels still come from a cache: they were compiled for the exact architecture.
std::string target_for(int capability) {
  try {
    if (std::string target = nvrtc_target(capability); !target.empty()) return target;
  } catch (const Error&) {
  }
  return fmt::format("sm_{}{}", capability, (capability >= 90 ? "a" : ""));
}

DeviceProperties read_properties(const CudaDriver& driver, int ordinal, const CudaDeviceOptions& options) {
  DeviceProperties out;
  cudaDeviceProp properties{};
  cuda_check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
  // Ordinals of the runtime and of the driver API are the same. The driver's function knows MIG slices apart.
  CUuuid uuid{};
  cuda_check(driver, driver.device_get_uuid(&uuid, ordinal), "cuDeviceGetUuid");
  out.name = properties.name;
  out.unique_id = uuid_text(uuid);
  out.ordinal = ordinal;
  out.compute_capability = properties.major * 10 + properties.minor;
  out.sm_count = properties.multiProcessorCount;
  out.max_threads_per_block = properties.maxThreadsPerBlock;
  out.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
  out.memory_bytes = properties.totalGlobalMem;
  if (attribute(ordinal, cudaDevAttrClusterLaunch, "ClusterLaunch") != 0) {
    // 16 blocks exist on data-centre chips only (compute capability 9.x and 10.x), and only when asked for.
    const bool large = out.compute_capability >= 90 && out.compute_capability < 110;
    out.max_cluster = options.nonportable_clusters && large ? 16 : 8;
  }
  out.compile_target = target_for(out.compute_capability);
  return out;
}

CudaDriver load_for(int ordinal) {
  CudaDriver driver = CudaDriver::load();
  const int count = cuda_device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw InvalidArgument(fmt::format(
        "CUDA device {} does not exist; visible devices are 0 to {} (CUDA_VISIBLE_DEVICES hides and renumbers them)",
        ordinal, count - 1));
  }
  cuda_check(cudaSetDevice(ordinal), fmt::format("cudaSetDevice({})", ordinal));
  // Creates the primary context, the one that every library in the process shares.
  cuda_check(cudaFree(nullptr), "cudaFree(nullptr)");
  return driver;
}

}  // namespace

int cuda_device_count() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

int current_cuda_device() noexcept {
  int ordinal = 0;
  if (cudaGetDevice(&ordinal) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return ordinal;
}

std::unique_ptr<Device> make_cuda_device(int ordinal, const CudaDeviceOptions& options) {
  return std::make_unique<CudaDevice>(ordinal, options);
}

CudaDevice& as_cuda(Device& device) {
  auto* cuda = dynamic_cast<CudaDevice*>(&device);
  if (cuda == nullptr) throw InvalidArgument("this needs a cuda device, but was given the cpu device");
  return *cuda;
}

CudaDevice::CudaDevice(int ordinal, const CudaDeviceOptions& options)
    : driver_(load_for(ordinal)), properties_(read_properties(driver_, ordinal, options)) {}

void CudaDevice::activate() { cuda_check(cudaSetDevice(properties_.ordinal), "cudaSetDevice"); }

namespace {

/// While it lives, a capture of this thread does not mind what is no part of it.
class OutsideCapture {
 public:
  OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~OutsideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

void* CudaDevice::allocate(std::size_t bytes) {
  activate();
  const OutsideCapture outside;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free_bytes = 0;
    std::size_t total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    throw Unavailable(fmt::format(
        "not enough memory on {} {} for {} bytes: {} of {} are free; close other programs or use a smaller problem",
        properties_.name, properties_.ordinal, bytes, free_bytes, total));
  }
  cuda_check(error, fmt::format("cudaMalloc({})", bytes));
  if (reinterpret_cast<std::uintptr_t>(memory) % alignment != 0) {
    cudaFree(memory);
    throw DeviceError("cudaMalloc returned memory that is not aligned to 512 bytes");
  }
  return memory;
}

void CudaDevice::release(void* memory) noexcept {
  if (memory == nullptr) return;
  const CudaDeviceScope scope(properties_.ordinal);
  cudaFree(memory);
}

std::size_t CudaDevice::free_memory_bytes() {
  activate();
  std::size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

void* CudaDevice::allocate_host_visible(std::size_t bytes) {
  activate();
  void* memory = nullptr;
  const cudaError_t error = cudaHostAlloc(&memory, bytes == 0 ? 1 : bytes, cudaHostAllocMapped | cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Unavailable(fmt::format(
        "not enough page-locked host memory for {} bytes; check the locked-memory limit (ulimit -l)", bytes));
  }
  cuda_check(error, fmt::format("cudaHostAlloc({})", bytes));
  // Under unified addressing, which every supported GPU has, the host's pointer is the device's pointer too.
  return memory;
}

void CudaDevice::release_host_visible(void* memory) noexcept {
  if (memory == nullptr) return;
  const CudaDeviceScope scope(properties_.ordinal);
  cudaFreeHost(memory);
}

void CudaDevice::copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream) {
  if (bytes == 0) return;
  activate();
  cuda_check(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
             fmt::format("cudaMemcpyAsync({} bytes)", bytes));
}

void CudaDevice::fill_words(void* destination, std::uint32_t value, std::size_t words, StreamHandle stream) {
  if (words == 0) return;
  activate();
  cuda_check(
      driver_,
      driver_.memset_d32_async(reinterpret_cast<CUdeviceptr>(destination), value, words, static_cast<CUstream>(stream)),
      fmt::format("cuMemsetD32Async({} words)", words));
}

StreamHandle CudaDevice::create_stream() {
  activate();
  cudaStream_t stream = nullptr;
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return stream;
}

void CudaDevice::destroy_stream(StreamHandle stream) noexcept {
  if (stream == nullptr) return;
  const CudaDeviceScope scope(properties_.ordinal);
  cudaStreamDestroy(static_cast<cudaStream_t>(stream));
}

void CudaDevice::synchronize(StreamHandle stream) {
  activate();
  cuda_check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize");
}

void CudaDevice::synchronize_device() {
  activate();
  cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

bool CudaDevice::finished(StreamHandle stream) {
  const cudaError_t error = cudaStreamQuery(static_cast<cudaStream_t>(stream));
  if (error == cudaErrorNotReady) return false;
  cuda_check(error, "cudaStreamQuery");
  return true;
}

std::unique_ptr<Kernel> CudaDevice::load(const CompiledKernel& compiled, int /*rank*/) {
  activate();
  return std::make_unique<CudaKernel>(driver_, properties_, compiled);
}

int CudaDevice::resident_blocks(const Kernel& kernel, const Launch& launch) {
  const auto& cuda = dynamic_cast<const CudaKernel&>(kernel);
  activate();
  if (launch.cluster > static_cast<unsigned>(properties_.max_cluster) ||
      launch.threads > static_cast<unsigned>(properties_.max_threads_per_block) ||
      launch.shared_bytes > cuda.max_dynamic_shared()) {
    return 0;  // cannot run at all
  }
  if (launch.cluster > 1) {
    Launch one = launch;
    one.blocks = launch.cluster;
    const CudaLaunchConfig shape(one, nullptr);
    int clusters = 0;
    cuda_check(driver_, driver_.occupancy_clusters(&clusters, cuda.function(), &shape.config),
               "cuOccupancyMaxActiveClusters(" + cuda.name() + ")");
    return clusters * static_cast<int>(launch.cluster);
  }
  int blocks = 0;
  cuda_check(driver_,
             driver_.occupancy_blocks(&blocks, cuda.function(), static_cast<int>(launch.threads), launch.shared_bytes),
             "cuOccupancyMaxActiveBlocksPerMultiprocessor(" + cuda.name() + ")");
  return blocks * properties_.sm_count;
}

namespace {

[[noreturn, gnu::cold, gnu::noinline]] void launch_failed(const CudaDriver& driver, const CudaKernel& kernel,
                                                          const Launch& launch, CUresult result) {
  throw DeviceError(cuda_message(
      driver,
      fmt::format("cuLaunchKernelEx({}: {} blocks of {} threads, clusters of {}, {} bytes of shared memory)",
                  kernel.name(), launch.blocks, launch.threads, launch.cluster, launch.shared_bytes),
      result));
}

[[noreturn, gnu::cold, gnu::noinline]] void wrong_parameter(const CudaKernel& kernel, std::size_t bytes) {
  throw InvalidArgument(fmt::format("kernel {} takes {} bytes of arguments, but was given {}", kernel.name(),
                                    kernel.parameter_bytes(), bytes));
}

}  // namespace

[[gnu::hot]] void CudaDevice::launch(const Kernel& kernel, const Launch& launch, const void* arguments,
                                     std::size_t bytes, StreamHandle stream) {
  // The hot path: no allocation, no lock, no device switch. A kernel of another device kind is a programming error
  // that load() cannot produce, so the cast is not checked.
  const auto& cuda = static_cast<const CudaKernel&>(kernel);
  // The driver copies as many bytes as the kernel declares; it must not read past the caller's struct.
  if (cuda.parameter_bytes() != 0 && cuda.parameter_bytes() != bytes) [[unlikely]]
    wrong_parameter(cuda, bytes);
  const CudaLaunchConfig shape(launch, stream);
  void* parameters[1] = {const_cast<void*>(arguments)};
  const CUresult result = driver_.launch_kernel_ex(&shape.config, cuda.function(), parameters, nullptr);
  if (result != CUDA_SUCCESS) [[unlikely]]
    launch_failed(driver_, cuda, launch, result);
}

PointerKind CudaDevice::classify(const void* pointer) {
  if (pointer == nullptr) return PointerKind::unknown;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    cudaGetLastError();
    return PointerKind::unknown;
  }
  switch (attributes.type) {
    case cudaMemoryTypeDevice:
      return attributes.device == properties_.ordinal ? PointerKind::here : PointerKind::other_device;
    case cudaMemoryTypeManaged:
      return PointerKind::here;  // migrates to whoever touches it
    case cudaMemoryTypeHost:
      return PointerKind::host;
    case cudaMemoryTypeUnregistered:
      break;
  }
  // CUDA has never seen it. On this machine kernels cannot read it, so it is the host's.
  return PointerKind::host;
}

}  // namespace arbiter
