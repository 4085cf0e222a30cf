// Arbiter declares NCCL's functions itself. Where nccl.h is installed, it must agree.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <type_traits>

#include "arbiter/error.hpp"
#include "arbiter/runtime/nccl.hpp"
#include "nccl/library.hpp"

#if __has_include(<nccl.h>)
#include <nccl.h>
#define ARBITER_HAS_NCCL_HEADER 1
#endif

namespace arbiter {
namespace {

TEST(NcclLayout, IsWhatNcclPassesByValue) {
  EXPECT_EQ(sizeof(NcclId), nccl_id_bytes);
  EXPECT_EQ(alignof(NcclId), 1U);
  EXPECT_TRUE(std::is_trivially_copyable_v<NcclId>);
  EXPECT_TRUE(std::is_standard_layout_v<NcclConfig>);
}

TEST(NcclLayout, AgreesWithTheHeader) {
#ifdef ARBITER_HAS_NCCL_HEADER
  EXPECT_EQ(sizeof(NcclId), sizeof(ncclUniqueId));
  EXPECT_EQ(alignof(NcclId), alignof(ncclUniqueId));
  EXPECT_EQ(offsetof(NcclConfig, size), offsetof(ncclConfig_t, size));
  EXPECT_EQ(offsetof(NcclConfig, magic), offsetof(ncclConfig_t, magic));
  EXPECT_EQ(offsetof(NcclConfig, version), offsetof(ncclConfig_t, version));
  EXPECT_EQ(offsetof(NcclConfig, blocking), offsetof(ncclConfig_t, blocking));
  EXPECT_EQ(sizeof(NcclConfig::blocking), sizeof(ncclConfig_t::blocking));
  const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;
  EXPECT_EQ(NcclConfig{}.magic, initial.magic);
  EXPECT_EQ(static_cast<int>(nccl_success), static_cast<int>(ncclSuccess));
  EXPECT_EQ(static_cast<int>(nccl_invalid_argument), static_cast<int>(ncclInvalidArgument));
  EXPECT_EQ(static_cast<int>(nccl_invalid_usage), static_cast<int>(ncclInvalidUsage));
  EXPECT_EQ(static_cast<int>(nccl_in_progress), static_cast<int>(ncclInProgress));
  EXPECT_EQ(static_cast<int>(nccl_uint8), static_cast<int>(ncclUint8));
  EXPECT_EQ(static_cast<int>(nccl_float16), static_cast<int>(ncclFloat16));
  EXPECT_EQ(static_cast<int>(nccl_float32), static_cast<int>(ncclFloat32));
  EXPECT_EQ(static_cast<int>(nccl_bfloat16), static_cast<int>(ncclBfloat16));
  EXPECT_EQ(nccl_sum, static_cast<int>(ncclSum));
#ifdef NCCL_WIN_COLL_SYMMETRIC
  EXPECT_EQ(nccl_window_symmetric, NCCL_WIN_COLL_SYMMETRIC);
#endif
#else
  GTEST_SKIP() << "nccl.h is not installed";
#endif
}

TEST(NcclLibrary, VersionsAreSpelledOut) {
  NcclLibrary library;
  library.version_code = 22803;
  EXPECT_EQ(library.version(), "2.28.3");
  library.version_code = 23012;
  EXPECT_EQ(library.version(), "2.30.12");
}

TEST(NcclLibrary, SaysWhereItLooked) {
  try {
    open_nccl({"libarbiter-no-such-nccl.so.2", "/nowhere/libnccl.so.2"});
    FAIL() << "expected Unavailable";
  } catch (const Unavailable& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("libarbiter-no-such-nccl.so.2"), std::string::npos) << message;
    EXPECT_NE(message.find("/nowhere/libnccl.so.2"), std::string::npos) << message;
  }
}

TEST(NcclLibrary, ALibraryThatIsNotNcclIsRefused) {
  try {
    open_nccl({"libm.so.6"});
    FAIL() << "expected Unavailable";
  } catch (const Unavailable& error) {
    EXPECT_NE(std::string(error.what()).find("ncclGetVersion"), std::string::npos) << error.what();
  }
}

TEST(NcclLibrary, WheelsOfAnEnvironmentAreFound) {
  namespace fs = std::filesystem;
  const fs::path root = fs::temp_directory_path() / ("arbiter-nccl-" + std::to_string(getpid()));
  const fs::path folder = root / "lib/python3.12/site-packages/nvidia/nccl/lib";
  fs::create_directories(folder);
  std::ofstream(folder / "libnccl.so.2") << "not a library";
  const char* old = std::getenv("VIRTUAL_ENV");
  const std::string saved = old == nullptr ? "" : old;
  setenv("VIRTUAL_ENV", root.c_str(), 1);
  const std::vector<std::string> candidates = nccl_candidates();
  if (old == nullptr) {
    unsetenv("VIRTUAL_ENV");
  } else {
    setenv("VIRTUAL_ENV", saved.c_str(), 1);
  }
  EXPECT_EQ(candidates.front(), "libnccl.so.2");  // what the system offers comes first
  EXPECT_NE(std::find(candidates.begin(), candidates.end(), (folder / "libnccl.so.2").string()), candidates.end());
  fs::remove_all(root);
}

}  // namespace
}  // namespace arbiter
