// The CPU device: executes rendered kernels with one fiber per CUDA thread. For tests, for learning, and for machines
// without GPUs.
#pragma once

#include <memory>
#include <vector>

#include "arbiter/device.hpp"
#include "cpu/image.hpp"
#include "cpu/link.hpp"
#include "cpu/memory.hpp"
#include "cpu/scheduler.hpp"
#include "cpu/stream.hpp"

namespace arbiter {

class CpuDevice final : public Device {
 public:
  CpuDevice(int rank, const CpuDeviceOptions&);
  ~CpuDevice() override;

  DeviceKind kind() const noexcept override { return DeviceKind::cpu; }
  const DeviceProperties& properties() const noexcept override { return properties_; }
  void activate() override {}

  void* allocate(std::size_t bytes) override { return memory_.allocate(bytes, PointerKind::here); }
  void release(void* data) noexcept override { memory_.release(data); }
  void* allocate_host_visible(std::size_t bytes) override { return memory_.allocate(bytes, PointerKind::host); }
  void release_host_visible(void* data) noexcept override { memory_.release(data); }

  void copy(void* destination, const void* source, std::size_t bytes, StreamHandle) override;
  void fill_words(void* destination, std::uint32_t value, std::size_t words, StreamHandle) override;

  StreamHandle create_stream() override;
  void destroy_stream(StreamHandle) noexcept override;
  void synchronize(StreamHandle) override;
  bool finished(StreamHandle) override;
  bool capturing(StreamHandle) override;
  void begin_capture(StreamHandle) override;
  std::unique_ptr<Graph> end_capture(StreamHandle) override;
  std::unique_ptr<Event> create_event() override;

  std::unique_ptr<Kernel> load(const CompiledKernel&, int rank) override;
  int resident_blocks(const Kernel&, const Launch&) override;
  void launch(const Kernel&, const Launch&, const void* arguments, std::size_t bytes, StreamHandle) override;

  PointerKind classify(const void* pointer) override { return memory_.classify(pointer); }

  /// What the kernels of this device take for the time, for tests of their deadlines. Not of a device with a link
  /// model.
  void use_clock(std::function<std::uint64_t()> clock) { scheduler_.use_clock(std::move(clock)); }

 private:
  void issue(StreamHandle, std::span<const CpuOperation>);
  void run(std::span<const CpuOperation>);
  CpuIssue issuer();
  CpuStream* find(StreamHandle) noexcept;
  int resident(const Launch&) const noexcept;

  int rank_;
  CpuDeviceOptions options_;
  DeviceProperties properties_;
  CpuMemory memory_;
  FiberScheduler scheduler_;
  std::shared_ptr<CpuLink> link_;  // null: this device runs its launches alone
  std::vector<std::unique_ptr<CpuStream>> streams_;
  std::uint64_t runs_ = 0;
};

}  // namespace arbiter
