#include "comm_registry.hpp"

#include <atomic>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace arbiter::nccl_interpose {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<NcclComm, std::shared_ptr<FollowedComm>> comms;
  std::vector<std::shared_ptr<FollowedComm>> kept;
  std::atomic<std::uint64_t> changes{1};
};

// Never destroyed: a process that ends does not free what other ranks may still be using.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

/// What this thread asked for last, and when: an answer is good until the registry changes. "None" is an answer too.
struct LastAnswer {
  NcclComm comm = nullptr;
  std::uint64_t changes = 0;
  std::shared_ptr<FollowedComm> entry;
};
thread_local LastAnswer last_answer;

}  // namespace

std::shared_ptr<FollowedComm> follow(NcclComm comm) {
  if (std::shared_ptr<FollowedComm> known = followed(comm)) return known;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  std::shared_ptr<FollowedComm>& entry = all.comms[comm];
  if (!entry) {
    entry = std::make_shared<FollowedComm>(comm);
    all.changes.fetch_add(1, std::memory_order_release);
  }
  return entry;
}

std::shared_ptr<FollowedComm> followed(NcclComm comm) {
  Registry& all = registry();
  LastAnswer& last = last_answer;
  const std::uint64_t changes = all.changes.load(std::memory_order_acquire);
  if (last.comm == comm && last.changes == changes) return last.entry;
  const std::lock_guard lock(all.mutex);
  const auto found = all.comms.find(comm);
  // Under the lock nothing changes.
  last = {comm, all.changes.load(std::memory_order_relaxed), found == all.comms.end() ? nullptr : found->second};
  return last.entry;
}

std::shared_ptr<FollowedComm> unfollow(NcclComm comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.comms.find(comm);
  if (found == all.comms.end()) return nullptr;
  std::shared_ptr<FollowedComm> comm_followed = std::move(found->second);
  all.comms.erase(found);
  all.changes.fetch_add(1, std::memory_order_release);
  return comm_followed;
}

void keep_for_ever(std::shared_ptr<FollowedComm> comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.kept.push_back(std::move(comm));
}

}  // namespace arbiter::nccl_interpose
