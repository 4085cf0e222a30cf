// Conditions and geometry of the catalogue: integer expressions over names.
#pragma once

#include <set>
#include <string>
#include <string_view>

#include "arbiter/generator/catalogue.hpp"

namespace arbiter {

/// Check syntax and names without values. Throws CompileError as evaluate() does.
void check_expression(std::string_view expression, const std::set<std::string, std::less<>>& names);

}  // namespace arbiter
