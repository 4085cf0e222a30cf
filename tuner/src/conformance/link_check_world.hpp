// The ranks of a link check: groups with their kernels, driven by one thread once they are set up.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arbiter/tuner/link_check.hpp"
#include "cpu/link_memory.hpp"
#include "cpu/scheduler.hpp"
#include "memory/workspace.hpp"

namespace arbiter {

/// One call of a sequence, equal on all ranks.
struct LinkCall {
  std::size_t candidate = 0;
  int blocks = 1;  // grid limit
  std::int64_t tokens = 1;
  bool in_place = false;
  bool chained = false;  // its input is the output of the call before
};

class LinkWorld {
 public:
  /// `push_buffer_bytes`: see GroupOptions.
  LinkWorld(const LinkCheckOptions&, std::uint64_t push_buffer_bytes);
  ~LinkWorld();
  LinkWorld(const LinkWorld&) = delete;
  LinkWorld& operator=(const LinkWorld&) = delete;

  static constexpr std::size_t most_calls = 6;
  static constexpr std::uint32_t first_epoch = 0xfffffffbU;  // every counter wraps around on the way

  int ranks() const noexcept { return static_cast<int>(ranks_.size()); }
  std::size_t own_candidates() const noexcept { return own_candidates_; }  // the first ones
  std::size_t candidates() const noexcept { return ranks_.front().candidates.size(); }
  RunnableCandidate& candidate(std::size_t index) const { return *ranks_.front().candidates[index]; }
  int most_blocks(std::size_t candidate) const { return most_blocks_[candidate]; }
  int cluster(std::size_t candidate) const { return clusters_[candidate]; }
  std::int64_t most_tokens() const noexcept { return family_.max_tokens; }

  /// Runs the calls on all ranks from a fresh workspace. Empty, or what was wrong on which rank in which call.
  struct Outcome {
    std::string wrong;
    int rank = -1;  // of the first wrong result
    int call = -1;  // -1: a kernel gave up
  };
  Outcome run(const std::vector<LinkCall>&, std::uint64_t data, std::uint64_t order, std::uint64_t delivery,
              bool explain);
  const LinkMemory& memory() const noexcept { return *memory_; }
  const WorkspaceLayout& layout() const { return ranks_.front().group->workspace().layout(); }
  /// Whose workspace an address lies in, and where; rank -1: in none.
  std::pair<int, std::uint64_t> workspace_offset(const void* address) const;

 private:
  struct Buffers {
    DeviceMemory input, output, residual;
  };
  struct Rank {
    std::shared_ptr<Bootstrap> bootstrap;
    std::shared_ptr<Device> device;
    std::unique_ptr<Group> group;
    std::vector<std::unique_ptr<RunnableCandidate>> candidates;
    std::vector<Buffers> buffers;  // by call
    StreamHandle stream = nullptr;
    std::vector<unsigned char> fresh;  // what the workspace holds before the first call
  };
  void set_up(Rank&, const LinkCheckOptions&, std::uint64_t push_buffer_bytes, const std::shared_ptr<const Catalogue>&);
  std::vector<CandidateSpec> choose(const Group&, const LinkCheckOptions&);
  Call call_of(Rank&, const std::vector<LinkCall>&, std::size_t call) const;
  std::size_t elements(const LinkCall& call) const noexcept {
    return static_cast<std::size_t>(call.tokens) * static_cast<std::size_t>(family_.hidden);
  }
  void prepare_inputs(const std::vector<LinkCall>&, std::uint64_t data);
  Outcome check(const std::vector<LinkCall>&) const;

  ProblemFamily family_;
  bool rows_ = false;
  bool eight_bits_ = false;  ///< the algorithm under test is of class fp8_transport
  std::vector<Rank> ranks_;
  std::size_t own_candidates_ = 0;
  std::vector<int> most_blocks_;
  std::vector<int> clusters_;
  std::vector<std::vector<int>> expected_;  // by call
  FiberScheduler scheduler_;
  std::unique_ptr<LinkMemory> memory_;
};

}  // namespace arbiter
