// What a profiler sees of a communicator.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

TEST(Profiler, SeesWhatIsPreparedAndWhichCandidateServesACall) {
  const std::string ranges =
      (std::filesystem::temp_directory_path() / ("arbiter-ranges-" + std::to_string(getpid()))).string();
  setenv("NVTX_INJECTION64_PATH", ARBITER_LISTENER, 1);
  setenv("ARBITER_TEST_RANGES", ranges.c_str(), 1);
  std::string candidate;
  test::run_ranks(2, [&](test::RankContext& context) {
    // One rank at a time is written about: the other one's lines would lie between.
    Communicator communicator(context.bootstrap, context.device, test::quiet_options());
    const PreparedFamily family = communicator.prepare({"allreduce", Dtype::fp32, 64, 8, Mode::graph});
    const test::Tensor<float> data(*context.device, 512);
    CallTensors tensors;
    tensors.input = tensors.output = data.data();
    family.run(tensors, 3, nullptr);
    if (context.rank == 0) candidate = family.explain(3).candidate.name;
  });
  std::ifstream file(ranges);
  const std::string seen{std::istreambuf_iterator<char>(file), {}};
  std::filesystem::remove(ranges);
  EXPECT_NE(seen.find("arbiter 0\n"), std::string::npos) << seen;
  EXPECT_NE(seen.find("prepare allreduce 8\n"), std::string::npos) << seen;
  EXPECT_NE(seen.find(candidate + " 192\n"), std::string::npos) << seen;
  const auto count = [&](const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = seen.find(part); at != std::string::npos; at = seen.find(part, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("end 0\n"), 4U) << seen;  // two ranks, two ranges
}

}  // namespace
}  // namespace arbiter
