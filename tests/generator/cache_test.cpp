#include "arbiter/generator/cache.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "cache/file_lock.hpp"
#include "cache/store.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;
using test::expect_error;

// Turns a source into an image that can be recognised, and counts.
class CountingCompiler final : public Compiler {
 public:
  explicit CountingCompiler(std::string version = "1", std::chrono::milliseconds duration = {})
      : version_(std::move(version)), duration_(duration) {}
  CompiledKernel compile(const Source& source) const override {
    ++count;
    std::this_thread::sleep_for(duration_);
    if (source.text == "broken") throw CompileError("line 1: broken");
    return {"image of " + source.text + std::string("\0\xff", 2), source.entry, "sm_test", {32, 1024, 0, 16}};
  }
  std::string identity() const override { return "counting " + version_; }
  mutable std::atomic<int> count{0};

 private:
  std::string version_;
  std::chrono::milliseconds duration_;
};

Source source_of(const std::string& text) { return {text, "entry", ""}; }

class CacheTest : public ::testing::Test {
 protected:
  CacheOptions options() {
    CacheOptions result;
    result.directory = folder.path() / "cache";
    result.warn = [this](const std::string& text) { warnings.push_back(text); };
    return result;
  }
  fs::path only_entry() {
    std::vector<fs::path> entries;
    for (const auto& each : fs::directory_iterator(folder.path() / "cache/v1/entries")) entries.push_back(each.path());
    EXPECT_EQ(entries.size(), 1u);
    return entries.empty() ? fs::path() : entries[0];
  }
  static std::string read(const fs::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

  TemporaryFolder folder;
  CountingCompiler compiler;
  std::vector<std::string> warnings;
};

TEST_F(CacheTest, CompilesOnceAndReturnsTheSame) {
  const CompiledKernel first = KernelCache(options()).get(source_of("a"), compiler, "kernel a");
  KernelCache cache(options());
  const CompiledKernel second = cache.get(source_of("a"), compiler, "kernel a");
  EXPECT_EQ(compiler.count, 1);
  EXPECT_EQ(second.image, first.image);
  EXPECT_EQ(second.entry, "entry");
  EXPECT_EQ(second.target, "sm_test");
  EXPECT_EQ(second.resources, first.resources);
  EXPECT_EQ(cache.statistics().hits, 1u);
  EXPECT_EQ(cache.statistics().misses, 0u);
  EXPECT_TRUE(warnings.empty());
  EXPECT_TRUE(fs::is_empty(folder.path() / "cache/v1/temporary"));
  EXPECT_TRUE(fs::is_empty(folder.path() / "cache/v1/locks"));
}

TEST_F(CacheTest, KeyCoversEverythingThatMatters) {
  const CountingCompiler other("2");
  const std::string key = KernelCache::key({"text", "entry", "ignored"}, compiler);
  EXPECT_EQ(key.size(), 64u);
  EXPECT_EQ(key, KernelCache::key({"text", "entry", ""}, compiler));
  EXPECT_NE(key, KernelCache::key({"text2", "entry", ""}, compiler));
  EXPECT_NE(key, KernelCache::key({"text", "entry2", ""}, compiler));
  EXPECT_NE(key, KernelCache::key({"text", "entry", ""}, other));
  EXPECT_NE(KernelCache::key({"bc", "a", ""}, compiler), KernelCache::key({"c", "ab", ""}, compiler));
}

TEST_F(CacheTest, ListNamesTheKernels) {
  KernelCache cache(options());
  cache.get(source_of("a"), compiler, "kernel a");
  cache.get(source_of("b"), compiler, "");
  std::vector<CacheEntry> entries = cache.list();
  ASSERT_EQ(entries.size(), 2u);
  if (entries[0].name != "kernel a") std::swap(entries[0], entries[1]);
  EXPECT_EQ(entries[0].name, "kernel a");
  EXPECT_EQ(entries[0].key, KernelCache::key(source_of("a"), compiler));
  EXPECT_EQ(entries[0].target, "sm_test");
  EXPECT_GT(entries[0].bytes, 10u);
  EXPECT_NEAR(static_cast<double>(entries[0].last_used), static_cast<double>(time(nullptr)), 60);
  EXPECT_EQ(KernelCache(options()).get(source_of("b"), compiler, "").image.substr(0, 10), "image of b");
  EXPECT_EQ(compiler.count, 2);
  cache.clear();
  EXPECT_TRUE(cache.list().empty());
}

TEST_F(CacheTest, EveryDamagedByteIsNoticed) {
  const CompiledKernel good = KernelCache(options()).get(source_of("a"), compiler, "a");
  const fs::path entry = only_entry();
  std::mt19937 random(7);
  int compiled = 1;
  for (const char* file : {"manifest.json", "image"}) {
    const std::string original = read(entry / file);
    for (std::size_t i = 0; i < original.size(); i += file[0] == 'i' ? 2 : 11) {
      std::string damaged = original;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << (random() % 8)));
      write(entry / file, damaged);
      const CompiledKernel kernel = KernelCache(options()).get(source_of("a"), compiler, "a");
      ASSERT_EQ(kernel.image, good.image) << file << " byte " << i;
      ASSERT_EQ(kernel.resources, good.resources) << file << " byte " << i;
      ASSERT_EQ(kernel.target, good.target) << file << " byte " << i;
      if (compiler.count == compiled) write(entry / file, original);  // white space: the same manifest in other words
      compiled = compiler.count;
    }
  }
  EXPECT_GT(compiled, 20);
  EXPECT_FALSE(warnings.empty());
  EXPECT_EQ(KernelCache(options()).verify(), 0u);
}

