#include "conformance/subgroup.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

namespace arbiter::tuning {
namespace {

// What a rank announces before each exchange: the bytes that members send, or one of these.
constexpr std::int64_t follows = -1;  ///< no member: takes part in whatever comes
constexpr std::int64_t done = -2;
constexpr std::int64_t failed = -3;

/// Collective over the parent: what the members are about to do.
std::int64_t announce(Bootstrap& parent, std::int64_t mine) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(parent.size()));
  parent.allgather(&mine, sizeof(mine), all.data());
  if (mine == failed) return failed;
  if (std::find(all.begin(), all.end(), failed) != all.end()) throw Poisoned("another rank of a sub-group failed");
  std::int64_t next = follows;
  for (const std::int64_t one : all) {
    if (one == follows) continue;
    if (next != follows && one != next) {
      throw Disagreement(fmt::format("members of a sub-group exchange different things: {} and {} bytes", next, one));
    }
    next = one;
  }
  return next;
}

}  // namespace

class Subgroup::Member final : public Bootstrap {
 public:
  Member(Bootstrap& parent, std::vector<int> members, int rank)
      : parent_(parent), members_(std::move(members)), rank_(rank) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return static_cast<int>(members_.size()); }
  std::string name() const override { return "sub-group of " + parent_.name(); }

  using Bootstrap::allgather;
  using Bootstrap::broadcast;
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    announce(parent_, static_cast<std::int64_t>(bytes));
    std::vector<unsigned char> all(bytes * static_cast<std::size_t>(parent_.size()));
    parent_.allgather(send, bytes, all.data());
    for (std::size_t i = 0; i < members_.size() && bytes != 0; ++i) {
      std::memcpy(static_cast<unsigned char*>(receive) + i * bytes,
                  all.data() + static_cast<std::size_t>(members_[i]) * bytes, bytes);
    }
  }
  void broadcast(void* data, std::size_t bytes, int root) override {
    std::vector<unsigned char> all(bytes * members_.size());
    allgather(data, bytes, all.data());
    std::memcpy(data, all.data() + static_cast<std::size_t>(root) * bytes, bytes);
  }
  void barrier() override {
    const unsigned char nothing = 0;
    std::vector<unsigned char> all(members_.size());
    allgather(&nothing, 1, all.data());
  }

 private:
  Bootstrap& parent_;
  std::vector<int> members_;
  int rank_;
};

Subgroup::Subgroup(Bootstrap& parent, std::vector<int> members) : parent_(parent), members_(std::move(members)) {
  const auto mine = std::find(members_.begin(), members_.end(), parent.rank());
  if (mine == members_.end()) return;
  bootstrap_ = std::make_shared<Member>(parent, members_, static_cast<int>(mine - members_.begin()));
}

void Subgroup::together(const std::function<void(std::shared_ptr<Bootstrap>)>& step) {
  if (bootstrap_) {
    try {
      step(bootstrap_);
    } catch (const Poisoned&) {  // the others know
      throw;
    } catch (...) {
      announce(parent_, failed);
      throw;
    }
    announce(parent_, done);
    return;
  }
  while (true) {
    const std::int64_t bytes = announce(parent_, follows);
    if (bytes == done) return;
    const std::vector<unsigned char> nothing(static_cast<std::size_t>(bytes));
    std::vector<unsigned char> all(nothing.size() * static_cast<std::size_t>(parent_.size()));
    parent_.allgather(nothing.data(), nothing.size(), all.data());
  }
}

}  // namespace arbiter::tuning
