// The kernel cache on disk: entries as folders, and nothing about compiling.
//
//   <directory>/v1/entries/<key>/manifest.json, image     written once, never changed; the manifest's time is the last
//   use <directory>/v1/locks/<key>                            only while somebody compiles
//   <directory>/v1/temporary/<unique>                     being written, or being removed
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/generator/cache.hpp"

namespace arbiter {

class CacheStore {
 public:
  explicit CacheStore(const std::filesystem::path& directory);

  /// Create the folders. An error message if the directory cannot be used for writing.
  std::optional<std::string> prepare() const;

  struct Loaded {
    std::optional<CompiledKernel> kernel;
    std::string broken;  ///< why an existing entry cannot be used; empty if there is none
  };
  enum class Purpose { use, check };
  /// Read and verify an entry. `use` makes it the most recently used one.
  Loaded load(const std::string& key, Purpose = Purpose::use) const;

  /// Write, sync and rename. An error message if that failed; losing the race to another writer is no failure.
  std::optional<std::string> store(const std::string& key, const std::string& name, const CompiledKernel&) const;

  void remove(const std::string& key) const;
  std::vector<std::string> keys() const;
  std::vector<CacheEntry> list() const;  ///< unreadable entries are listed with an empty target
  /// Remove least recently used entries until `max_bytes` are left, but never `keep`.
  void shrink(std::uint64_t max_bytes, const std::string& keep) const;
  /// Remove what killed processes left behind: temporary folders older than an hour.
  void sweep() const;
  std::filesystem::path lock_file(const std::string& key) const;

 private:
  std::filesystem::path entry(const std::string& key) const;
  std::filesystem::path root_;
};

}  // namespace arbiter
