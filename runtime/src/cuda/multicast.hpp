// Multicast objects: one address for the memory of all ranks. Whoever calls this creates one, so only what
// ARBITER_MULTICAST=on allows may get here.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "cuda/driver.hpp"
#include "cuda/symmetric.hpp"

namespace arbiter {

/// One rank's part in a multicast object.
struct MulticastPart {
  int rank = 0;
  std::vector<CudaPeer> peers;              ///< all ranks
  DescriptorMailbox* mailbox = nullptr;     ///< null if all ranks are in this process
  CUmemGenericAllocationHandle memory = 0;  ///< this rank's, from cuMemCreate
  std::size_t bytes = 0;                    ///< of it, equal on all ranks; a multiple of the granularity
};

/// Bytes that memory in a multicast object must be a multiple of. Creates nothing. Throws Unavailable.
std::size_t multicast_granularity(const CudaDriver&, int ranks);

/// Collective. Rank 0 creates the object, every rank adds its GPU, binds its memory and maps the object. Throws
/// Unavailable on every rank, with the first reason, when any step fails on any rank; everything is released then.
std::shared_ptr<CudaMapping> join_multicast(const CudaDriver&, Bootstrap&, const MulticastPart&);

}  // namespace arbiter
