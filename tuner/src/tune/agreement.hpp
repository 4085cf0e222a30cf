// All ranks must search the same list in the same way, or one of them waits for a candidate that no peer launches.
#pragma once

#include <memory>
#include <span>

#include "tune/family_state.hpp"

namespace arbiter::tuning {

/// Collective. require_equal() of the options, the problems and their candidates.
void require_equal_searches(Group&, const TuneOptions&, std::span<const std::unique_ptr<FamilyState>>);

}  // namespace arbiter::tuning