TEST_F(CacheTest, GarbageIsRebuilt) {
  KernelCache cache(options());
  cache.get(source_of("a"), compiler, "kernel a");
  const fs::path entry = only_entry();
  int expected = 1;
  const auto rebuilt = [&](const char* what) {
    warnings.clear();
    EXPECT_EQ(cache.get(source_of("a"), compiler, "kernel a").entry, "entry") << what;
    EXPECT_EQ(compiler.count, ++expected) << what;
    EXPECT_EQ(warnings.size(), 1u) << what;
    EXPECT_NE((warnings.empty() ? std::string() : warnings[0]).find("kernel a"), std::string::npos) << what;
    cache.get(source_of("a"), compiler, "kernel a");
    EXPECT_EQ(compiler.count, expected) << what << ": the rebuilt entry was not kept";
  };
  fs::resize_file(entry / "image", 3);
  rebuilt("short image");
  fs::remove(entry / "image");
  rebuilt("no image");
  fs::remove(entry / "manifest.json");
  rebuilt("no manifest");
  write(entry / "manifest.json", "");
  rebuilt("empty manifest");
  write(entry / "manifest.json", "{\"format\": 1}");
  rebuilt("poor manifest");
  fs::remove(entry / "image");
  fs::create_directory(entry / "image");
  rebuilt("a folder as image");
  fs::remove_all(entry);
  write(entry, "a file");
  rebuilt("a file as entry");
  fs::remove_all(entry);
  fs::create_directory(entry);
  rebuilt("an empty folder");
  fs::remove(entry / "image");
  ASSERT_EQ(mkfifo((entry / "image").c_str(), 0600), 0);
  rebuilt("a pipe as image");
}

TEST_F(CacheTest, AnEntryUnderAnotherKeyIsNotTrusted) {
  KernelCache cache(options());
  cache.get(source_of("a"), compiler, "a");
  fs::rename(only_entry(), folder.path() / "cache/v1/entries" / KernelCache::key(source_of("b"), compiler));
  EXPECT_EQ(cache.get(source_of("b"), compiler, "b").image.substr(0, 10), "image of b");
  EXPECT_EQ(compiler.count, 2);
}

TEST_F(CacheTest, VerifyRemovesWhatIsBroken) {
  KernelCache cache(options());
  for (const char* text : {"a", "b", "c"}) cache.get(source_of(text), compiler, text);
  write(folder.path() / "cache/v1/entries" / KernelCache::key(source_of("b"), compiler) / "image", "x");
  write(folder.path() / "cache/v1/entries/stray", "x");
  EXPECT_EQ(cache.list().size(), 3u);
  EXPECT_EQ(cache.verify(), 1u);
  EXPECT_EQ(cache.list().size(), 2u);
  EXPECT_EQ(cache.verify(), 0u);
  EXPECT_TRUE(fs::exists(folder.path() / "cache/v1/entries/stray")) << "what is not ours was removed";
}

