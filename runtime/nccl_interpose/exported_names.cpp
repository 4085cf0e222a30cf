#include "exported_names.hpp"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace arbiter::nccl_interpose {
namespace {

/// The dynamic symbol table does not say how long it is; the hash table beside it does.
std::size_t symbols_in(const std::uint32_t* gnu_hash) {
  const std::uint32_t buckets = gnu_hash[0];
  const std::uint32_t first_hashed = gnu_hash[1];
  const std::uint32_t bloom_words = gnu_hash[2];
  const auto* bloom = reinterpret_cast<const ElfW(Addr)*>(gnu_hash + 4);
  const auto* bucket = reinterpret_cast<const std::uint32_t*>(bloom + bloom_words);
  const std::uint32_t* chain = bucket + buckets;
  std::uint32_t last = 0;
  for (std::uint32_t i = 0; i < buckets; ++i) last = std::max(last, bucket[i]);
  if (last < first_hashed) return first_hashed;
  while ((chain[last - first_hashed] & 1U) == 0) ++last;  // the lowest bit ends a chain
  return last + 1;
}

}  // namespace

std::vector<std::string> exported_names(void* handle) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return {};
  const ElfW(Sym)* symbols = nullptr;
  const char* strings = nullptr;
  std::size_t count = 0;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    const auto address = static_cast<std::uintptr_t>(entry->d_un.d_ptr);
    if (entry->d_tag == DT_SYMTAB) symbols = reinterpret_cast<const ElfW(Sym)*>(address);
    if (entry->d_tag == DT_STRTAB) strings = reinterpret_cast<const char*>(address);
    if (entry->d_tag == DT_GNU_HASH) count = symbols_in(reinterpret_cast<const std::uint32_t*>(address));
    if (entry->d_tag == DT_HASH && count == 0) count = reinterpret_cast<const std::uint32_t*>(address)[1];
  }
  std::vector<std::string> names;
  if (symbols == nullptr || strings == nullptr) return names;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = strings + symbols[i].st_name;
    if (symbols[i].st_shndx == SHN_UNDEF || (symbols[i].st_info & 15) != STT_FUNC) continue;
    if (name.starts_with("nccl") || name.starts_with("pnccl")) names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace arbiter::nccl_interpose
