// Every function of NCCL resolves through libarbiter-nccl.so and reaches the library behind it with all its arguments.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace arbiter {
namespace {

using Function = long (*)(long, long, long, long, long, long, double, double, long, long);

const std::vector<const char*>& names() {
  static const std::vector<const char*> all = {
#define ARBITER_NCCL_FORWARD(name) #name,
#include "names.def"
#undef ARBITER_NCCL_FORWARD
  };
  return all;
}

void* open_library(const char* path) {
  setenv("ARBITER_NCCL_LIBRARY", STAND_IN, 1);
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  EXPECT_NE(handle, nullptr) << dlerror();
  return handle;
}

TEST(NcclSymbols, EveryCallArrivesWithAllItsArguments) {
  void* ours = open_library(ARBITER_NCCL);
  void* behind = open_library(STAND_IN);
  ASSERT_NE(ours, behind) << "the loader took one for the other, because their SONAMEs are equal";
  // What the stand-in really does, with arguments of its own.
  const std::set<std::string> real = {
      "ncclGetVersion",   "ncclGetErrorString", "ncclGetUniqueId",  "ncclCommInitRank",        "ncclCommInitRankConfig",
      "ncclCommSplit",    "ncclCommCount",      "ncclCommUserRank", "ncclCommCuDevice",        "ncclCommInitAll",
      "ncclCommFinalize", "pncclGetVersion",    "ncclGetLastError", "ncclCommInitRankScalable"};
  std::size_t called = 0;
  for (const char* name : names()) {
    const auto ours_named = reinterpret_cast<Function>(dlsym(ours, name));
    const auto behind_named = reinterpret_cast<Function>(dlsym(behind, name));
    ASSERT_NE(ours_named, nullptr) << name;
    ASSERT_NE(behind_named, nullptr) << name;
    ASSERT_NE(ours_named, behind_named) << name;
    if (real.contains(name)) continue;
    for (int again = 0; again < 2; ++again) {  // the first call finds the function, the second goes straight there
      EXPECT_EQ(ours_named(1, 20, 300, 4000, 50000, 600000, 7.0, 0.5, 80, 9),
                behind_named(1, 20, 300, 4000, 50000, 600000, 7.0, 0.5, 80, 9))
          << name;
    }
    ++called;
  }
  EXPECT_GT(called, 70U);
  int version = 0;
  ASSERT_EQ(reinterpret_cast<int (*)(int*)>(dlsym(ours, "ncclGetVersion"))(&version), 0);
  EXPECT_EQ(version, 22803);
}

using std::size_t;
using NcclComm = struct ncclComm*;
using cudaStream_t = struct CUstream_st*;

template <typename... Arguments, std::size_t... index>
int call_with_numbers(int (*function)(Arguments...), std::index_sequence<index...>) {
  return function((Arguments)(3 * index * index + 5)...);  // NOLINT: whatever they are, they are numbers here
}

TEST(NcclSymbols, CollectivesThatKeepStreamsInOrderArriveWithAllTheirArguments) {
  void* ours = open_library(ARBITER_NCCL);
  void* behind = open_library(STAND_IN);
  int called = 0;
  const auto compare = [&]<typename... Arguments>(const char* name, int (*)(Arguments...)) {
    const std::set<std::string> real = {"ncclAllGather", "ncclBroadcast", "ncclSend",
                                        "ncclRecv"};  // the stand-in does them
    const auto ours_named = reinterpret_cast<int (*)(Arguments...)>(dlsym(ours, name));
    const auto behind_named = reinterpret_cast<int (*)(Arguments...)>(dlsym(behind, name));
    ASSERT_NE(ours_named, nullptr) << name;
    ASSERT_NE(behind_named, nullptr) << name;
    ASSERT_NE(ours_named, behind_named) << name;
    if (real.contains(name)) return;
    constexpr auto numbers = std::index_sequence_for<Arguments...>();
    EXPECT_EQ(call_with_numbers(ours_named, numbers), call_with_numbers(behind_named, numbers)) << name;
    ++called;
  };
#define ARBITER_NCCL_PASS(name, parameters, ...) compare(#name, static_cast<int(*) parameters>(nullptr));
#include "passed.def"
#undef ARBITER_NCCL_PASS
  EXPECT_EQ(called, 6);
}

TEST(NcclSymbols, TheNcclOfThisMachineHasNoneThatWeLack) {
  const char* path = "/usr/local/cuda/lib64/libnccl.so.2";
  FILE* list = popen((std::string("test -e ") + path + " && nm -D --defined-only " + path).c_str(), "r");
  ASSERT_NE(list, nullptr);
  void* ours = open_library(ARBITER_NCCL);
  std::array<char, 512> line{};
  std::size_t found = 0;
  while (std::fgets(line.data(), line.size(), list) != nullptr) {
    std::string name(line.data());
    name.erase(name.find_last_not_of(" \n") + 1);
    name.erase(0, name.find_last_of(' ') + 1);
    EXPECT_NE(dlsym(ours, name.c_str()), nullptr) << name << ": add it to names.def";
    ++found;
  }
  pclose(list);
  if (found == 0) GTEST_SKIP() << "there is no " << path << ", or no nm, here";
  EXPECT_GT(found, 50U);
}

}  // namespace
}  // namespace arbiter
