// The state of a communicator. communicator.cpp serves calls, communicator_prepare.cpp makes them ready.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "communicator/aligned_copies.hpp"
#include "communicator/call_validation.hpp"
#include "communicator/decisions.hpp"
#include "communicator/dispatch.hpp"
#include "communicator/recent_calls.hpp"
#include "communicator/resolve.hpp"
#include "communicator/route.hpp"
#include "communicator/startup_tune.hpp"
#include "environment/logging.hpp"
#include "environment/profiler.hpp"

namespace arbiter {

inline constexpr std::string_view plain_pattern = "allreduce";

/// One of the calls by which NCCL connects; null spec: as NCCL chooses.
struct FirstNcclCall {
  Dtype dtype;
  std::size_t bytes;
  const CandidateSpec* spec;
};

struct Communicator::Impl {
  Impl(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, CommunicatorOptions);

  void prepare(std::span<const ProblemFamily>);
  void prepare_nccl(Dtype, std::int64_t max_count);
  void run(const Call&, StreamHandle);
  /// `tokens` of a family that is prepared. `mode`: mode_of(stream), which is asked once a call. Whoever calls this
  /// has checked the group.
  void run(const FamilyTable&, const CallTensors&, std::int64_t tokens, Mode, StreamHandle);
  /// Plain allreduce of `elements`. `table` null: with whatever serves them.
  void run_plain(const FamilyTable* table, const CallTensors&, Dtype, std::int64_t elements, Mode, StreamHandle);
  bool can_use(const Problem&) const;
  Explanation explain(const Problem&) const;
  Explanation explain(const FamilyTable&, std::int64_t tokens) const;

  /// Both run() and explain() ask here, so they cannot differ. `table` null: no prepared family covers `elements`.
  /// Depends on nothing but what is equal on all ranks. Throws Unsupported where nothing serves the message.
  Route route_plain(const FamilyTable* table, Dtype, std::int64_t elements) const;
  Explanation explain(const Route&, Dtype, std::int64_t elements) const;

  Mode mode_of(StreamHandle stream) { return group->device().capturing(stream) ? Mode::graph : Mode::eager; }
  ChoicePolicy policy() const { return {options.variables.backend, options.variables.numerics, options.candidate}; }
  /// Once, at start, on rank 0: what there is to choose from, and why not the rest.
  void say_what_there_is() const;

  // First what every call looks at.
  RecentCalls recent;
  ProfilerDomain profiler;
  CommunicatorOptions options;
  Logger log;
  std::unique_ptr<Group> group;
  LoadedDecisions decisions;
  PointerCheck pointers;
  AlignedCopies copies;  ///< of fused calls; plain ones have the workspace's scratch memory
  Pattern plain;         ///< what serves counts that no prepared family covers

  /// Loaded candidates by family and name. Never dropped: a captured graph may use their kernels.
  struct Loaded {
    std::int64_t max_tokens = 0;
    std::unique_ptr<RunnableCandidate> candidate;
  };
  std::multimap<std::string, Loaded> loaded;
  CallCounters counters;
  std::array<CallCounter*, 3> nccl_fallback{};   ///< by dtype: plain messages that no prepared kernel takes
  std::array<std::size_t, 3> nccl_warm_bytes{};  ///< by dtype: the largest message that it was warmed up for
  Refusals refusals;
  DispatchTable table;
  StartupTune startup;
  bool captured = false;  // a call was captured: memory that kernels use must not move any more

 private:
  /// Makes a call again that was made before, outside capture. False: it was not; nothing happened.
  bool run_again(const FamilyTable&, const CallTensors&, std::int64_t count, StreamHandle);
  /// Refuses a call with whose tensors something is wrong. True: some must go through a copy.
  bool check_tensors(const FamilyTable*, const Pattern&, const CallSize&, const CallTensors&, Mode);
  void run_staged(const CallTensors&, Dtype, std::int64_t elements, RunnableCandidate&, StreamHandle);

  /// Is the family one that nobody serves, because Arbiter is off? Then its calls are refused from here on.
  bool switch_off(const ProblemFamily&);

  // Steps of prepare(), all collective.
  void tune_unknown(const std::vector<ProblemFamily>&);
  std::vector<ProblemFamily> unmeasured(const std::vector<ProblemFamily>&);
  void recall_startup_tunes();
  using Plan = std::pair<ProblemFamily, std::vector<PlannedInterval>>;
  bool wait_for_nccl(const std::vector<Plan>&);
  void warm_nccl(const std::vector<Plan>&);
  void call_nccl_first(const std::vector<FirstNcclCall>&);
  RunnableCandidate* find_loaded(const std::string& key, std::int64_t max_tokens);
  std::vector<Plan> resolve_and_load(const std::vector<ProblemFamily>&, bool any_captured);
  bool refuse_other_kernels(const std::vector<Plan>&);
  void reserve_memory(const std::vector<Plan>&, bool any_captured);
  void require_equal_plans(const std::vector<Plan>&);
  void publish(const std::vector<Plan>&);
};

}  // namespace arbiter
