// Where the secret of a job comes from, and which ones are none.
#include "bootstrap/job_secret.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"

namespace arbiter {
namespace {

class JobSecretTest : public testing::Test {
 protected:
  ~JobSecretTest() override { unsetenv("ARBITER_JOB_SECRET"); }
  std::string file(const std::string& content, mode_t mode = 0600) {
    const std::string path = (folder.path() / "secret").string();
    unlink(path.c_str());
    std::ofstream(path) << content;
    chmod(path.c_str(), mode);
    return "file://" + path;
  }
  static std::string given(const std::string& value) {
    setenv("ARBITER_JOB_SECRET", value.c_str(), 1);
    return job_secret();
  }
  static std::string refused(const std::string& value) {
    try {
      return "accepted: " + given(value);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
  }
  static bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

  TemporaryFolder folder;
};

TEST_F(JobSecretTest, IsTheTextOrTheFilesContent) {
  unsetenv("ARBITER_JOB_SECRET");
  EXPECT_EQ(job_secret(), "");
  EXPECT_EQ(given(""), "");
  EXPECT_EQ(given("0123456789abcdef"), "0123456789abcdef");
  EXPECT_EQ(given(file("0123456789abcdef\n")), "0123456789abcdef");
  EXPECT_EQ(given(file("0123456789abcdef", 0400)), "0123456789abcdef");
}

TEST_F(JobSecretTest, WhatCanBeGuessedOrReadByOthersIsNone) {
  for (const std::string& value : {std::string("short"), file("short\n"), file("")})
    EXPECT_TRUE(has(refused(value), "at least 16")) << refused(value);
  EXPECT_TRUE(has(refused(file("0123456789abcdef", 0640)), "others may read it"));
  EXPECT_TRUE(has(refused(file("0123456789abcdef", 0622)), "others may write to it"));
  EXPECT_TRUE(has(refused(file(std::string(5000, 'x'))), "no file with a line"));
  EXPECT_TRUE(has(refused("file:///nowhere/secret"), "cannot be read"));
}

TEST_F(JobSecretTest, NeitherPipesNorLinksAreRead) {
  const std::string pipe = (folder.path() / "pipe").string(), link = (folder.path() / "link").string();
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_TRUE(has(refused("file://" + pipe), "no file with a line"));
  file("0123456789abcdef");
  ASSERT_EQ(symlink((folder.path() / "secret").c_str(), link.c_str()), 0);
  EXPECT_TRUE(has(refused("file://" + link), "cannot be read"));
}

}  // namespace
}  // namespace arbiter
