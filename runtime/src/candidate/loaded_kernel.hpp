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
  void set_block_limit(int limit) noexcept {
    block_limit_ = limit;
    filled_.vectors = 0;
  }

  Geometry geometry(std::uint64_t vectors) const { return arbiter::geometry(shape_, vectors, block_limit_); }
  WorkspaceNeeds needs(std::uint64_t vectors) const { return workspace_needs(shape_, vectors, block_limit_); }

  /// Arguments of a launch for a message of `vectors`, where the caller puts the call's own tensors and scalars, all of
  /// them; everything else is filled in. Throws Unsupported when the workspace is too small.
  arbiter_abi::Arguments& arguments(std::uint64_t vectors);
  /// With the arguments as they stand.
  void launch(StreamHandle);
  KernelLaunch last_launch() const noexcept {
    return {kernel_.get(), launch_, std::as_bytes(std::span(&filled_.arguments, 1))};
  }

 private:
  Group& group_;
  Device& device_;
  Workspace& workspace_;
  bool exchange_;
  std::unique_ptr<Kernel> kernel_;
  Launch launch_;

  /// Calls come in runs of one size, layer after layer: only what differs between these is written again.
  struct Filled {
    std::uint64_t vectors = 0;  // 0: nothing
    std::uint64_t generation = 0;
    bool located = false;  // peers can address a tensor
    arbiter_abi::Arguments arguments{};
  };
  Filled filled_;
  KernelShape shape_;
  int block_limit_ = 0;
  std::string name_;

  void fill(std::uint64_t vectors);
  void locate_tensors();
};

/// SHA-256 over the sources of all ranks and of the stand-alone kernels: what a decision is checked against. Empty for
/// NCCL alone. Pure in the catalogue and the device kind.
std::string candidate_source_hash(const GroupCapabilities&, const CandidateSpec&);
std::string candidate_source_hash(const Catalogue&, Dialect, const CandidateSpec&,
                                  const TemplateMap& = builtin_templates());

/// Bytes of scratch memory (workspace.hpp) that a candidate needs for a family.
std::size_t scratch_bytes(const CandidateSpec&, const ProblemFamily&);

}  // namespace arbiter