TEST_F(CacheTest, LeastRecentlyUsedEntriesGo) {
  CacheOptions small = options();
  KernelCache cache(small);
  const auto age = [&](const char* text, int seconds) {
    const fs::path manifest =
        folder.path() / "cache/v1/entries" / KernelCache::key(source_of(text), compiler) / "manifest.json";
    fs::last_write_time(manifest, fs::file_time_type::clock::now() - std::chrono::seconds(seconds));
  };
  for (const char* text : {"a", "b", "c"}) cache.get(source_of(text), compiler, text);
  age("a", 300);
  age("b", 200);
  age("c", 100);
  cache.get(source_of("a"), compiler, "a");  // used again: now b is the oldest
  const std::uint64_t one = cache.list()[0].bytes;
  small.max_bytes = 3 * one + one / 2;
  KernelCache(small).get(source_of("d"), compiler, "d");
  std::set<std::string> names;
  for (const CacheEntry& entry : cache.list()) names.insert(entry.name);
  EXPECT_EQ(names, (std::set<std::string>{"a", "c", "d"}));
  // The entry just made stays, however small the bound.
  small.max_bytes = 1;
  KernelCache(small).get(source_of("e"), compiler, "e");
  ASSERT_EQ(cache.list().size(), 1u);
  EXPECT_EQ(cache.list()[0].name, "e");
}

TEST_F(CacheTest, WithoutADirectoryNothingIsKept) {
  KernelCache cache(CacheOptions{});
  cache.get(source_of("a"), compiler, "a");
  cache.get(source_of("a"), compiler, "a");
  EXPECT_EQ(compiler.count, 2);
  EXPECT_EQ(cache.statistics().misses, 2u);
  EXPECT_TRUE(cache.list().empty());
  EXPECT_EQ(cache.verify(), 0u);
  cache.clear();
}

TEST_F(CacheTest, CompilingSwitchedOff) {
  CacheOptions off = options();
  off.compile_on_miss = false;
  KernelCache cache(off);
  expect_error<CompileError>([&] { cache.get(source_of("a"), compiler, "trtllm/x rank 1"); },
                             {"'trtllm/x rank 1'", "not in the cache", "ARBITER_JIT=off"});
  KernelCache(options()).get(source_of("a"), compiler, "a");
  EXPECT_EQ(cache.get(source_of("a"), compiler, "a").entry, "entry");
  EXPECT_EQ(compiler.count, 1);
}

TEST_F(CacheTest, FailedCompilesAreReportedAndNotKept) {
  KernelCache cache(options());
  for (int i = 0; i < 2; ++i)
    expect_error<CompileError>([&] { cache.get(source_of("broken"), compiler, "kernel x"); },
                               {"'kernel x'", "line 1: broken"});
  EXPECT_EQ(compiler.count, 2);
  EXPECT_TRUE(cache.list().empty());
  EXPECT_TRUE(fs::is_empty(folder.path() / "cache/v1/locks"));
}

TEST_F(CacheTest, AnUnusableDirectoryIsSaidOnce) {
  for (const fs::path& directory : {folder.path() / "file" / "below", fs::path("/proc/arbiter")}) {
    write(folder.path() / "file", "x");
    warnings.clear();
    CacheOptions bad = options();
    bad.directory = directory;
    KernelCache cache(bad);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(cache.get(source_of("a"), compiler, "a").entry, "entry");
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings.at(0).find(directory.string()), std::string::npos);
    EXPECT_TRUE(cache.list().empty());
  }
}

TEST_F(CacheTest, ReadOnlyCachesStillServe) {
  KernelCache(options()).get(source_of("a"), compiler, "a");
  // Works for root too, who may write anywhere: there is no folder to write in.
  fs::remove_all(folder.path() / "cache/v1/temporary");
  write(folder.path() / "cache/v1/temporary", "x");
  KernelCache cache(options());
  EXPECT_EQ(cache.get(source_of("a"), compiler, "a").entry, "entry");
  EXPECT_EQ(compiler.count, 1);
  cache.get(source_of("b"), compiler, "b");
  cache.get(source_of("b"), compiler, "b");
  EXPECT_EQ(compiler.count, 3);
  EXPECT_EQ(warnings.size(), 1u);
}

TEST_F(CacheTest, AFullDiskIsNoError) {
  // The file size limit stands for the full disk: write() fails half-way in both cases.
  KernelCache cache(options());
  cache.get(source_of("small"), compiler, "small");
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit low = old;
  low.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &low), 0);
  const CompiledKernel kernel = cache.get(source_of(std::string(100000, 'x')), compiler, "large");
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  EXPECT_GT(kernel.image.size(), 100000u);
  EXPECT_EQ(warnings.size(), 1u);
  EXPECT_EQ(cache.list().size(), 1u);
  EXPECT_TRUE(fs::is_empty(folder.path() / "cache/v1/temporary"));
  EXPECT_EQ(cache.verify(), 0u);
}

