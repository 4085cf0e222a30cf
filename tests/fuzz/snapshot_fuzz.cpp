// A snapshot's bytes: an error that names the file, or decisions that make sense.
#include <cstdlib>
#include <string>

#include "arbiter/db/kernels.hpp"
#include "arbiter/error.hpp"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  try {
    for (const arbiter::DecisionSet& set : arbiter::read_decisions_from_bytes(bytes, "fuzzed")) {
      for (const arbiter::Decision& decision : set.decisions) {
        require(decision.tokens_min >= 1 && decision.tokens_max >= decision.tokens_min && decision.world >= 1);
        require(decision.hidden >= 1 && decision.median_us >= 0 && !decision.candidate.name.empty());
      }
    }
    for (const arbiter::StoredKernel& kernel : arbiter::read_kernels_from_bytes(bytes, "fuzzed")) {
      require(!kernel.kernel.image.empty() && kernel.source_hash.size() == 64);
    }
  } catch (const arbiter::DatabaseError&) {
  }
  return 0;
}
