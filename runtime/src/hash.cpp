#include "hash.hpp"

#include <llvm/ADT/StringExtras.h>
#include <llvm/Support/SHA256.h>

#include "collective.hpp"

namespace arbiter {

std::string hash_of_fields(const std::vector<std::string>& fields) {
  const std::string bytes = pack(fields);
  llvm::SHA256 hash;
  hash.update(llvm::StringRef(bytes.data(), bytes.size()));
  return llvm::toHex(hash.final(), /*LowerCase=*/true);
}

}  // namespace arbiter
