// What is left in TMPDIR by processes that were killed, and whose TMPDIR is used at all.
#include "arbiter/generator/temporary_folder.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/generator/whole_files.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

class TemporaryFolderTest : public ::testing::Test {
 protected:
  TemporaryFolderTest() {
    std::string pattern = "/tmp/arbiter-test-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    place_ = pattern;
    if (const char* old = std::getenv("TMPDIR")) before_ = old;
    setenv("TMPDIR", place_.c_str(), 1);
  }
  ~TemporaryFolderTest() override {
    if (before_) {
      setenv("TMPDIR", before_->c_str(), 1);
    } else {
      unsetenv("TMPDIR");
    }
    fs::remove_all(place_);
  }
  /// A process that makes a folder with something in it, and is killed.
  fs::path left_behind() {
    const pid_t child = fork();
    if (child == 0) {
      const TemporaryFolder folder;
      std::ofstream(folder.path() / "image") << "x";
      fs::create_directories(folder.path() / "deep/er");
      raise(SIGKILL);
    }
    waitpid(child, nullptr, 0);
    return fs::directory_iterator(place_)->path();
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(place_), fs::directory_iterator()));
  }

  fs::path place_;
  std::optional<std::string> before_;
};

TEST_F(TemporaryFolderTest, WhatAKilledProcessLeftIsSweptByTheNext) {
  const fs::path left = left_behind();
  ASSERT_TRUE(fs::exists(left / "image"));
  {
    const TemporaryFolder next;
    EXPECT_FALSE(fs::exists(left));
    EXPECT_EQ(entries(), 1U);
  }
  EXPECT_EQ(entries(), 0U);
}

TEST_F(TemporaryFolderTest, WhatSomebodyUsesIsNotSwept) {
  const TemporaryFolder used;
  std::ofstream(used.path() / "image") << "x";
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "test", "--gtest_filter=Helper.*", nullptr);
    _exit(1);
  }
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(fs::exists(used.path() / "image"));
  EXPECT_EQ(entries(), 1U);
}

/// Run by WhatSomebodyUsesIsNotSwept in a process of its own.
TEST(Helper, MakesAFolder) { EXPECT_TRUE(fs::exists(TemporaryFolder().path())); }

TEST_F(TemporaryFolderTest, OnlyOwnShapesAreSwept) {
  const fs::path left = left_behind();
  for (const char* name : {"arbiter.tmp-", "arbiter.tmp-abcdefg", "arbiter.tmp-abc.ef", "arbiter-abcdef", "thesis"}) {
    fs::create_directories(place_ / name);
    fs::permissions(place_ / name, fs::perms::owner_all);
    std::ofstream(place_ / name / "file") << "precious";
  }
  // Of our shape, but nothing that this program makes: a link, a file, and a folder that others may read.
  fs::create_directory_symlink(place_ / "thesis", place_ / "arbiter.tmp-aaaaaa");
  std::ofstream(place_ / "arbiter.tmp-bbbbbb") << "precious";
  fs::create_directories(place_ / "arbiter.tmp-cccccc");
  fs::permissions(place_ / "arbiter.tmp-cccccc", fs::perms::owner_all | fs::perms::group_read);
  // What lies inside is removed itself, and not where it leads.
  fs::create_directory_symlink(place_ / "thesis", left / "link");
  { const TemporaryFolder next; }
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(place_ / "thesis/file"));
  EXPECT_EQ(entries(), 8U);
}

TEST_F(TemporaryFolderTest, WhatAnotherUserLeftIsNotTouched) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  const fs::path left = left_behind();
  ASSERT_EQ(chown(left.c_str(), 65534, 65534), 0);
  { const TemporaryFolder next; }
  EXPECT_TRUE(fs::exists(left / "image"));
}

TEST_F(TemporaryFolderTest, AFolderThatOthersMayWriteToIsPassedOver) {
  ASSERT_EQ(chmod(place_.c_str(), 0777), 0);
  EXPECT_EQ(TemporaryFolder::place(), "/tmp");
  EXPECT_EQ(TemporaryFolder().path().parent_path(), "/tmp");
  ASSERT_EQ(chmod(place_.c_str(), 01777), 0);
  EXPECT_EQ(TemporaryFolder::place(), place_);
  if (geteuid() != 0) return;
  ASSERT_EQ(chmod(place_.c_str(), 0755), 0);
  ASSERT_EQ(chown(place_.c_str(), 65534, 65534), 0);
  EXPECT_EQ(TemporaryFolder::place(), "/tmp");
}

/// In a child, because the limit cannot be lifted again.
TEST_F(TemporaryFolderTest, AFileThatMayNotGrowIsAnError) {
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{4096, 4096};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::FILE* file = std::fopen((place_ / "file").c_str(), "w");
    const bool first = write_all(fileno(file), std::string(10000, 'x')), error = errno == EFBIG;
    // Nothing of it waits for the moment when the signal is let through again.
    _exit(!first && error ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  EXPECT_EQ(fs::file_size(place_ / "file"), 4096U);
}

TEST_F(TemporaryFolderTest, TheHostProgramsPendingSignalIsKept) {
  sigset_t signal, before, pending;
  sigemptyset(&signal);
  sigaddset(&signal, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &signal, &before);
  raise(SIGXFSZ);
  std::FILE* file = std::fopen((place_ / "file").c_str(), "w");
  EXPECT_TRUE(write_all(fileno(file), "text"));
  std::fclose(file);
  sigpending(&pending);
  EXPECT_EQ(sigismember(&pending, SIGXFSZ), 1);
  const timespec at_once{};
  sigtimedwait(&signal, nullptr, &at_once);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace
}  // namespace arbiter
