// One SHA-256 over a list of fields, as lower-case hexadecimal text.
#pragma once

#include <string>
#include <vector>

namespace arbiter {

/// Fields are hashed with their lengths, so that no two lists of fields give the same bytes.
std::string hash_of_fields(const std::vector<std::string>& fields);

}  // namespace arbiter
