// Ranks that are threads of one process. Every collective is a meeting: ranks leave what they contribute, the last one
// closes the meeting, and everybody takes the result with them.
#include <fmt/format.h>

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter {
namespace {

enum class Operation : std::uint8_t { allgather, broadcast, barrier };

struct Contribution {
  Operation operation = Operation::barrier;
  int root = 0;
  std::size_t bytes = 0;
  std::vector<std::byte> data;
  bool operator==(const Contribution& other) const noexcept {
    return operation == other.operation && root == other.root && bytes == other.bytes;
  }
};

std::string describe(const Contribution& c) {
  switch (c.operation) {
    case Operation::allgather:
      return fmt::format("allgather of {} bytes", c.bytes);
    case Operation::broadcast:
      return fmt::format("broadcast of {} bytes from rank {}", c.bytes, c.root);
    case Operation::barrier:
      break;
  }
  return "barrier";
}

struct Outcome {
  std::vector<Contribution> contributions;
  std::string disagreement;  // empty: all ranks called the same
};

class Meeting {
 public:
  Meeting(int size, std::chrono::milliseconds deadline)
      : deadline_(deadline), pending_(static_cast<std::size_t>(size)), gone_(static_cast<std::size_t>(size), false) {}

  int size() const noexcept { return static_cast<int>(pending_.contributions.size()); }

  std::shared_ptr<const Outcome> meet(int rank, Contribution mine) {
    std::unique_lock lock(mutex_);
    const std::string what = describe(mine);
    if (!poisoned_.empty()) throw Poisoned(poisoned_);
    pending_.contributions[static_cast<std::size_t>(rank)] = std::move(mine);
    pending_.arrived[static_cast<std::size_t>(rank)] = true;
    if (++pending_.count == size()) {
      close();
      return last_;
    }
    const std::uint64_t meeting = number_;
    const auto until = std::chrono::steady_clock::now() + deadline_;
    // A finished meeting counts even if somebody left or gave up right after it.
    while (number_ == meeting) {
      if (!poisoned_.empty()) throw Poisoned(poisoned_);
      if (const std::string left = missing(true); !left.empty()) {
        poison(
            fmt::format("the bootstrap of rank {} was destroyed while rank {} waited for it in {}", left, rank, what));
      } else if (changed_.wait_until(lock, until) == std::cv_status::timeout && number_ == meeting &&
                 poisoned_.empty()) {
        poison(fmt::format(
            "rank {} waited {} ms in {} for rank {}, which did not arrive; all ranks must issue the same calls", rank,
            deadline_.count(), what, missing(false)));
      }
    }
    return last_;
  }

  void leave(int rank) noexcept {
    const std::lock_guard lock(mutex_);
    gone_[static_cast<std::size_t>(rank)] = true;
    changed_.notify_all();
  }

 private:
  struct Pending {
    explicit Pending(std::size_t size) : contributions(size), arrived(size, false) {}
    std::vector<Contribution> contributions;
    std::vector<bool> arrived;
    int count = 0;
  };

  void close() {
    auto outcome = std::make_shared<Outcome>();
    for (std::size_t r = 1; r < pending_.contributions.size(); ++r) {
      if (pending_.contributions[r] == pending_.contributions[0]) continue;
      outcome->disagreement = fmt::format(
          "the ranks called different things: rank 0 {}, rank {} {}; all ranks must issue the same calls in the same "
          "order",
          describe(pending_.contributions[0]), r, describe(pending_.contributions[r]));
      break;
    }
    outcome->contributions = std::exchange(pending_, Pending(pending_.contributions.size())).contributions;
    last_ = std::move(outcome);
    ++number_;
    changed_.notify_all();
  }

  void poison(std::string reason) {
    poisoned_ = std::move(reason);
    changed_.notify_all();
  }

  /// Ranks that have not arrived, "1, 3"; with `only_gone`, those of them that never will.
  std::string missing(bool only_gone) const {
    std::vector<std::size_t> ranks;
    for (std::size_t r = 0; r < gone_.size(); ++r) {
      if (!pending_.arrived[r] && (!only_gone || gone_[r])) ranks.push_back(r);
    }
    return joined(ranks, ", ");
  }

  const std::chrono::milliseconds deadline_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Pending pending_;
  std::shared_ptr<const Outcome> last_;
  std::uint64_t number_ = 0;
  std::vector<bool> gone_;
  std::string poisoned_;  // why no meeting will ever be complete again
};

class InProcessBootstrap final : public Bootstrap {
 public:
  InProcessBootstrap(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}
  ~InProcessBootstrap() override { meeting_->leave(rank_); }
  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return meeting_->size(); }

  void allgather(const void* send, std::size_t bytes, void* receive) override {
    const auto outcome = meet({Operation::allgather, 0, bytes, copy(send, bytes)});
    auto* to = static_cast<std::byte*>(receive);
    for (const Contribution& c : outcome->contributions) {
      if (bytes != 0) std::memcpy(to, c.data.data(), bytes);
      to += bytes;
    }
  }

  void broadcast(void* data, std::size_t bytes, int root) override {
    if (root < 0 || root >= size()) {
      throw InvalidArgument(fmt::format("broadcast from rank {}; ranks are 0 to {}", root, size() - 1));
    }
    const auto outcome =
        meet({Operation::broadcast, root, bytes, rank_ == root ? copy(data, bytes) : std::vector<std::byte>{}});
    const auto& sent = outcome->contributions[static_cast<std::size_t>(root)].data;
    if (rank_ != root && bytes != 0) std::memcpy(data, sent.data(), bytes);
  }

  void barrier() override { meet({}); }
  std::string name() const override { return "in_process"; }

 private:
  static std::vector<std::byte> copy(const void* data, std::size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    return bytes == 0 ? std::vector<std::byte>{} : std::vector<std::byte>(from, from + bytes);
  }
  std::shared_ptr<const Outcome> meet(Contribution mine) {
    auto outcome = meeting_->meet(rank_, std::move(mine));
    if (!outcome->disagreement.empty()) throw Disagreement(outcome->disagreement);
    return outcome;
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Bootstrap>> make_in_process_bootstraps(int size, std::chrono::milliseconds deadline) {
  if (size < 1) throw InvalidArgument(fmt::format("a group needs at least one rank, not {}", size));
  auto meeting = std::make_shared<Meeting>(size, deadline);
  std::vector<std::unique_ptr<Bootstrap>> bootstraps;
  for (int rank = 0; rank < size; ++rank) bootstraps.push_back(std::make_unique<InProcessBootstrap>(meeting, rank));
  return bootstraps;
}

}  // namespace arbiter
