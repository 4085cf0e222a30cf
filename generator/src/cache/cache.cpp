#include "arbiter/generator/cache.hpp"

#include <atomic>
#include <chrono>
#include <iostream>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "arbiter/generator/plain_text.hpp"
#include "cache/file_lock.hpp"
#include "cache/store.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

// Longer than any compile. After it, this process compiles for itself: slow is better than stuck.
constexpr std::chrono::minutes lock_limit(10);

}  // namespace

struct KernelCache::Counters {
  std::atomic<std::uint64_t> hits{0};
  std::atomic<std::uint64_t> misses{0};
  std::atomic<std::uint64_t> compile_microseconds{0};
  std::atomic<bool> writable{false};
  std::atomic<bool> said{false};  ///< that it cannot be written

  void cannot_write(const CacheOptions& options, const std::string& reason) {
    if (!said.exchange(true))
      options.warn("the kernel cache " + quote(options.directory.string()) + " cannot be written (" + reason +
                   "): kernels that are not in it are compiled each time");
  }
};

KernelCache::KernelCache(CacheOptions options) : options_(std::move(options)), counters_(std::make_shared<Counters>()) {
  if (!options_.warn) options_.warn = [](const std::string& text) { std::cerr << "arbiter: " << text << "\n"; };
  options_.warn = [warn = std::move(options_.warn)](const std::string& text) { warn(one_line(text)); };
  if (options_.directory.empty()) return;
  const CacheStore store(options_.directory);
  if (const std::optional<std::string> reason = store.distrusted()) {
    counters_->said = true;
    options_.warn("the kernel cache " + quote(options_.directory.string()) +
                  " is not used, because others could have " + "put code into it (" + *reason +
                  "): kernels are compiled each time");
    return;
  }
  if (const std::optional<std::string> reason = store.prepare()) {
    // Without compiling there is nothing to write.
    if (options_.compile_on_miss) counters_->cannot_write(options_, *reason);
    return;
  }
  counters_->writable = true;
  store.sweep();
}

std::string KernelCache::key(const Source& source, const Compiler& compiler) {
  std::string bytes = "arbiter kernel, format 1;";
  for (const std::string& field : {compiler.identity(), source.entry, source.text}) append_field(bytes, field);
  return sha256_hex(bytes);
}

CompiledKernel KernelCache::get(const Source& source, const Compiler& compiler, const std::string& name) {
  Counters& counters = *counters_;
  const auto compile = [&] {
    if (!options_.compile_on_miss)
      throw CompileError("kernel " + quote(name) + " is not in the cache " + quote(options_.directory.string()) +
                         ", and compiling is switched off (ARBITER_JIT=off); run once with ARBITER_JIT=on, copy " +
                         "the cache of a machine that has it, or load a snapshot with kernels (arbiter snapshot " +
                         "--with-kernels)");
    ++counters.misses;
    const auto begin = std::chrono::steady_clock::now();
    CompiledKernel kernel = [&] {
      try {
        return compiler.compile(source);
      } catch (const CompileError& error) {
        throw CompileError("kernel " + quote(name) + " does not compile: " + error.what());
      }
    }();
    counters.compile_microseconds += static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count());
    return kernel;
  };
  if (options_.directory.empty()) return compile();

  const CacheStore store(options_.directory);
  const std::string entry_key = key(source, compiler);
  bool said = false;
  const auto look = [&]() -> std::optional<CompiledKernel> {
    CacheStore::Loaded loaded = store.load(entry_key);
    if (!loaded.broken.empty() && !std::exchange(said, true))
      options_.warn("the cached kernel " + quote(name) + " (" + entry_key.substr(0, 12) + ") is not used, but built " +
                    "again: " + loaded.broken);
    if (loaded.kernel) ++counters.hits;
    return std::move(loaded.kernel);
  };
  if (std::optional<CompiledKernel> kernel = look()) return std::move(*kernel);
  if (!counters.writable || !options_.compile_on_miss) return compile();

  // One process compiles, the others wait here and then find its result.
  const FileLock lock = store.lock(entry_key, lock_limit);
  if (lock.state() == FileLock::State::held) {
    if (std::optional<CompiledKernel> kernel = look()) return std::move(*kernel);
    store.remove(entry_key);  // broken, if it is there at all
  }
  CompiledKernel kernel = compile();
  if (const std::optional<std::string> failure = store.store(entry_key, name, kernel))
    counters.cannot_write(options_, *failure);
  else
    store.shrink(options_.max_bytes, entry_key);
  return kernel;
}

bool KernelCache::keeps() const noexcept { return counters_->writable && options_.compile_on_miss; }

std::vector<CacheEntry> KernelCache::list() const {
  if (options_.directory.empty()) return {};
  return CacheStore(options_.directory).list();
}

std::size_t KernelCache::verify() {
  if (options_.directory.empty()) return 0;
  const CacheStore store(options_.directory);
  std::size_t broken = 0;
  for (const std::string& entry_key : store.keys()) {
    if (store.load(entry_key, CacheStore::Purpose::check).broken.empty()) continue;
    ++broken;
    store.remove(entry_key);
  }
  return broken;
}

void KernelCache::clear() {
  if (options_.directory.empty()) return;
  const CacheStore store(options_.directory);
  for (const std::string& entry_key : store.keys()) store.remove(entry_key);
}

CacheStatistics KernelCache::statistics() const {
  return {counters_->hits, counters_->misses, counters_->compile_microseconds};
}

}  // namespace arbiter
