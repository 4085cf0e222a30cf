// Decisions from the trials in a database, without a device: after merging, importing or forgetting.
#pragma once

#include "arbiter/db/database.hpp"
#include "arbiter/tuner/choose.hpp"

namespace arbiter {

/// Replace the decisions and the NCCL choices of `environment` by what its finished trials say; the latest trial of a
/// candidate counts, as for --resume. Depends on the trials alone: earlier decisions are neither kept nor preferred, so
/// databases merged in any order decide alike. A family ends at the largest size that was tried. Throws DatabaseError.
void recompute_decisions(WorkDatabase&, const Environment&, const ChoiceRules&);
void recompute_decisions(WorkDatabase&, const Environment&);

}  // namespace arbiter
