// Kernels that are about to be tried are compiled while others are measured.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::tuning {

/// A queue of kernels, and threads that compile them, each kernel once. What fails fails again, and is reported, where
/// it is needed.
class CompileAhead {
 public:
  using Compile = std::function<void(const Variant&)>;
  /// No threads: everything is compiled where it is needed.
  CompileAhead(int threads, Compile);
  CompileAhead(const CompileAhead&) = delete;
  CompileAhead& operator=(const CompileAhead&) = delete;
  /// Waits for what was begun.
  ~CompileAhead();
  /// What waits is dropped: nothing is needed any more.
  void stop();

  /// Will be needed: behind, or before, everything that waits.
  void later(const CandidateSpec&);
  void soon(std::span<const CandidateSpec>);

  /// Is needed now: whoever loads it compiles it himself, unless a thread has begun to.
  void now(const CandidateSpec&);

  double seconds() const;  ///< that the threads have spent on it, together

 private:
  void work();

  Compile compile_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Variant> waiting_;
  std::set<std::string> begun_;
  double seconds_ = 0;
  bool ended_ = false;
  std::vector<std::thread> threads_;
};

/// How many threads of each rank may compile beside its measurements.
int compile_threads(DeviceKind, int processors, int ranks_per_node) noexcept;
/// The same here; none if compiled kernels are not kept.
int compile_threads(Group&);

}  // namespace arbiter::tuning
