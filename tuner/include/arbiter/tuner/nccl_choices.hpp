// The best NCCL configuration for each message size, from the trials of NCCL's candidates in a database.
#pragma once

#include <vector>

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/choose.hpp"

namespace arbiter {

/// For every number of ranks with a measured plain allreduce of NCCL (out of place; in graph mode, else eager),
/// intervals from 1 byte to the largest measured message, without gaps. Messages of equal bytes are one size, whatever
/// their dtype and rows, because NCCL tells its tuner plugins no more. A forced configuration is chosen only where it
/// beats NCCL's own choice beyond noise; then the one of the next smaller size stays while it is within noise of the
/// fastest. NCCL's symmetric kernels are left out: plugins cannot choose them. Throws DatabaseError.
std::vector<NcclChoice> nccl_choices(const WorkDatabase&, const Environment&, const ChoiceRules& = {});

}  // namespace arbiter
