#include <gtest/gtest.h>

#include <cstdlib>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "compile/nvrtc_library.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

constexpr const char* kernel_text = R"(
extern "C" __global__ void __launch_bounds__(256) arbiter_kernel(float* data) {
  __shared__ float buffer[256];
  buffer[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = buffer[255 - threadIdx.x] * 3.0f + 1.0f;
}
)";

class Nvrtc : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      (void)open_nvrtc();
    } catch (const Unavailable& error) {
      GTEST_SKIP() << error.what();
    }
  }
};

TEST_F(Nvrtc, CompilesCubins) {
  for (const char* target : {"sm_80", "sm_90a", "sm_100a"}) {
    const auto compiler = make_nvrtc_compiler(target);
    const CompiledKernel kernel = compiler->compile({kernel_text, "arbiter_kernel", ""});
    EXPECT_EQ(kernel.image.substr(0, 4),
              "\x7f"
              "ELF")
        << target;
    EXPECT_EQ(kernel.target, target);
    EXPECT_EQ(kernel.entry, "arbiter_kernel");
    EXPECT_GT(kernel.resources.registers, 0) << target;
    EXPECT_LE(kernel.resources.registers, 255) << target;
    // Shared memory that the system reserves per block (1 KiB from SM 80 on) is not counted.
    EXPECT_GE(kernel.resources.shared_bytes, 1024) << target;
    EXPECT_LE(kernel.resources.shared_bytes, 2048) << target;
    EXPECT_EQ(kernel.resources.spill_bytes, 0) << target;
    EXPECT_EQ(kernel.resources.stack_bytes, 0) << target;
  }
}

TEST_F(Nvrtc, CompilesPtxForNewerGpus) {
  const CompiledKernel kernel = make_nvrtc_compiler("compute_90")->compile({kernel_text, "arbiter_kernel", ""});
  EXPECT_NE(kernel.image.find(".entry arbiter_kernel"), std::string::npos);
  EXPECT_NE(kernel.image.find(".target sm_90"), std::string::npos);
  EXPECT_EQ(kernel.resources.registers, -1);
  // Not contracted: the CPU device must be able to give the same bits.
  EXPECT_EQ(kernel.image.find("fma"), std::string::npos);
}

TEST_F(Nvrtc, ReportsSpills) {
  const std::string text = R"(
extern "C" __global__ void __launch_bounds__(1024, 2) arbiter_kernel(float* data) {
  float x[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) x[i] = data[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) data[i * 1024 + threadIdx.x] = x[95 - i] * x[(i * 7) % 96];
})";
  EXPECT_GT(make_nvrtc_compiler("sm_90a")->compile({text, "arbiter_kernel", ""}).resources.spill_bytes, 0);
}

TEST_F(Nvrtc, ErrorsShowTheGeneratedLines) {
  const std::string text = "// first\nextern \"C\" __global__ void arbiter_kernel() {\n  undeclared = 1;\n}\n";
  expect_error<CompileError>(
      [&] {
        make_nvrtc_compiler("sm_90a")->compile({text, "arbiter_kernel", ""});
      },
      {"sm_90a", "NVRTC_ERROR_COMPILATION", "\"undeclared\" is undefined", "     3 |   undeclared = 1;"});
}

TEST_F(Nvrtc, IncludesAreNotFound) {
  expect_error<CompileError>(
      [&] {
        make_nvrtc_compiler("sm_90a")->compile({"#include <cuda_bf16.h>\n", "arbiter_kernel", ""});
      },
      {"cuda_bf16.h"});
}

TEST_F(Nvrtc, IdentityNamesWhatChangesTheImage) {
  const std::string identity = make_nvrtc_compiler("sm_90a")->identity();
  EXPECT_NE(identity.find("nvrtc " + nvrtc_version()), std::string::npos);
  EXPECT_NE(identity.find("sm_90a"), std::string::npos);
  EXPECT_NE(identity.find("--fmad=false"), std::string::npos);
  EXPECT_EQ(identity.find('/'), std::string::npos) << "no paths: " << identity;
  EXPECT_NE(identity, make_nvrtc_compiler("sm_100a")->identity());
}

TEST_F(Nvrtc, TargetsFollowTheDevice) {
  EXPECT_EQ(nvrtc_target(80), "sm_80");
  EXPECT_EQ(nvrtc_target(89), "sm_89");
  EXPECT_EQ(nvrtc_target(90), "sm_90a");
  const std::vector<int> supported = open_nvrtc().supported();
  ASSERT_FALSE(supported.empty());
  EXPECT_EQ(nvrtc_target(999), "compute_" + std::to_string(supported.back()));
  EXPECT_EQ(nvrtc_target(95), "compute_90");
  expect_error<Unsupported>([] { nvrtc_target(20); }, {"20", "older"});
}

TEST_F(Nvrtc, UnknownArchitecturesAreErrors) {
  EXPECT_THROW(make_nvrtc_compiler("sm_999")->compile({kernel_text, "arbiter_kernel", ""}), CompileError);
}

TEST(NvrtcTarget, SpellingIsChecked) {
  for (const char* target : {"", "sm_", "90", "sm_9", "sm_90x", "sm_90a --x", "compute_", "cpu", "sm_9000"})
    expect_error<InvalidArgument>([&] { make_nvrtc_compiler(target); }, {"is not a target", "sm_90a"});
}

TEST(NvrtcLibrary, SaysWhereItLooked) {
  expect_error<Unavailable>(
      [] {
        open_nvrtc({"/nowhere/libnvrtc.so.13", "libnvrtc_of_nobody.so"});
      },
      {"NVRTC", "install", "/nowhere/libnvrtc.so.13", "libnvrtc_of_nobody.so"});
  // A library that is no NVRTC.
  expect_error<Unavailable>([] { open_nvrtc({"libc.so.6"}); }, {"libc.so.6", "nvrtcVersion"});
}

TEST(NvrtcLibrary, LooksIntoWheelsOnPythonPath) {
  const std::vector<std::string> before = nvrtc_candidates();
  ASSERT_GE(before.size(), 2u);
  EXPECT_EQ(before[0], "libnvrtc.so.13");  // the loader's own search comes first
  EXPECT_EQ(before[1], "libnvrtc.so.12");

  std::string folder = ::testing::TempDir() + "arbiter-wheel-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string wheel = folder + "/nvidia/cu13/lib";
  ASSERT_EQ(std::system(("mkdir -p " + wheel + " && touch " + wheel + "/libnvrtc.so.13").c_str()), 0);
  const char* old = std::getenv("PYTHONPATH");
  const std::string saved = old == nullptr ? "" : old;
  setenv("PYTHONPATH", ("/nowhere::" + folder).c_str(), 1);
  const std::vector<std::string> after = nvrtc_candidates();
  if (old == nullptr)
    unsetenv("PYTHONPATH");
  else
    setenv("PYTHONPATH", saved.c_str(), 1);
  EXPECT_NE(std::find(after.begin(), after.end(), wheel + "/libnvrtc.so.13"), after.end());
  EXPECT_EQ(std::system(("rm -r " + folder).c_str()), 0);
}

}  // namespace
}  // namespace arbiter
