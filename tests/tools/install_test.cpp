// What `cmake --install` puts into a prefix works from there: the program finds the NCCL tuner plugin in its library
// folder, and says what to do if it is missing.
#include <gtest/gtest.h>

#include <fstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* file = "libarbiter-nccl-tuner.so";

class Install : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    prefix = std::make_unique<ScratchDirectory>();
    const Outcome outcome =
        run_program(ARBITER_CMAKE, {"--install", ARBITER_BUILD_FOLDER, "--prefix", prefix->path().string()});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  }
  static void TearDownTestSuite() { prefix.reset(); }

  static Outcome arbiter(const std::vector<std::string>& arguments, const std::string& plugin = "") {
    return run_program(prefix->file("bin/arbiter"), arguments, {{"NCCL_TUNER_PLUGIN", plugin}});
  }
  /// The capability, and an exit status that must be that of --require.
  struct Found {
    bool ok = false;
    std::string value, reason;
  };
  static Found plugin_found(const std::string& variable = "") {
    const Outcome outcome = arbiter({"doctor", "--require", "nccl_tuner_plugin", "--json"}, variable);
    const llvm::json::Value document = parse_object(outcome.out);
    for (const llvm::json::Value& capability : *member(document, "capabilities")->getAsArray()) {
      if (member(capability, "name")->getAsString() != "nccl_tuner_plugin") continue;
      const Found found{*member(capability, "ok")->getAsBoolean(), member(capability, "value")->getAsString()->str(),
                        member(capability, "reason")->getAsString()->str()};
      EXPECT_EQ(outcome.exit_code, found.ok ? 0 : 1);
      EXPECT_EQ(outcome.err.find("required but missing: nccl_tuner_plugin") == std::string::npos, found.ok);
      return found;
    }
    ADD_FAILURE() << outcome.out << outcome.err;
    return {};
  }
  /// Where the plugin was installed, below the prefix.
  static fs::path plugin() {
    for (const auto& entry : fs::recursive_directory_iterator(prefix->path())) {
      if (entry.path().filename() == file) return entry.path();
    }
    return {};
  }

  static std::unique_ptr<ScratchDirectory> prefix;
};
std::unique_ptr<ScratchDirectory> Install::prefix;

TEST_F(Install, TheProgramStartsAndItsManualAndCompletionsAreThere) {
  EXPECT_TRUE(arbiter({"--version"}).out.starts_with("arbiter "));
  for (const char* name :
       {"share/man/man1/arbiter.1", "share/bash-completion/completions/arbiter", "share/zsh/site-functions/_arbiter"}) {
    EXPECT_GT(fs::file_size(prefix->path() / name), 1000U) << name;
  }
}

TEST_F(Install, TheProgramFindsThePluginThatWasInstalledWithIt) {
  const Found found = plugin_found();
  EXPECT_TRUE(found.ok) << found.reason;
  EXPECT_EQ(found.value, plugin().string());
}

TEST_F(Install, WhatToDoAboutAPluginThatIsMissingIsSaid) {
  const fs::path there = plugin(), aside = prefix->path() / "aside";
  fs::rename(there, aside);
  const Found missing = plugin_found();
  EXPECT_FALSE(missing.ok);
  for (const char* part : {file, "copy it there", "NCCL_TUNER_PLUGIN", "as it chooses"}) {
    EXPECT_NE(missing.reason.find(part), std::string::npos) << missing.reason;
  }
  EXPECT_EQ(arbiter({"doctor"}).exit_code, 0) << "it is no reason not to work";
  const Found gone = plugin_found(there.string());
  EXPECT_NE(gone.reason.find("cannot be opened"), std::string::npos) << gone.reason;
  std::ofstream(there) << "no library";
  EXPECT_NE(plugin_found().reason.find("cannot be opened"), std::string::npos);
  fs::rename(aside, there);
  EXPECT_TRUE(plugin_found().ok);
}

TEST_F(Install, AnotherPluginOfTheUserIsLeftAloneAndSaid) {
  for (const std::string other : {"none", "/opt/other/libnccl-tuner.so"}) {
    const Found found = plugin_found(other);
    EXPECT_FALSE(found.ok);
    EXPECT_EQ(found.value, other);
    EXPECT_NE(found.reason.find("names another plugin"), std::string::npos) << found.reason;
  }
}

}  // namespace
}  // namespace arbiter::testing
