// The real kernels under the link model: every exchange algorithm of the catalogue, alone and mixed with the others,
// many seeds. A failure names the seed that repeats it. ARBITER_LINK_SEEDS sets how many.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "arbiter/error.hpp"
#include "arbiter/tuner/link_check.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

std::uint64_t seeds() {
  const char* value = std::getenv("ARBITER_LINK_SEEDS");
  return value == nullptr ? 1000 : std::strtoull(value, nullptr, 10);
}

class LinkProtocols : public ::testing::TestWithParam<LinkCheckOptions> {};

TEST_P(LinkProtocols, AreRightForEverySeed) {
  LinkCheckOptions options = GetParam();
  options.variables = test::quiet_group_options().variables;
  LinkCheck check(options);
  for (std::uint64_t seed = 1; seed <= seeds(); ++seed) {
    const std::string wrong = check.run(seed);
    ASSERT_TRUE(wrong.empty()) << wrong;
  }
  const CpuLinkStatistics& statistics = check.statistics();
  EXPECT_EQ(statistics.runs, seeds());
  EXPECT_GT(statistics.stores, seeds());
  EXPECT_GT(statistics.overtaken, seeds());
  EXPECT_GT(statistics.torn, 0U);
}

std::string name_of(const ::testing::TestParamInfo<LinkCheckOptions>& parameter) {
  const LinkCheckOptions& options = parameter.param;
  return std::string(to_string(options.backend)) + "_" + options.algorithm + "_" + std::to_string(options.world);
}

/// Every exchange algorithm with 2, 3 and 4 ranks, as far as the catalogue has it for so many.
std::vector<LinkCheckOptions> protocols() {
  std::vector<LinkCheckOptions> all;
  for (LinkCheckOptions options : link_check_algorithms()) {
    const std::vector<int>& worlds = Catalogue::builtin().algorithm(options.backend, options.algorithm).worlds;
    for (options.world = 2; options.world <= 4; ++options.world) {
      if (std::find(worlds.begin(), worlds.end(), options.world) != worlds.end()) all.push_back(options);
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(, LinkProtocols, ::testing::ValuesIn(protocols()), name_of);

TEST(LinkCheck, RefusesWhatItCannotRun) {
  LinkCheckOptions options;
  options.backend = Backend::trtllm;
  options.algorithm = "oneshot_push";
  options.variables = test::quiet_group_options().variables;
  options.world = 1;
  EXPECT_THROW(LinkCheck{options}, InvalidArgument);
  options.world = 17;
  EXPECT_THROW(LinkCheck{options}, InvalidArgument);
  options.world = 9;
  EXPECT_NE(test::message_of<Unsupported>([&] { LinkCheck check(options); }).find("9 ranks"), std::string::npos);
  options.world = 2;
  options.algorithm = "oneshot_pusch";
  EXPECT_THROW(LinkCheck{options}, InvalidArgument);
}

}  // namespace
}  // namespace arbiter
