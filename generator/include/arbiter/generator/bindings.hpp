// The values that expressions of the catalogue see for one variant.
#pragma once

#include "arbiter/generator/variant.hpp"

namespace arbiter {

/// See Bindings for the names. The pattern is that of the variant.
Bindings bindings_of(const Variant&, const Pattern&, const TargetLimits&);

}  // namespace arbiter
