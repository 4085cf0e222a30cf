// A group that says it has NCCL, without Arbiter's tuner plugin, and that is all: nothing can be launched. For tests of
// what is chosen.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::test {

class WithNccl final : public Group {
 public:
  explicit WithNccl(Group& inner) : WithNccl(inner, inner.size(), true) {}
  WithNccl(Group& inner, int size, bool symmetric) : inner_(inner), size_(size), symmetric_(symmetric) {}
  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return size_; }
  Device& device() noexcept override { return inner_.device(); }
  Bootstrap& bootstrap() noexcept override { return inner_.bootstrap(); }
  const Environment& environment() const noexcept override { return inner_.environment(); }
  const Catalogue& catalogue() const noexcept override { return inner_.catalogue(); }
  TargetLimits limits() const override { return inner_.limits(); }
  int ranks_on_device() const noexcept override { return 1; }
  NcclCommunicator* nccl() noexcept override { return nullptr; }
  std::string nccl_reason() const override { return ""; }
  KernelCache& cache() noexcept override { return inner_.cache(); }
  const KernelSet& stored_kernels() const noexcept override { return inner_.stored_kernels(); }
  void provide(std::shared_ptr<const KernelSet> kernels) override { inner_.provide(std::move(kernels)); }
  const TemplateMap& templates() const noexcept override { return inner_.templates(); }
  const EnvironmentVariables& variables() const noexcept override { return inner_.variables(); }
  std::optional<SymmetricProvider> symmetric_provider() const noexcept override {
    return symmetric_ ? std::optional(SymmetricProvider::shared_memory) : std::nullopt;
  }
  std::string symmetric_reason() const override { return symmetric_ ? "" : "peers cannot be reached"; }
  Workspace& workspace() noexcept override { return inner_.workspace(); }
  std::uint64_t push_buffer_bytes() const noexcept override { return inner_.push_buffer_bytes(); }
  NcclCommunicator::SymmetricBuffers& reserve_nccl_symmetric(std::size_t bytes) override {
    return inner_.reserve_nccl_symmetric(bytes);
  }
  std::size_t nccl_symmetric_bytes() const noexcept override { return 0; }
  void reserve(std::uint64_t, std::uint64_t) override {}
  std::size_t workspace_bytes() const noexcept override { return 0; }
  void check() const override {}
  void abort() noexcept override {}
  void recover() override {}
  std::string nccl_forcing_reason() const override { return "not here"; }
  std::string multicast_reason() const override { return "not here"; }
  SharedBuffers& shared_buffers() noexcept override { return inner_.shared_buffers(); }

 private:
  Group& inner_;
  int size_;
  bool symmetric_;
};

}  // namespace arbiter::test
