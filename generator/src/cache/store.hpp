// The kernel cache on disk: entries as folders, and nothing about compiling.
//
//   <directory>/v1/entries/<key>/manifest.json, image     written once; the manifest's time is the last use
//   <directory>/v1/locks/<key>                            only while somebody compiles
//   <directory>/v1/temporary/<unique>                     being written, or being removed
//
// All of it is used only while it belongs to the user or root and nobody else may write to it: an entry is code that
// runs, and its hash has no secret. No link is followed, and only names of the shapes above are ever removed.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/folder.hpp"
#include "cache/file_lock.hpp"

namespace arbiter {

class CacheStore {
 public:
  explicit CacheStore(std::filesystem::path directory);

  /// Why what is there must not be used, not even for reading. Nothing if it may be, or if nothing is there.
  std::optional<std::string> distrusted() const;

  /// Create the folders, for the user alone. An error message if the directory cannot be used for writing.
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
  std::vector<std::string> keys() const;  ///< of what looks like an entry; anything else is not ours
  std::vector<CacheEntry> list() const;   ///< unreadable entries are listed with an empty target
  /// Remove least recently used entries until `max_bytes` are left, but never `keep`.
  void shrink(std::uint64_t max_bytes, const std::string& keep) const;
  /// Remove what killed processes left behind: the user's temporary folders older than an hour.
  void sweep() const;
  /// Held while `key` is compiled.
  FileLock lock(const std::string& key, std::chrono::milliseconds limit) const;

 private:
  FolderResult root() const;
  FolderResult open(const char* name) const;
  std::filesystem::path directory_;
};

}  // namespace arbiter
