// An entry of the kernel cache: a kernel that its manifest and its digest agree about, or a reason why not.
//   input: two bytes with the length of the manifest, the manifest, the image
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "arbiter/generator/temporary_folder.hpp"
#include "cache/store.hpp"

namespace {

struct Cache {
  arbiter::TemporaryFolder folder;
  arbiter::CacheStore store{folder.path()};
  std::string key = std::string(64, 'a');
  std::filesystem::path entry = folder.path() / "v1/entries" / key;
  Cache() {
    if (store.prepare()) std::abort();
    std::filesystem::create_directory(entry);
    std::filesystem::permissions(entry, std::filesystem::perms::owner_all);
  }
  void write(const char* name, const std::string& bytes) const {
    std::ofstream(entry / name, std::ios::binary) << bytes;
    std::filesystem::permissions(entry / name,
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  static const Cache cache;
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const std::size_t manifest = std::min<std::size_t>(bytes.size(), data[0] | static_cast<unsigned>(data[1]) << 8U);
  cache.write("manifest.json", bytes.substr(0, manifest));
  cache.write("image", bytes.substr(manifest));
  const arbiter::CacheStore::Loaded loaded = cache.store.load(cache.key, arbiter::CacheStore::Purpose::check);
  // One or the other, and nothing that nobody has signed for.
  if (loaded.kernel.has_value() == !loaded.broken.empty()) std::abort();
  if (loaded.kernel && loaded.kernel->image != bytes.substr(manifest)) std::abort();
  for (const arbiter::CacheEntry& entry : cache.store.list()) {
    if (entry.key != cache.key || entry.bytes != bytes.size()) std::abort();
  }
  return 0;
}
