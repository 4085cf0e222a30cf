#pragma once
// Time for the ranks of a test, which are processes: it stands still while any of them does something, and when all of
// them wait it jumps to the first end that one of them waits for. So a deadline passes in no time, and none passes
// because a machine is busy.
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "bootstrap/id_exchange.hpp"

namespace arbiter {

class MeetingTime final : public ExchangeTime {
 public:
  using Milliseconds = std::chrono::milliseconds;

  MeetingTime()
      : shared_(new (mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Shared) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared_->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
  MeetingTime(const MeetingTime&) = delete;
  MeetingTime& operator=(const MeetingTime&) = delete;
  ~MeetingTime() override { munmap(shared_, sizeof(Shared)); }

  Milliseconds passed() {
    const Lock lock(*shared_);
    return Milliseconds(shared_->now);
  }
  Point now() override { return Point(passed()); }

  /// For somebody who is about to start, or to do something: until it waits or leaves, no time passes.
  int take_seat() {
    const Lock lock(*shared_);
    const auto free =
        std::find_if(shared_->seats.begin(), shared_->seats.end(), [](auto& seat) { return !seat.taken; });
    *free = Seat{};
    free->taken = true;
    ++shared_->changes;
    return static_cast<int>(free - shared_->seats.begin());
  }
  /// When whoever had it is gone, and its connections are closed.
  void leave(int seat) {
    const Lock lock(*shared_);
    shared_->seats[static_cast<std::size_t>(seat)].taken = false;
    ++shared_->changes;
  }
  /// In a new process: the seat that was taken for it.
  void sit(int seat) { mine_ = seat; }

  int wait(std::span<pollfd> descriptors, Point end) override {
    const bool visitor = mine_ < 0;  // the test itself
    if (visitor) mine_ = take_seat();
    Seat& seat = shared_->seats[static_cast<std::size_t>(mine_)];
    {
      const Lock lock(*shared_);
      seat.waiting = true;
      seat.end = std::chrono::ceil<Milliseconds>(end.time_since_epoch()).count();
      ++shared_->changes;  // what was done before this is to be seen by the others before time passes
    }
    int ready = 0;
    while (!done(seat, descriptors, ready)) usleep(20);
    if (visitor) leave(std::exchange(mine_, -1));
    return ready;
  }

 private:
  struct Seat {
    bool taken = false;
    bool waiting = false;
    std::int64_t end = 0;
    std::int64_t seen = -1;  ///< the changes after which there was nothing to do
  };
  struct Shared {
    pthread_mutex_t mutex{};
    std::int64_t now = 0;
    std::int64_t changes = 0;
    std::array<Seat, 16> seats{};
  };
  class Lock {
   public:
    explicit Lock(Shared& shared) : mutex_(&shared.mutex) { pthread_mutex_lock(mutex_); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock() { pthread_mutex_unlock(mutex_); }

   private:
    pthread_mutex_t* mutex_;
  };

  bool done(Seat& seat, std::span<pollfd> descriptors, int& ready) {
    std::int64_t changes = 0;
    {
      const Lock lock(*shared_);
      changes = shared_->changes;
    }
    ready = poll(descriptors.data(), descriptors.size(), 0);
    const Lock lock(*shared_);
    if (ready != 0 || seat.end <= shared_->now) {
      seat.waiting = false;
      return true;
    }
    seat.seen = changes;
    std::int64_t next = seat.end;
    for (const Seat& other : shared_->seats) {
      if (!other.taken) continue;
      if (!other.waiting || other.seen != shared_->changes || other.end <= shared_->now) return false;
      next = std::min(next, other.end);
    }
    shared_->now = next;
    return false;  // at the next look
  }

  Shared* shared_;
  int mine_ = -1;
};

}  // namespace arbiter