TEST_F(CacheTest, LeftoversOfKilledProcessesAreSwept) {
  KernelCache(options()).get(source_of("a"), compiler, "a");
  const fs::path temporary = folder.path() / "cache/v1/temporary";
  const fs::path old = temporary / "0123456789abcdef", fresh = temporary / "fedcba9876543210",
                 other = temporary / "mine";
  for (const fs::path& each : {old, fresh, other}) fs::create_directories(each);
  write(old / "image", "x");
  for (const fs::path& each : {old, other})
    fs::last_write_time(each, fs::file_time_type::clock::now() - std::chrono::hours(2));
  KernelCache cache(options());
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(fresh));
  EXPECT_TRUE(fs::exists(other)) << "what is not ours was removed";
}

TEST_F(CacheTest, ThreadsShareOneCompile) {
  const CountingCompiler slow("1", std::chrono::milliseconds(50));
  CacheOptions quiet = options();
  quiet.warn = [](const std::string& text) { ADD_FAILURE() << text; };
  KernelCache cache(quiet);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] { EXPECT_EQ(cache.get(source_of("a"), slow, "a").entry, "entry"); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(slow.count, 1);
  EXPECT_EQ(cache.statistics().hits, 7u);
  EXPECT_EQ(cache.statistics().misses, 1u);
  EXPECT_GE(cache.statistics().compile_microseconds, 50000u);
}

TEST_F(CacheTest, ProcessesShareOneCompileOfEachSource) {
  constexpr int processes = 4, sources = 6;
  std::vector<pid_t> children;
  for (int p = 0; p < processes; ++p) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const CountingCompiler slow("1", std::chrono::milliseconds(20));
      KernelCache cache(options());
      bool right = true;
      for (int i = 0; i < sources; ++i) {
        const std::string text = "source " + std::to_string((i + p) % sources);
        right = right && cache.get(source_of(text), slow, text).image.starts_with("image of " + text);
      }
      _exit(right ? slow.count.load() : 100);
    }
    children.push_back(pid);
  }
  int compiled = 0;
  for (const pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFEXITED(status));
    compiled += WEXITSTATUS(status);
  }
  EXPECT_EQ(compiled, sources);
  EXPECT_EQ(KernelCache(options()).list().size(), static_cast<std::size_t>(sources));
  EXPECT_TRUE(fs::is_empty(folder.path() / "cache/v1/locks"));
}

TEST_F(CacheTest, AKilledCompilerReleasesItsLock) {
  KernelCache cache(options());  // makes the folders
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    const FileLock lock =
        CacheStore(options().directory).lock(KernelCache::key(source_of("a"), compiler), std::chrono::seconds(1));
    const char state = lock.state() == FileLock::State::held ? '1' : '0';
    (void)!::write(ready[1], &state, 1);
    pause();
    _exit(0);
  }
  char state = '0';
  ASSERT_EQ(::read(ready[0], &state, 1), 1);
  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    kill(pid, SIGKILL);
  });
  EXPECT_EQ(cache.get(source_of("a"), compiler, "a").entry, "entry");
  killer.join();
  waitpid(pid, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
  EXPECT_EQ(state, '1');
  EXPECT_EQ(compiler.count, 1);
}

// Every holder removes the file, so others hold descriptors of files that are gone: those must not count as locked.
TEST_F(CacheTest, OnlyOneHoldsTheLock) {
  const fs::path file = folder.path() / "lock";
  std::atomic<int> inside{0};
  std::atomic<int> collisions{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 400; ++round) {
        const FileLock lock(file, std::chrono::seconds(20));
        if (lock.state() != FileLock::State::held || ++inside != 1) ++collisions;
        std::this_thread::yield();
        --inside;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(collisions, 0);
}

TEST_F(CacheTest, LockTimesOutAndImpossiblePlacesAreSaid) {
  const fs::path file = folder.path() / "lock";
  {
    const FileLock first(file, std::chrono::seconds(0));
    ASSERT_EQ(first.state(), FileLock::State::held);
    const FileLock second(file, std::chrono::milliseconds(5));
    EXPECT_EQ(second.state(), FileLock::State::timed_out);
  }
  EXPECT_FALSE(fs::exists(file));
  EXPECT_EQ(FileLock(folder.path() / "no" / "lock", std::chrono::seconds(9)).state(), FileLock::State::impossible);
}

}  // namespace
}  // namespace arbiter
