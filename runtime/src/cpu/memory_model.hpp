// How the scheduler asks what a thread sees in memory. Implemented by the link model.
#pragma once

#include <cstdint>
#include <vector>

namespace arbiter {

/// A CUDA thread of a run: of the sequence's `launch`-th launch.
struct ThreadPlace {
  unsigned sequence = 0;
  unsigned launch = 0;
  unsigned block = 0;
  unsigned thread = 0;
};

class MemoryModel {
 public:
  virtual ~MemoryModel() = default;

  /// Threads are numbered: 0 to `threads` - 1 are those that can be resident at once. Called once, first.
  virtual void prepare(unsigned threads) = 0;
  virtual void thread_begins(unsigned thread, const ThreadPlace&) = 0;

  enum class LoadOrder : std::uint8_t { plain, relaxed, acquire };  ///< plain: nobody polls with it
  /// 1 to 4 words that lie in one 16-byte unit of memory.
  virtual void load(unsigned thread, const void* source, unsigned* words, unsigned count, LoadOrder) = 0;
  virtual void store(unsigned thread, void* destination, const unsigned* words, unsigned count, bool release) = 0;
  virtual void fence(unsigned thread) = 0;
  /// Threads [first, last) have passed a barrier together.
  virtual void barrier(unsigned first, unsigned last) = 0;
  /// The launch before this thread's has ended, and the thread has waited for it.
  virtual void grid_waited(unsigned thread) = 0;
  /// A launch of this sequence ended; its threads had the numbers [first, last).
  virtual void grid_ends(unsigned sequence, unsigned first, unsigned last) = 0;

  /// The thread is about to poll again. True: what it loaded since it was asked last cannot have changed, and it will
  /// be in `woken` when that is no longer so.
  virtual bool watch(unsigned thread) = 0;
  /// Called between two steps of the schedule.
  virtual void step() = 0;
  /// Every thread only polls, so something must arrive; false when there is nothing on the way.
  virtual bool idle() = 0;
  /// Everything on the way arrives, and memory holds it: the host looks, or all kernels have ended.
  virtual void settle() = 0;

  std::vector<unsigned> woken;  ///< threads that should poll again; emptied by the scheduler
};

}  // namespace arbiter
