// Images of the CPU device are loaded from where nobody can swap them.
#include "cpu/image.hpp"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

/// A kernel that says its number, and where it was loaded from.
CompiledKernel kernel(int number) {
  return make_host_compiler()->compile(
      {"extern \"C\" void arbiter_kernel_rank0(const void* out) { *(int*)out = " + std::to_string(number) +
           "; }\nextern \"C\" void** arbiter_current_slot() { return nullptr; }\n",
       "arbiter_kernel_rank", ""});
}

int said_by(const CpuImage& image) {
  int number = 0;
  image.entry()(&number);
  return number;
}

class CpuImageTest : public testing::TestWithParam<bool> {
 protected:
  bool memory() const { return GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Places, CpuImageTest, testing::Bool(),
                         [](const auto& place) { return place.param ? "memory" : "folder"; });

TEST_P(CpuImageTest, ImagesThatLiveTogetherAreTold) {
  const CompiledKernel one = kernel(1), two = kernel(2);
  std::vector<std::unique_ptr<CpuImage>> images;
  for (int i = 0; i < 20; ++i) images.push_back(std::make_unique<CpuImage>(i % 2 == 0 ? one : two, 0, memory()));
  for (std::size_t i = 0; i < images.size(); ++i) EXPECT_EQ(said_by(*images[i]), i % 2 == 0 ? 1 : 2);
}

TEST_P(CpuImageTest, NoFolderHoldsWhatIsLoaded) {
  const CpuImage image(kernel(1), 0, memory());
  Dl_info info{};
  ASSERT_NE(dladdr(reinterpret_cast<void*>(image.entry()), &info), 0);
  EXPECT_TRUE(std::string(info.dli_fname).starts_with("/proc/self/")) << info.dli_fname;
}

/// Where TMPDIR belongs to everybody, nothing goes there that is run: others could put theirs in its place.
TEST_P(CpuImageTest, AFolderOfEverybodyIsNotUsed) {
  std::string pattern = "/tmp/arbiter-test-XXXXXX";
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  ASSERT_EQ(chmod(pattern.c_str(), 0777), 0);
  const auto before = fs::last_write_time(pattern);
  const char* given = std::getenv("TMPDIR");
  const std::string old = given != nullptr ? given : "";
  const CompiledKernel one = kernel(1);
  setenv("TMPDIR", pattern.c_str(), 1);
  EXPECT_EQ(said_by(CpuImage(one, 0, memory())), 1);
  EXPECT_EQ(said_by(CpuImage(kernel(3), 0, memory())), 3);
  given != nullptr ? setenv("TMPDIR", old.c_str(), 1) : unsetenv("TMPDIR");
  EXPECT_EQ(fs::last_write_time(pattern), before) << "something was made in it";
  fs::remove_all(pattern);
}

TEST(CpuImageWithoutFolder, IsLoadedWithoutAnyTemporaryFile) {
  const CompiledKernel one = kernel(1);
  setenv("TMPDIR", "/proc", 1);
  EXPECT_EQ(said_by(CpuImage(one, 0)), 1);
  EXPECT_THROW(CpuImage(one, 0, false), Unavailable);
  unsetenv("TMPDIR");
}

}  // namespace
}  // namespace arbiter
