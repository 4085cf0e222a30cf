// Environment variables: defaults, every accepted spelling, every refusal.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>

#include "arbiter/error.hpp"
#include "arbiter/runtime/kernel_cache.hpp"
#include "arbiter/variables.hpp"

namespace arbiter {
namespace {

class EnvironmentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name :
         {"ARBITER_DB", "ARBITER_CACHE_DIR", "ARBITER_BACKEND", "ARBITER_NUMERICS", "ARBITER_JIT", "ARBITER_MULTICAST",
          "ARBITER_TIMEOUT_MS", "ARBITER_LOG", "NCCL_NVLS_ENABLE", "XDG_CACHE_HOME", "HOME"}) {
      const char* value = std::getenv(name);
      before_[name] = value == nullptr ? std::optional<std::string>{} : std::optional<std::string>{value};
      ::unsetenv(name);
    }
    set("HOME", "/home/somebody");
  }
  void TearDown() override {
    for (const auto& [name, value] : before_) {
      if (value.has_value()) {
        ::setenv(name.c_str(), value->c_str(), 1);
      } else {
        ::unsetenv(name.c_str());
      }
    }
  }
  static void set(const char* name, const char* value) { ::setenv(name, value, 1); }

  /// What read() says about `name` = `value`; "accepted" if nothing.
  static std::string refusal(const char* name, const char* value) {
    set(name, value);
    std::string text = "accepted";
    try {
      EnvironmentVariables::read();
    } catch (const InvalidArgument& error) {
      text = error.what();
    }
    ::unsetenv(name);
    return text;
  }
  static void expect_refused(const char* name, const char* value, std::initializer_list<const char*> parts) {
    const std::string text = refusal(name, value);
    EXPECT_NE(text, "accepted") << name << "=" << value;
    EXPECT_NE(text.find(name), std::string::npos) << text;
    EXPECT_NE(text.find("'" + std::string(value) + "'"), std::string::npos) << text;
    for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' in: " << text;
  }

  std::map<std::string, std::optional<std::string>> before_;
};

