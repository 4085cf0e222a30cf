// The communicators that had an allreduce so far.
#pragma once

#include <memory>

#include "followed_comm.hpp"

namespace arbiter::nccl_interpose {

/// Found or added. Thread-safe.
std::shared_ptr<FollowedComm> follow(NcclComm comm);
/// Null if there is none. Thread-safe; asking again for the communicator that this thread asked for last takes no lock.
std::shared_ptr<FollowedComm> followed(NcclComm comm);
/// Forgets it: another one may get the same address. Null if there was none.
std::shared_ptr<FollowedComm> unfollow(NcclComm comm);
/// Keeps it until the process ends, because kernels may still use its memory.
void keep_for_ever(std::shared_ptr<FollowedComm>);

}  // namespace arbiter::nccl_interpose
