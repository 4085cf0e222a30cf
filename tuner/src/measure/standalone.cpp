#include "measure/standalone.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"

namespace arbiter::tuning {

std::unique_ptr<RunnableCandidate> load_standalone(Group& group, const ProblemFamily& family) {
  const Enumeration kernels =
      enumerate_standalone(group.catalogue(), family.pattern, family.dtype, family.hidden, group.capabilities().limits);
  if (kernels.variants.empty()) {
    throw Unsupported(fmt::format("no stand-alone kernel of '{}' for hidden = {} on this device{}", family.pattern,
                                  family.hidden,
                                  (kernels.excluded.empty() ? "" : ": " + kernels.excluded.front().reason)));
  }
  LoadRequest request;
  request.spec.kernel = kernels.variants.front();
  request.family = family;
  std::vector<LoadResult> loaded = load_on_all_ranks(group, {&request, 1});
  if (!loaded.front().candidate) {
    throw Unsupported("the stand-alone kernel of '" + family.pattern + "' cannot be loaded: " + loaded.front().reason);
  }
  return std::move(loaded.front().candidate);
}

}  // namespace arbiter::tuning
