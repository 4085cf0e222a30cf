// The kernel cache: every distinct source is compiled once per node and shared by all ranks and processes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/generator/compile.hpp"

namespace arbiter {

struct CacheOptions {
  std::filesystem::path directory;       ///< empty: no cache on disk, compile every time
  std::uint64_t max_bytes = 512u << 20;  ///< least recently used entries beyond this are removed
  bool compile_on_miss = true;           ///< false (ARBITER_JIT=off): a miss is a CompileError naming the variant
  std::function<void(const std::string&)> warn;  ///< receives one-line warnings, from any thread; empty: standard error
};

struct CacheEntry {
  std::string key;
  std::string name;  ///< Variant::full_name() and rank
  std::string target;
  std::uint64_t bytes = 0;
  std::int64_t last_used = 0;  ///< seconds since the epoch
};

struct CacheStatistics {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t compile_microseconds = 0;
};

/// Thread safe, and safe between processes: an entry is written to a unique temporary directory on the same
/// filesystem, synced and renamed; losing the race is a hit. An entry is verified on load; a corrupt one is rebuilt.
/// A directory that cannot be written is used read-only, and said once. One that belongs to anybody but the user and
/// root, or that others may write to, is not used at all, and said once.
class KernelCache {
 public:
  explicit KernelCache(CacheOptions);

  /// The kernel for `source`, compiled with `compiler` if it is not cached. `name` is for people.
  /// While another process of the node compiles the same key, waits for its result.
  CompiledKernel get(const Source& source, const Compiler& compiler, const std::string& name);

  std::vector<CacheEntry> list() const;
  /// Check every entry, remove the broken ones, and return how many were broken.
  std::size_t verify();
  void clear();
  CacheStatistics statistics() const;
  /// Is what get() compiles found by the next one, in this process or in another?
  bool keeps() const noexcept;
  const CacheOptions& options() const noexcept { return options_; }

  static std::string key(const Source&, const Compiler&);

 private:
  CacheOptions options_;
  struct Counters;
  std::shared_ptr<Counters> counters_;
};

}  // namespace arbiter
