// Where tests keep the kernels that they compile for the CPU device.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace arbiter::test {

/// One folder for all tests and all runs: compiling dominates otherwise. ctest names one in the build folder of the
/// release, which the builds with sanitizers use too; a test that is started by hand has one that lives as long as the
/// machine.
inline std::filesystem::path kernels_folder() {
  const char* named = std::getenv("ARBITER_TEST_KERNELS");
  return named != nullptr ? std::filesystem::path(named)
                          : std::filesystem::temp_directory_path() / "arbiter-test-kernels";
}

}  // namespace arbiter::test
