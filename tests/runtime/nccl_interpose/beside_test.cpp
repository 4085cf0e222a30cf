// Arbiter's own use of NCCL in a process that has libarbiter-nccl.so: straight to the NCCL behind it.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "nccl/library.hpp"

namespace arbiter {
namespace {

TEST(NcclBeside, ArbiterIsNotServedByItself) {
  setenv("ARBITER_NCCL_LIBRARY", STAND_IN, 1);
  setenv("STAND_IN_VERSION", "21805", 1);
  void* ours = dlopen(ARBITER_NCCL, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(ours, nullptr) << dlerror();
  const std::shared_ptr<const NcclLibrary> nccl = open_nccl();
  EXPECT_EQ(nccl->path, "libnccl.so.2") << "what the loader has under this name";
  const auto address = [](auto* function) { return reinterpret_cast<void*>(function); };
  EXPECT_EQ(address(nccl->all_reduce), dlsym(ours, "pncclAllReduce"));
  EXPECT_EQ(address(nccl->comm_abort), dlsym(ours, "pncclCommAbort"));
  EXPECT_NE(dlsym(ours, "pncclAllReduce"), dlsym(ours, "ncclAllReduce"));
  EXPECT_EQ(nccl->version_code, 21805);
  EXPECT_EQ(nccl->window_register, nullptr) << "the NCCL behind it is too old for windows";
  EXPECT_EQ(nccl->mem_alloc, nullptr);
}

}  // namespace
}  // namespace arbiter
