// A catalogue: an error that says where it is wrong, or something that can be enumerated and rendered.
#include <string>
#include <string_view>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/generator/variant.hpp"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace arbiter;
  constexpr std::size_t patterns = 3, rendered = 2;  // of each pattern: rendering is slow, and they are alike
  try {
    // Without templates: hashing all of them would be most of the work.
    const Catalogue catalogue = Catalogue::parse({reinterpret_cast<const char*>(data), size}, TemplateMap{});
    std::size_t tried = 0;
    for (const std::string& pattern : catalogue.usual_patterns()) {
      if (tried++ == patterns) break;
      try {
        const Enumeration all = enumerate(catalogue, pattern, Dtype::bf16, 2, 4096, {90, 1024, {}});
        for (std::size_t i = 0; i < all.variants.size() && i < rendered; ++i) {
          (void)render_kernel(catalogue, all.variants[i], 0, Dialect::cuda);
        }
      } catch (const CompileError&) {
      }
    }
  } catch (const CompileError&) {
  }
  return 0;
}
