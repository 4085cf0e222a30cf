// A second user on the same machine, who may write where everybody may: the first runs nothing of theirs, loses
// nothing, does not hang and decides the same.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "arbiter/db/database.hpp"
#include "arbiter/db/kernels.hpp"
#include "db/fixtures.hpp"
#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

namespace fs = std::filesystem;

class TwoUsers : public ::testing::Test {
 protected:
  // Nobody's accounts: root may become any user, whether it has a name or not.
  static constexpr int victim = 61001, attacker = 61002;

  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "two users: only root can become one and another";
    shared = scratch.path() / "shared";
    fs::permissions(scratch.path(), fs::perms(0755));
    fs::create_directory(shared);
    ASSERT_EQ(chmod(shared.c_str(), 01777), 0);
    for (const int user : {victim, attacker}) {
      fs::create_directories(home(user));
      ASSERT_EQ(chown(home(user).c_str(), static_cast<uid_t>(user), static_cast<gid_t>(user)), 0);
      ASSERT_EQ(chmod(home(user).c_str(), 0700), 0);
    }
    // The build may lie where these users do not come.
    program = (scratch.path() / "arbiter").string();
    fs::copy_file(arbiter_program(), program);
    const Outcome outcome = as(victim, "'" + program + "' --version");
    if (outcome.exit_code != 0) GTEST_SKIP() << "two users: the program does not start as another: " << outcome.err;
    ExampleShape shape;
    shape.worlds = {2};
    make_example_database((scratch.path() / "good.db").string(), shape);
    write_snapshot(snapshot(), read_decisions(scratch.path() / "good.db"));
    ASSERT_EQ(chown(snapshot().c_str(), victim, victim), 0);
    write_as(victim, home(victim) / "thesis", "precious");
  }

  fs::path home(int user) const { return scratch.path() / ("home-" + std::to_string(user)); }
  fs::path snapshot() const { return shared / "snapshot.db"; }

  /// A shell command as that user, killed after a minute and a half.
  Outcome as(int user, const std::string& command, std::map<std::string, std::string> variables = {}) const {
    variables["HOME"] = home(user).string();
    variables.try_emplace("TMPDIR", shared.string());
    const std::string id = std::to_string(user);
    Outcome outcome = run_program("setpriv",
                                  {"--reuid", id, "--regid", id, "--clear-groups", "timeout", "90", "sh", "-c",
                                   "cd '" + shared.string() + "' && " + command},
                                  variables);
    EXPECT_NE(outcome.exit_code, 124) << "hung: " << command;
    return outcome;
  }
  Outcome arbiter(int user, const std::string& arguments, std::map<std::string, std::string> variables = {}) const {
    return as(user, "'" + program + "' " + arguments, std::move(variables));
  }
  void write_as(int user, const fs::path& path, const std::string& text) const {
    ASSERT_EQ(as(user, "printf '%s' '" + text + "' > '" + path.string() + "'").exit_code, 0);
  }
  void expect_thesis() const { EXPECT_EQ(read_text(home(victim) / "thesis"), "precious"); }

  ScratchDirectory scratch;
  fs::path shared;
  std::string program;
};

constexpr const char* verify = "verify --device cpu --ranks 2 --area numerics --algorithm trtllm/oneshot_push";

TEST_F(TwoUsers, ACacheOfTheSecondIsNotUsedByTheFirst) {
  const std::string cache = (shared / "cache").string();
  const std::map<std::string, std::string> there{{"ARBITER_CACHE_DIR", cache}};
  ASSERT_EQ(arbiter(attacker, "cache list", there).exit_code, 0);
  ASSERT_EQ(as(attacker, "mkdir -p '" + cache + "/v1/entries' '" + cache + "/v1/locks'; ln -s '" +
                             home(victim).string() + "' '" + cache + "/v1/temporary'; chmod -R a+rwX '" + cache + "'")
                .exit_code,
            0);
  for (const char* command : {"cache list", "cache verify", "cache clear"}) {
    const Outcome outcome = arbiter(victim, command, there);
    EXPECT_LT(outcome.exit_code, 124) << outcome.err;
    EXPECT_NE(outcome.err.find("is not used"), std::string::npos) << command << ": " << outcome.err;
  }
  expect_thesis();
}

