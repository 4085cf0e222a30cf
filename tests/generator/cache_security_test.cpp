// What others can do to a kernel cache: nothing is lost through a link, and no code of theirs is run.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <vector>

#include "arbiter/generator/cache.hpp"
#include "arbiter/generator/temporary_folder.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

class FixedCompiler final : public Compiler {
 public:
  explicit FixedCompiler(std::string image) : image_(std::move(image)) {}
  CompiledKernel compile(const Source& source) const override {
    ++count;
    return {image_, source.entry, "sm_test", {1, 0, 0, 0}};
  }
  std::string identity() const override { return "fixed"; }
  mutable std::atomic<int> count{0};

 private:
  std::string image_;
};

class CacheSecurityTest : public ::testing::Test {
 protected:
  CacheOptions options() {
    CacheOptions result;
    result.directory = cache;
    result.warn = [this](const std::string& text) { warnings.push_back(text); };
    return result;
  }
  std::string image() { return KernelCache(options()).get(source, good, "a").image; }
  void fill() {
    const FixedCompiler evil("evil");
    KernelCache(options()).get(source, evil, "a");
    ASSERT_EQ(image(), "evil") << "the cache does not serve what it holds";
    warnings.clear();
  }
  fs::path victim() {
    fs::create_directories(folder.path() / "victim/0123456789abcdef");
    fs::path file = folder.path() / "victim/0123456789abcdef/image";
    std::ofstream(file) << "precious";
    for (const fs::path& old : {file.parent_path(), file})
      fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(5));
    return file;
  }

  TemporaryFolder folder;
  fs::path cache = folder.path() / "cache";
  const Source source{"text", "entry", ""};
  const FixedCompiler good{"good"};
  std::vector<std::string> warnings;
};

TEST_F(CacheSecurityTest, SweepingFollowsNoLink) {
  const fs::path file = victim();
  image();
  fs::remove(cache / "v1/temporary");
  fs::create_directory_symlink(folder.path() / "victim", cache / "v1/temporary");
  EXPECT_EQ(image(), "good");
  EXPECT_TRUE(fs::exists(file));
  EXPECT_EQ(warnings.size(), 1u);
}

TEST_F(CacheSecurityTest, VerifyAndClearFollowNoLink) {
  const fs::path file = victim();
  image();
  const std::string key = KernelCache::key(source, good);
  fs::create_directories(folder.path() / "victim" / key);
  std::ofstream(folder.path() / "victim" / key / "image") << "precious";
  fs::remove_all(cache / "v1/entries");
  fs::create_directory_symlink(folder.path() / "victim", cache / "v1/entries");
  KernelCache opened(options());
  opened.verify();
  opened.clear();
  EXPECT_TRUE(fs::exists(file));
  EXPECT_TRUE(fs::exists(folder.path() / "victim" / key / "image"));
  EXPECT_EQ(warnings.size(), 1u);
}

TEST_F(CacheSecurityTest, AnEntryThatIsALinkLosesTheLinkOnly) {
  const fs::path file = victim();
  image();
  const fs::path entry = cache / "v1/entries" / KernelCache::key(source, good);
  fs::remove_all(entry);
  fs::create_directory_symlink(file.parent_path(), entry);
  EXPECT_EQ(KernelCache(options()).verify(), 1u);
  EXPECT_TRUE(fs::exists(file));
  EXPECT_FALSE(fs::exists(fs::symlink_status(entry)));
}

