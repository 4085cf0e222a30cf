#include "comm_registry.hpp"

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
};

// Never destroyed: a process that ends does not free what other ranks may still be using.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

}  // namespace

std::shared_ptr<FollowedComm> follow(NcclComm comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  std::shared_ptr<FollowedComm>& entry = all.comms[comm];
  if (!entry) entry = std::make_shared<FollowedComm>(comm);
  return entry;
}

std::shared_ptr<FollowedComm> followed(NcclComm comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.comms.find(comm);
  return found == all.comms.end() ? nullptr : found->second;
}

std::shared_ptr<FollowedComm> unfollow(NcclComm comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.comms.find(comm);
  if (found == all.comms.end()) return nullptr;
  std::shared_ptr<FollowedComm> comm_followed = std::move(found->second);
  all.comms.erase(found);
  return comm_followed;
}

void keep_for_ever(std::shared_ptr<FollowedComm> comm) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.kept.push_back(std::move(comm));
}

}  // namespace arbiter::nccl_interpose
