// Where the program looks for the NCCL tuner plugin that was installed with it, and when it leaves the choice to the
// user.
#include "ranks/nccl_tuner_plugin.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

namespace arbiter::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* file = "libarbiter-nccl-tuner.so";

class NcclTunerPluginFile : public ::testing::Test {
 protected:
  NcclTunerPluginFile() {
    std::string pattern = (fs::temp_directory_path() / "arbiter-plugin-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    prefix = pattern;
    program = prefix / "bin" / "arbiter";
  }
  ~NcclTunerPluginFile() override { fs::remove_all(prefix); }
  fs::path make(const fs::path& folder) {
    fs::create_directories(prefix / folder);
    std::ofstream(prefix / folder / file) << "a library";
    return prefix / folder / file;
  }
  fs::path prefix, program;
};

TEST_F(NcclTunerPluginFile, IsFoundWhereItIsInstalledOrCopied) {
  EXPECT_EQ(find_nccl_tuner_plugin(program), fs::path());
  const fs::path multiarch = make("lib/x86_64-linux-gnu");
  EXPECT_EQ(find_nccl_tuner_plugin(program), multiarch);
  const fs::path wide = make("lib64");
  EXPECT_EQ(find_nccl_tuner_plugin(program), wide);
  const fs::path plain = make("lib");
  EXPECT_EQ(find_nccl_tuner_plugin(program), plain);
  const fs::path beside = make("bin");
  EXPECT_EQ(find_nccl_tuner_plugin(program), beside) << "copied together with the program";
}

TEST(NcclTunerPluginVariable, BelongsToTheUser) {
  ::setenv("NCCL_TUNER_PLUGIN", "none", 1);
  offer_nccl_tuner_plugin();
  EXPECT_STREQ(std::getenv("NCCL_TUNER_PLUGIN"), "none");
  ::setenv("NCCL_TUNER_PLUGIN", "", 1);
  offer_nccl_tuner_plugin();
  EXPECT_STREQ(std::getenv("NCCL_TUNER_PLUGIN"), "");
  ::unsetenv("NCCL_TUNER_PLUGIN");
}

}  // namespace
}  // namespace arbiter::cli
