// One kernel of a candidate, compiled and loaded on this rank, with its grid arithmetic.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "arbiter/generator/render.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/abi.hpp"
#include "candidate/geometry.hpp"

namespace arbiter {

class LoadedKernel {
 public:
  /// `max_blocks`: the launch axis; 0 for all that are resident. Throws CompileError, Unsupported when the device
  /// cannot run it.
  LoadedKernel(Group&, const Variant&, int max_blocks);

  const KernelShape& shape() const noexcept { return shape_; }
  int block_limit() const noexcept { return block_limit_; }
  KernelUse use() const noexcept { return {kernel_->resources().registers, kernel_->resources().spill_bytes}; }
  void set_block_limit(int limit) noexcept { block_limit_ = limit; }

  Geometry geometry(std::uint64_t vectors) const { return arbiter::geometry(shape_, vectors, block_limit_); }
  WorkspaceNeeds needs(std::uint64_t vectors) const { return workspace_needs(shape_, vectors, block_limit_); }

  /// `tensors` holds pointers and scalars of the call; everything else is filled in here.
  /// Throws Unsupported, before the launch, when the workspace is too small.
  void launch(arbiter_abi::Arguments tensors, std::uint64_t vectors, StreamHandle);

 private:
  Group& group_;
  Device& device_;
  Workspace& workspace_;
  bool exchange_;
  KernelShape shape_;
  std::unique_ptr<Kernel> kernel_;
  Launch launch_;
  int block_limit_ = 0;
  std::string name_;
};

/// SHA-256 over the sources of all ranks and of the stand-alone kernels: what a decision is checked against. Empty for
/// NCCL alone. Pure in the catalogue and the device kind.
std::string candidate_source_hash(const GroupCapabilities&, const CandidateSpec&);
std::string candidate_source_hash(const Catalogue&, Dialect, const CandidateSpec&,
                                  const TemplateMap& = builtin_templates());

/// Bytes of scratch memory (workspace.hpp) that a candidate needs for a family.
std::size_t scratch_bytes(const CandidateSpec&, const ProblemFamily&);

}  // namespace arbiter
