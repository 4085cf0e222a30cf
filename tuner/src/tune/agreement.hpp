// All ranks must search the same list in the same way, or one of them waits for a candidate that no peer launches.
#pragma once

#include <memory>
#include <span>

#include "tune/family_state.hpp"

namespace arbiter::tuning {

/// Collective. Throws Disagreement, on every rank, naming the first rank that differs from rank 0 and in what.
void require_agreement(Group&, const TuneOptions&, std::span<const std::unique_ptr<FamilyState>>);

}  // namespace arbiter::tuning