TEST_F(CacheSecurityTest, ALockIsNoWayToOtherFiles) {
  const fs::path file = victim();
  KernelCache opened(options());
  const fs::path lock = cache / "v1/locks" / KernelCache::key(source, good);
  // Through a link nothing is made or changed; a pipe is not waited for; what a file holds stays.
  fs::create_symlink(file, lock);
  EXPECT_EQ(opened.get(source, good, "a").image, "good");
  EXPECT_TRUE(fs::is_symlink(lock));
  fs::remove(lock);
  fs::create_symlink(folder.path() / "elsewhere", lock);
  EXPECT_EQ(opened.get({"text 2", "entry", ""}, good, "a").image, "good");
  EXPECT_FALSE(fs::exists(folder.path() / "elsewhere"));
  fs::remove(lock);
  ASSERT_EQ(mkfifo(lock.c_str(), 0600), 0);
  EXPECT_EQ(image(), "good");
  fs::remove(lock);
  fs::create_hard_link(file, lock);
  EXPECT_EQ(KernelCache(options()).get(source, good, "a").image, "good");
  std::string text;
  std::ifstream(file) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(CacheSecurityTest, OnlyNamesOfOurShapeAreRemoved) {
  image();
  for (const char* name : {"v1/entries/holiday", "v1/temporary/photos"}) {
    fs::create_directories(cache / name);
    std::ofstream(cache / name / "picture") << "precious";
    fs::last_write_time(cache / name, fs::file_time_type::clock::now() - std::chrono::hours(5));
  }
  KernelCache opened(options());
  opened.verify();
  opened.clear();
  EXPECT_TRUE(fs::exists(cache / "v1/entries/holiday/picture"));
  EXPECT_TRUE(fs::exists(cache / "v1/temporary/photos/picture"));
}

TEST_F(CacheSecurityTest, WhatOthersMayWriteIsNotRun) {
  fill();
  const fs::path entry = cache / "v1/entries" / KernelCache::key(source, good);
  for (const fs::path& open : {cache, cache / "v1", cache / "v1/entries", entry, entry / "image"}) {
    struct stat before {};
    ASSERT_EQ(stat(open.c_str(), &before), 0);
    ASSERT_EQ(chmod(open.c_str(), 0777), 0);
    warnings.clear();
    KernelCache once(options());
    const FixedCompiler local("good");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(once.get(source, local, "a").image, "good") << open;
    EXPECT_EQ(warnings.size(), 1u) << open;
    if (fs::exists(open)) chmod(open.c_str(), before.st_mode & 07777);
    fs::remove_all(cache);
    fill();
  }
}

TEST_F(CacheSecurityTest, WhatAnotherUserOwnsIsNotRun) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  fill();
  const fs::path entry = cache / "v1/entries" / KernelCache::key(source, good);
  for (const fs::path& theirs : {cache, cache / "v1", cache / "v1/entries", entry, entry / "manifest.json"}) {
    ASSERT_EQ(chown(theirs.c_str(), 65534, 65534), 0);
    EXPECT_EQ(image(), "good") << theirs;
    EXPECT_EQ(warnings.size(), 1u) << theirs;
    fs::remove_all(cache);
    fill();
  }
}

TEST_F(CacheSecurityTest, ALinkOfAnotherUserIsNoCache) {
  fill();
  const fs::path real = folder.path() / "real";
  fs::rename(cache, real);
  fs::create_directory_symlink(real, cache);
  EXPECT_EQ(image(), "evil") << "the user's own link leads to the user's own cache";
  if (geteuid() != 0) GTEST_SKIP() << "only root can give links away";
  ASSERT_EQ(lchown(cache.c_str(), 65534, 65534), 0);
  warnings.clear();
  EXPECT_EQ(image(), "good");
  EXPECT_EQ(warnings.size(), 1u);
}

TEST_F(CacheSecurityTest, FoldersAndFilesArePrivateWhateverTheUmask) {
  for (const mode_t mask : {mode_t{0}, mode_t{0777}}) {
    fs::remove_all(cache);
    const mode_t old = umask(mask);
    image();
    umask(old);
    EXPECT_TRUE(warnings.empty());
    int seen = 0;
    for (const auto& each : fs::recursive_directory_iterator(cache)) {
      struct stat info {};
      ASSERT_EQ(lstat(each.path().c_str(), &info), 0);
      EXPECT_EQ(info.st_mode & 0777, S_ISDIR(info.st_mode) ? 0700u : 0600u) << each.path();
      ++seen;
    }
    EXPECT_EQ(seen, 7);  // v1, its three folders, the entry and its two files
  }
}

}  // namespace
}  // namespace arbiter
