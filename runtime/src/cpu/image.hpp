// A kernel image of the CPU device: a shared object in memory, with one entry per rank.
#pragma once

#include <memory>
#include <string>

#include "arbiter/device.hpp"
#include "arbiter/generator/compile.hpp"
#include "cpu/executor_abi.hpp"

namespace arbiter {

class CpuImage {
 public:
  /// Throws InvalidArgument for an image that is not of target "cpu", CompileError for one that cannot be loaded or
  /// has no entry for `rank`. Where `run_from_memory` is false or this machine forbids it, the image is loaded from a
  /// private folder.
  CpuImage(const CompiledKernel&, int rank, bool run_from_memory = true);
  CpuImage(const CpuImage&) = delete;
  CpuImage& operator=(const CpuImage&) = delete;
  ~CpuImage();

  void (*entry() const noexcept)(const void*) { return entry_; }
  arbiter_thread** (*current_slot() const noexcept)() { return current_slot_; }

 private:
  void* handle_ = nullptr;
  void (*entry_)(const void*) = nullptr;
  arbiter_thread** (*current_slot_)() = nullptr;
};

/// Graphs share the image, so a kernel may be destroyed before a graph that launches it.
class CpuKernel final : public Kernel {
 public:
  CpuKernel(const CompiledKernel& compiled, int rank)
      : image_(std::make_shared<CpuImage>(compiled, rank)), resources_(compiled.resources) {}
  const KernelResources& resources() const noexcept override { return resources_; }
  const std::shared_ptr<CpuImage>& image() const noexcept { return image_; }

 private:
  std::shared_ptr<CpuImage> image_;
  KernelResources resources_;
};

}  // namespace arbiter
