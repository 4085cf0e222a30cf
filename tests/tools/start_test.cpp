// The program starts on a machine that has no GPU, no driver, no NVRTC and no NCCL, and says what is missing.
#include <gtest/gtest.h>

#include <fstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

/// Libraries that the dynamic loader was asked for, from its own log.
std::string libraries_of(const std::vector<std::string>& arguments) {
  return run_arbiter(arguments, {{"LD_DEBUG", "libs"}}).err;
}

TEST(Start, NeedsNoLibraryOfNvidia) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--version"}, {"--help"}, {"cache", "path"}, {"render", "--list"}}) {
    const std::string log = libraries_of(arguments);
    ASSERT_NE(log.find("libc.so"), std::string::npos) << "the loader's log is empty";
    for (const char* library : {"libcuda.so", "libnvrtc", "libnccl", "libcudart", "libnvidia-ml"}) {
      EXPECT_EQ(log.find(library), std::string::npos) << arguments.front() << " opens " << library;
    }
  }
}

TEST(Start, DoctorSucceedsWithoutGpus) {
  const Outcome outcome = run_arbiter({"doctor"}, {{"CUDA_VISIBLE_DEVICES", "-1"}});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_NE(outcome.out, "");
  EXPECT_EQ(run_arbiter({"doctor", "--require", "cuda"}, {{"CUDA_VISIBLE_DEVICES", "-1"}}).exit_code, 1);
}

TEST(Start, AskingForAGpuThatIsNotThereSaysSo) {
  for (const char* command : {"tune", "bench", "verify"}) {
    const Outcome outcome = run_arbiter({command, "--device", "cuda"}, {{"CUDA_VISIBLE_DEVICES", "-1"}});
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_NE(outcome.err.find("no GPU"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find("--device cpu"), std::string::npos) << outcome.err;
  }
}

TEST(Start, ABadVariableIsNamed) {
  const Outcome outcome = run_arbiter({"cache", "path"}, {{"ARBITER_TIMEOUT_MS", "soon"}});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("ARBITER_TIMEOUT_MS"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("soon"), std::string::npos) << outcome.err;
}

TEST(Start, FilesThatAreNotDatabasesAreNamed) {
  const ScratchDirectory scratch;
  const std::string file = scratch.file("not.db");
  std::ofstream(file) << "this is not a database, but it is long enough to be looked at as one";
  for (const std::string& name : {file, scratch.file("missing.db"), scratch.path().string()}) {
    const Outcome outcome = run_arbiter({"show", "--db", name});
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(name), std::string::npos) << outcome.err;
  }
  EXPECT_FALSE(std::filesystem::exists(scratch.file("missing.db")));
}

}  // namespace
}  // namespace arbiter::testing
