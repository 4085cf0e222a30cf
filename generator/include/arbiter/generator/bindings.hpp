// The values that expressions of the catalogue see for one variant.
#pragma once

#include "arbiter/generator/variant.hpp"

namespace arbiter {

/// See Bindings for the names. `rows`: whether the pattern works on whole rows.
Bindings bindings_of(const Variant&, bool rows, const TargetLimits&);

}  // namespace arbiter