TEST_F(EnvironmentTest, Defaults) {
  const EnvironmentVariables v = EnvironmentVariables::read();
  EXPECT_EQ(v.db, "");
  EXPECT_EQ(v.cache_dir, "/home/somebody/.cache/arbiter");
  EXPECT_EQ(v.backend, Backend::automatic);
  EXPECT_EQ(v.numerics, NumericsPolicy::any);
  EXPECT_TRUE(v.jit);
  EXPECT_FALSE(v.multicast);
  EXPECT_EQ(v.timeout.count(), 60'000);
  EXPECT_EQ(v.first_timeout.count(), 600'000);
  EXPECT_EQ(v.startup_tune.count(), 0);
  EXPECT_EQ(v.log, "warn");
}

TEST_F(EnvironmentTest, EveryVariableIsRead) {
  set("ARBITER_DB", "/data/x.db");
  set("ARBITER_CACHE_DIR", "/var/cache/kernels");
  set("ARBITER_BACKEND", "mnnvl");
  set("ARBITER_NUMERICS", "strict");
  set("ARBITER_JIT", "off");
  set("ARBITER_MULTICAST", "on");
  set("ARBITER_TIMEOUT_MS", "1500");
  set("ARBITER_FIRST_TIMEOUT_MS", "2500");
  set("ARBITER_MAX_SMS", "24");
  set("ARBITER_STARTUP_TUNE_MS", "2000");
  set("ARBITER_LOG", "debug");
  const EnvironmentVariables v = EnvironmentVariables::read();
  EXPECT_EQ(v.db, "/data/x.db");
  EXPECT_EQ(v.cache_dir, "/var/cache/kernels");
  EXPECT_EQ(v.backend, Backend::mnnvl);
  EXPECT_EQ(v.numerics, NumericsPolicy::strict);
  EXPECT_FALSE(v.jit);
  EXPECT_TRUE(v.multicast);
  EXPECT_EQ(v.timeout.count(), 1500);
  EXPECT_EQ(v.first_timeout.count(), 2500);
  EXPECT_EQ(v.max_sms, 24);
  EXPECT_EQ(v.startup_tune.count(), 2000);
  EXPECT_FALSE(v.off);
  set("ARBITER_BACKEND", "off");
  EXPECT_TRUE(EnvironmentVariables::read().off);
  EXPECT_EQ(v.log, "debug");
}

TEST_F(EnvironmentTest, EveryBackendAndLogLevelIsAccepted) {
  for (const char* name : {"auto", "trtllm", "mnnvl", "custom", "nvls", "nccl"}) {
    set("ARBITER_BACKEND", name);
    EXPECT_EQ(to_string(EnvironmentVariables::read().backend), name);
  }
  for (const char* name : {"trace", "debug", "info", "warn", "error", "off"}) {
    set("ARBITER_LOG", name);
    EXPECT_EQ(EnvironmentVariables::read().log, name);
  }
}

TEST_F(EnvironmentTest, EmptyCountsAsUnset) {
  for (const char* name : {"ARBITER_DB", "ARBITER_CACHE_DIR", "ARBITER_BACKEND", "ARBITER_NUMERICS", "ARBITER_JIT",
                           "ARBITER_MULTICAST", "ARBITER_TIMEOUT_MS", "ARBITER_FIRST_TIMEOUT_MS", "ARBITER_MAX_SMS",
                           "ARBITER_STARTUP_TUNE_MS", "ARBITER_LOG", "NCCL_NVLS_ENABLE"}) {
    set(name, "");
  }
  const EnvironmentVariables v = EnvironmentVariables::read();
  EXPECT_EQ(v.timeout.count(), 60'000);
  EXPECT_EQ(v.cache_dir, "/home/somebody/.cache/arbiter");
  for (const VariableDescription& d : describe(v)) EXPECT_FALSE(d.set) << d.name;
}

TEST_F(EnvironmentTest, MisspeltWordsAreRefusedWithASuggestion) {
  expect_refused("ARBITER_BACKEND", "trtlm", {"valid", "nccl", "did you mean 'trtllm'"});
  expect_refused("ARBITER_BACKEND", "NCCL", {"valid: auto"});
  expect_refused("ARBITER_BACKEND", "nccl ", {"did you mean 'nccl'"});
  set("ARBITER_NUMERICS", "lossy");
  EXPECT_EQ(EnvironmentVariables::read().numerics, NumericsPolicy::lossy);
  expect_refused("ARBITER_NUMERICS", "stric", {"did you mean 'strict'"});
  expect_refused("ARBITER_NUMERICS", "strict,any", {"valid"});
  expect_refused("ARBITER_JIT", "offf", {"did you mean 'off'"});
  expect_refused("ARBITER_JIT", "1", {"on", "off"});
  expect_refused("ARBITER_MULTICAST", "yes", {"on", "off"});
  expect_refused("ARBITER_LOG", "warning", {"did you mean 'warn'"});
}

TEST_F(EnvironmentTest, OnlyWholeNumbersAreTimeouts) {
  for (const char* value : {"-1", "+5", "1.5", "1e3", "30s", "30000ms", " 10", "10 ", "0x10", "ten", "86400001",
                            "99999999999999999999999"}) {
    expect_refused("ARBITER_TIMEOUT_MS", value, {"milliseconds", "up to 86400000", "0 for no deadline"});
    expect_refused("ARBITER_FIRST_TIMEOUT_MS", value, {"milliseconds", "up to 86400000"});
    expect_refused("ARBITER_STARTUP_TUNE_MS", value, {"milliseconds", "0 for nothing"});
  }
  for (const char* value : {"0", "1", "007", "86400000"})
    EXPECT_EQ(refusal("ARBITER_TIMEOUT_MS", value), "accepted") << value;
  for (const char* value : {"-1", "1.5", "many", "65537"})
    expect_refused("ARBITER_MAX_SMS", value, {"multiprocessors"});
}

TEST_F(EnvironmentTest, NcclCanForbidMulticast) {
  set("ARBITER_MULTICAST", "on");
  for (const char* value : {"0", "00", "0x0"}) {
    set("NCCL_NVLS_ENABLE", value);
    EXPECT_FALSE(EnvironmentVariables::read().multicast) << value;
  }
  for (const char* value : {"1", "2", "x", "0x"}) {  // what NCCL cannot read, it ignores
    set("NCCL_NVLS_ENABLE", value);
    EXPECT_TRUE(EnvironmentVariables::read().multicast) << value;
  }
  set("ARBITER_MULTICAST", "off");
  EXPECT_FALSE(EnvironmentVariables::read().multicast) << "and never turns it on";
}

TEST_F(EnvironmentTest, CacheFolder) {
  set("XDG_CACHE_HOME", "/xdg");
  EXPECT_EQ(EnvironmentVariables::read().cache_dir, "/xdg/arbiter");
  set("XDG_CACHE_HOME", "relative");
  EXPECT_EQ(EnvironmentVariables::read().cache_dir, "/home/somebody/.cache/arbiter");
  set("ARBITER_CACHE_DIR", "relative");
  EXPECT_TRUE(EnvironmentVariables::read().cache_dir.is_absolute());
  EXPECT_EQ(EnvironmentVariables::read().cache_dir.filename(), "relative");
}

/// Runs where the user has no entry in passwd: a child that gave up its user id.
std::string as_a_user_without_entry(const std::function<std::string()>& body) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = setuid(3'456'789) == 0 ? body() : "not root";
    _exit(write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  std::array<char, 1024> buffer{};
  for (ssize_t got = 0; (got = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return text;
}

TEST_F(EnvironmentTest, WithoutAHomeThereIsNoCacheAndOneRankSaysSo) {
  ::unsetenv("HOME");
  const std::string said = as_a_user_without_entry([] {
    const EnvironmentVariables variables = EnvironmentVariables::read();
    if (!variables.cache_dir.empty()) return "a cache in " + variables.cache_dir.string();
    std::string heard;
    const auto hear = [&](const std::string& text) { heard += text + "\n"; };
    for (const bool says_so : {false, true, false}) make_kernel_cache(variables, says_so, hear);
    return heard;
  });
  if (said == "not root") GTEST_SKIP() << "only root may become a user without an entry in passwd";
  EXPECT_TRUE(said.starts_with("there is no folder for the kernel cache")) << said;
  EXPECT_NE(said.find("ARBITER_CACHE_DIR"), std::string::npos) << said;
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
}

TEST_F(EnvironmentTest, ACallerThatWantsNoCacheIsNotTold) {
  EnvironmentVariables variables = EnvironmentVariables::read();
  variables.cache_dir.clear();
  std::string said;
  make_kernel_cache(variables, true, [&](const std::string& text) { said += text; });
  EXPECT_EQ(said, "");
}

TEST_F(EnvironmentTest, DescribeShowsEffectiveValues) {
  set("ARBITER_MULTICAST", "on");
  set("NCCL_NVLS_ENABLE", "0");
  set("ARBITER_TIMEOUT_MS", "77");
  const auto list = describe(EnvironmentVariables::read());
  const auto find = [&](const std::string& name) {
    const auto at = std::find_if(list.begin(), list.end(), [&](const auto& d) { return d.name == name; });
    EXPECT_NE(at, list.end()) << name;
    return at == list.end() ? VariableDescription{} : *at;
  };
  EXPECT_EQ(find("ARBITER_MULTICAST").value, "off");
  EXPECT_TRUE(find("ARBITER_MULTICAST").set);
  EXPECT_EQ(find("ARBITER_TIMEOUT_MS").value, "77");
  EXPECT_EQ(find("ARBITER_BACKEND").value, "auto");
  EXPECT_FALSE(find("ARBITER_BACKEND").set);
  for (const char* name :
       {"ARBITER_DB", "ARBITER_CACHE_DIR", "ARBITER_NUMERICS", "ARBITER_JIT", "ARBITER_LOG", "NCCL_NVLS_ENABLE"}) {
    EXPECT_FALSE(find(name).description.empty());
  }
}

}  // namespace
}  // namespace arbiter
