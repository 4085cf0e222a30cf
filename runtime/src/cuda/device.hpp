// The `cuda` device. Functions that touch the device make it current for the calling thread and leave it current;
// launch() alone relies on that, to stay lean.
#pragma once

#include "arbiter/device.hpp"
#include "cuda/driver.hpp"

namespace arbiter {

class CudaDevice : public Device {
 public:
  CudaDevice(int ordinal, const CudaDeviceOptions& options);
  ~CudaDevice() override = default;

  DeviceKind kind() const noexcept override { return DeviceKind::cuda; }
  const DeviceProperties& properties() const noexcept override { return properties_; }
  void activate() override;

  void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  std::size_t free_memory_bytes() override;
  void* allocate_host_visible(std::size_t bytes) override;
  void release_host_visible(void* memory) noexcept override;

  void copy(void* destination, const void* source, std::size_t bytes, StreamHandle stream) override;
  void fill_words(void* destination, std::uint32_t value, std::size_t words, StreamHandle stream) override;

  StreamHandle create_stream() override;
  void destroy_stream(StreamHandle stream) noexcept override;
  void synchronize_device() override;
  void synchronize(StreamHandle stream) override;
  bool finished(StreamHandle stream) override;
  bool capturing(StreamHandle stream) override;
  void begin_capture(StreamHandle stream) override;
  std::unique_ptr<Graph> end_capture(StreamHandle stream) override;
  std::unique_ptr<Event> create_event() override;

  std::unique_ptr<Kernel> load(const CompiledKernel& compiled, int rank) override;
  int resident_blocks(const Kernel& kernel, const Launch& launch) override;
  void launch(const Kernel& kernel, const Launch& launch, const void* arguments, std::size_t bytes,
              StreamHandle stream) override;

  PointerKind classify(const void* pointer) override;

  const CudaDriver& driver() const noexcept { return driver_; }
  int ordinal() const noexcept { return properties_.ordinal; }

 private:
  CudaDriver driver_;
  DeviceProperties properties_;
};

/// The cuda device behind `device`. Throws InvalidArgument if it is another kind.
CudaDevice& as_cuda(Device& device);

/// Makes a device current for a scope and restores the one that was current before. For destructors, which may run on
/// any thread: never throws.
class CudaDeviceScope {
 public:
  explicit CudaDeviceScope(int ordinal) noexcept {
    if (cudaGetDevice(&previous_) != cudaSuccess) previous_ = -1;
    cudaSetDevice(ordinal);
  }
  ~CudaDeviceScope() {
    if (previous_ >= 0) cudaSetDevice(previous_);
    cudaGetLastError();
  }
  CudaDeviceScope(const CudaDeviceScope&) = delete;
  CudaDeviceScope& operator=(const CudaDeviceScope&) = delete;

 private:
  int previous_ = -1;
};

}  // namespace arbiter
