// What a group that cannot be had on every machine would say of itself. For tests of what is chosen.
#pragma once

#include <utility>

#include "arbiter/runtime/group.hpp"

namespace arbiter::test {

/// With NCCL, which cannot be told what to use.
inline GroupCapabilities with_nccl(GroupCapabilities group) {
  group.nccl_reason = "";
  group.nccl_forcing_reason = "not here";
  return group;
}

/// So many ranks of CPU devices; peers can be reached, or not.
inline GroupCapabilities with_nccl(int size, bool symmetric) {
  GroupCapabilities group;
  group.size = size;
  group.environment.device = "cpu";
  group.multicast_reason = "not here";
  if (symmetric) {
    group.symmetric_provider = SymmetricProvider::shared_memory;
  } else {
    group.symmetric_reason = "peers cannot be reached";
  }
  return with_nccl(std::move(group));
}

}  // namespace arbiter::test
