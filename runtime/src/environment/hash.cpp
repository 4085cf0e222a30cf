#include "environment/hash.hpp"

#include "arbiter/generator/digest.hpp"
#include "group/collective.hpp"

namespace arbiter {

std::string hash_of_fields(const std::vector<std::string>& fields) { return sha256_hex(pack(fields)); }

}  // namespace arbiter
