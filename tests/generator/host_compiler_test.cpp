#include <dlfcn.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "compile/process.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

// Sets a variable for the length of a test.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) saved_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (saved_)
      setenv(name_, saved_->c_str(), 1);
    else
      unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> saved_;
};

TEST(HostCompiler, ProducesALoadableObject) {
  const auto compiler = make_host_compiler();
  const CompiledKernel kernel = compiler->compile(
      {"extern \"C\" int arbiter_kernel_rank0(int x) { return 2 * x; }\n", "arbiter_kernel_rank", ""});
  EXPECT_EQ(kernel.target, "cpu");
  EXPECT_EQ(kernel.resources.registers, -1);
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "kernel.so").string();
  std::ofstream(path, std::ios::binary) << kernel.image;
  void* handle = dlopen(path.c_str(), RTLD_NOW);
  ASSERT_NE(handle, nullptr) << dlerror();
  const auto function = reinterpret_cast<int (*)(int)>(dlsym(handle, "arbiter_kernel_rank0"));
  ASSERT_NE(function, nullptr);
  EXPECT_EQ(function(21), 42);
  dlclose(handle);
}

TEST(HostCompiler, SameSourceSameImage) {
  const auto compiler = make_host_compiler();
  const Source source{"extern \"C\" int f() { return 1; }\n", "f", ""};
  EXPECT_EQ(compiler->compile(source).image, compiler->compile(source).image);  // no path of the temporary folder in it
}

TEST(HostCompiler, ErrorsShowTheGeneratedLines) {
  expect_error<CompileError>(
      [] {
        make_host_compiler()->compile({"int a;\nint b = undeclared;\nint c;\n", "f", ""});
      },
      {"exit code 1", "undeclared", "     2 | int b = undeclared;"});
}

TEST(HostCompiler, CxxIsObeyed) {
  {
    const ScopedVariable cxx("CXX", "/nowhere/c++");
    expect_error<Unavailable>([] { make_host_compiler(); }, {"CXX='/nowhere/c++'", "unset it"});
  }
  {
    const ScopedVariable cxx("CXX", "false");
    expect_error<Unavailable>([] { make_host_compiler(); }, {"false", "does not tell its version"});
  }
  {
    const ScopedVariable cxx("CXX", "c++ -DEXTRA=7");
    const auto compiler = make_host_compiler();
    EXPECT_NE(compiler->identity().find("-DEXTRA=7"), std::string::npos);
    EXPECT_NO_THROW(compiler->compile({"static_assert(EXTRA == 7);\nint x;\n", "f", ""}));
  }
  {
    const ScopedVariable cxx("CXX", "  ");
    EXPECT_NO_THROW(make_host_compiler());
  }
}

TEST(HostCompiler, WithoutACompilerItSaysWhatToInstall) {
  const ScopedVariable path("PATH", "/nowhere");
  const ScopedVariable cxx("CXX", "");
  expect_error<Unavailable>([] { make_host_compiler(); }, {"no C++ compiler", "install g++"});
}

TEST(HostCompiler, AnUnusableTemporaryFolderIsNamed) {
  const auto compiler = make_host_compiler();
  const ScopedVariable tmp("TMPDIR", "/proc");
  expect_error<Unavailable>([&] { compiler->compile({"int x;\n", "f", ""}); }, {"/proc", "TMPDIR"});
}

/// Not if it has ended and nobody has asked for its exit code.
bool lives(int process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string number, name, state;
  return file >> number >> name >> state && state != "Z" && state != "X";
}

TEST(Process, TimeOutKillsTheChildrenToo) {
  const TemporaryFolder folder;
  // The time is real, and long enough for a shell to start on a busy machine.
  const ProcessResult result = run_process({*find_program("sh"), "-c", "sleep 3600 & echo $!; sleep 3600"},
                                           folder.path(), std::chrono::seconds(1));
  EXPECT_TRUE(result.timed_out);
  const int child = std::atoi(result.output.c_str());
  ASSERT_GT(child, 1) << result.output;
  while (lives(child)) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // or until ctest loses its patience
}

TEST(Process, ExitCodesAndSignals) {
  const TemporaryFolder folder;
  const std::string sh = *find_program("sh");
  EXPECT_EQ(run_process({sh, "-c", "exit 7"}, folder.path(), std::chrono::seconds(10)).exit_code, 7);
  EXPECT_EQ(run_process({sh, "-c", "kill -9 $$"}, folder.path(), std::chrono::seconds(10)).exit_code, 137);
  EXPECT_EQ(run_process({sh, "-c", "echo out; echo err >&2; cat"}, folder.path(), std::chrono::seconds(10)).output,
            "out\nerr\n");
  EXPECT_THROW(run_process({"/nowhere/program"}, folder.path(), std::chrono::seconds(1)), Unavailable);
}

TEST(Process, TemporaryFoldersVanish) {
  std::filesystem::path path;
  {
    const TemporaryFolder folder;
    path = folder.path();
    std::ofstream(path / "file") << "x";
    EXPECT_TRUE(std::filesystem::exists(path / "file"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace arbiter
