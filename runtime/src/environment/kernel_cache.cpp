#include "arbiter/runtime/kernel_cache.hpp"

#include <utility>

#include "environment/cache_folder.hpp"

namespace arbiter {

std::shared_ptr<KernelCache> make_kernel_cache(const EnvironmentVariables& variables, bool says_so,
                                               std::function<void(const std::string&)> warn) {
  CacheOptions options;
  options.directory = variables.cache_dir;
  options.compile_on_miss = variables.jit;
  options.warn = std::move(warn);
  auto cache = std::make_shared<KernelCache>(options);
  // A caller that gave an empty folder of his own knows.
  if (says_so && options.directory.empty() && cache_folder().empty()) {
    cache->options().warn(
        "there is no folder for the kernel cache, because HOME is not set and this user has no entry in passwd: "
        "kernels are compiled in every process; set ARBITER_CACHE_DIR to a folder of your own");
  }
  return cache;
}

}  // namespace arbiter
