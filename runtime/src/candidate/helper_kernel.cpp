#include "candidate/helper_kernel.hpp"

#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/render.hpp"

namespace arbiter {
namespace {

Source helper_source(const std::string& name, DeviceKind kind, int rank, int ranks) {
  const bool cuda = kind == DeviceKind::cuda;
  Context context;
  // Of the primitives, without those that only quantisation needs.
  context.keys = {{"cuda", cuda ? "1" : ""}, {"host", cuda ? "" : "1"}, {"quantised", "0"}};
  context.aliases = {{"primitives", cuda ? "device/primitives.cuh" : "host/primitives.h"}};
  for (int r = cuda ? rank : 0; r < (cuda ? rank + 1 : ranks); ++r) {
    context.lists["ranks"].push_back({{"rank", std::to_string(r)}});
  }
  Source source;
  source.text = render(name, context);
  source.entry = cuda ? "arbiter_kernel" : "arbiter_kernel_rank";
  source.hash = sha256_hex(source.text);
  return source;
}

}  // namespace

std::unique_ptr<Kernel> load_helper_kernel(Device& device, KernelCache& cache, const std::string& name,
                                           const std::string& what, int rank, int ranks) {
  const std::unique_ptr<Compiler> compiler = make_compiler(device.properties().compile_target);
  return device.load(cache.get(helper_source(name, device.kind(), rank, ranks), *compiler, what), rank);
}

}  // namespace arbiter
