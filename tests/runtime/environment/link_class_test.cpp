#include <gtest/gtest.h>

#include "cuda/nvml.hpp"
#include "group/topology.hpp"

namespace arbiter {
namespace {

using enum LinkRemote;

TEST(LinkClass, FollowsTheFarEnds) {
  EXPECT_EQ(link_class({}), "pcie");
  EXPECT_EQ(link_class(std::vector<LinkRemote>(18, nvswitch)), "nvlink_switch");
  EXPECT_EQ(link_class({gpu, gpu, gpu}), "nvlink_bridge");
  EXPECT_EQ(link_class({nvswitch, gpu}), "nvlink_bridge");
  EXPECT_EQ(link_class({bridge_chip}), "nvlink_bridge");
  EXPECT_EQ(link_class({unknown, unknown}), "nvlink_switch");
}

TEST(LinkClass, TheWeakestGpuDecides) {
  EXPECT_EQ(weakest_link_class({"nvlink_switch", "nvlink_switch"}), "nvlink_switch");
  EXPECT_EQ(weakest_link_class({"nvlink_switch", "nvlink_bridge"}), "nvlink_bridge");
  EXPECT_EQ(weakest_link_class({"nvlink_bridge", "pcie", "nvlink_switch"}), "pcie");
  EXPECT_EQ(weakest_link_class({}), "single");
}

TEST(NvlinkDomains, AreDescribedByTheNodesThatTheySpan) {
  EXPECT_EQ(nvlink_domain_shape({}), "none");
  EXPECT_EQ(nvlink_domain_shape({{"node a", "a"}}), "1");
  EXPECT_EQ(nvlink_domain_shape({{"node a", "a"}, {"node a", "a"}, {"node a", "a"}}), "1") << "not the number of ranks";
  EXPECT_EQ(nvlink_domain_shape({{"node a", "a"}, {"node b", "b"}}), "1+1");
  EXPECT_EQ(nvlink_domain_shape({{"rack/0", "a"}, {"rack/0", "b"}}), "2");
  EXPECT_EQ(nvlink_domain_shape({{"rack/1", "c"}, {"rack/0", "a"}, {"rack/0", "b"}, {"rack/0", "a"}}), "2+1");
}

TEST(Nvml, SaysWhyItIsMissing) {
  std::string reason;
  if (Nvml::open(&reason)) GTEST_SKIP() << "NVML is installed here";
  EXPECT_FALSE(reason.empty());
}

}  // namespace
}  // namespace arbiter