TEST_F(TwoUsers, WhatLiesBesideASnapshotDoesNotChangeIt) {
  const std::string show = "show --json --db '" + snapshot().string() + "'";
  const std::string before = arbiter(victim, show).out;
  ASSERT_NE(before.find("decisions"), std::string::npos);
  for (const char* suffix : {"-journal", "-wal"}) {
    write_as(attacker, snapshot().string() + suffix, std::string(600, 'x'));
    const Outcome outcome = arbiter(victim, show);
    EXPECT_TRUE(outcome.exit_code == 1 || outcome.out == before) << outcome.err;
    EXPECT_EQ(as(attacker, "rm '" + snapshot().string() + suffix + "'").exit_code, 0);
  }
  EXPECT_EQ(arbiter(victim, show).out, before);
}

TEST_F(TwoUsers, LinksInTheWayOfAWriterLeadNowhere) {
  const std::string work = (shared / "work.db").string(), thesis = (home(victim) / "thesis").string();
  const std::string merge = "merge --db '" + work + "' '" + (scratch.path() / "good.db").string() + "'";
  for (const char* suffix : {"", ".lock", "-journal", "-wal", "-shm"}) {
    ASSERT_EQ(as(attacker, "ln -s '" + thesis + "' '" + work + suffix + "'").exit_code, 0);
    const Outcome outcome = arbiter(victim, merge);
    EXPECT_LT(outcome.exit_code, 124) << suffix << ": " << outcome.err;
    expect_thesis();
    ASSERT_EQ(as(attacker, "rm -f '" + work + suffix + "'").exit_code, 0);
    fs::remove(work);
  }
  // An output that the second put there is not written through either.
  ASSERT_EQ(as(attacker, "ln -s '" + thesis + "' '" + (shared / "out").string() + "'").exit_code, 0);
  EXPECT_EQ(arbiter(victim, "export --db snapshot.db --output out").exit_code, 1);
  expect_thesis();
}

TEST_F(TwoUsers, ATemporaryFolderOfTheSecondIsPassedOver) {
  const std::string place = (shared / "tmp").string();
  ASSERT_EQ(as(attacker, "mkdir -m 0777 '" + place + "'; ln -s '" + home(victim).string() + "' '" + place +
                             "/arbiter.tmp-aaaaaa'; ln -s '" + home(victim).string() + "' '" + shared.string() +
                             "/arbiter.tmp-bbbbbb'; mkdir -m 0700 '" + shared.string() + "/arbiter.tmp-cccccc'")
                .exit_code,
            0);
  const std::string before = arbiter(victim, verify).out;
  EXPECT_NE(before.find(" 0 failed"), std::string::npos) << before;
  const auto changed = fs::last_write_time(place);
  const Outcome outcome =
      arbiter(victim, verify, {{"TMPDIR", place}, {"ARBITER_CACHE_DIR", (home(victim) / "other").string()}});
  EXPECT_EQ(outcome.out, before) << outcome.err;
  EXPECT_EQ(fs::last_write_time(place), changed) << "something was made in a folder of the second user";
  EXPECT_TRUE(fs::exists(shared / "arbiter.tmp-cccccc"));
  expect_thesis();
}

TEST_F(TwoUsers, ADatabaseOfTheSecondIsDataAndNothingElse) {
  StoredKernel kernel{std::string(64, 'a'), "trtllm/oneshot_push rank=0", std::string(64, 'b'), {}};
  kernel.kernel = {".version 9.0\n", "arbiter_kernel", "compute_121", {}};
  const fs::path theirs = shared / "arbiter.db";  // the name that commands take without --db
  write_snapshot(theirs, read_decisions(snapshot()), {kernel});
  ASSERT_EQ(chown(theirs.c_str(), attacker, attacker), 0);
  const Outcome shown = arbiter(victim, "show", {{"ARBITER_KERNELS", "on"}});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_NE(shown.err.find("carries 1 compiled kernel"), std::string::npos) << shown.err;
  EXPECT_NE(untrusted_kernels(theirs, read_for_broadcast(theirs)), "") << "root would run them";
  // Pipes never answer.
  ASSERT_EQ(as(attacker, "rm arbiter.db && mkfifo -m 0666 arbiter.db arbiter.db.lock").exit_code, 0);
  for (const char* command : {"show", "history", "export", "merge snapshot.db"})
    EXPECT_EQ(arbiter(victim, command).exit_code, 1) << command;
}

}  // namespace
}  // namespace arbiter::testing
