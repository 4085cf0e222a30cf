#include <gtest/gtest.h>

#include "nvml.hpp"

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

TEST(Nvml, SaysWhyItIsMissing) {
  std::string reason;
  if (Nvml::open(&reason)) GTEST_SKIP() << "NVML is installed here";
  EXPECT_FALSE(reason.empty());
}

}  // namespace
}  // namespace arbiter
