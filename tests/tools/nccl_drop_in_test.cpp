// What doctor says about libarbiter-nccl.so, in front of the stand-in for NCCL.
#include <gtest/gtest.h>

#include <string>

#include "arbiter/device.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

struct Found {
  bool ok = false;
  std::string value;
  std::string reason;
};

Found drop_in(const std::map<std::string, std::string>& variables) {
  const Outcome outcome = run_arbiter({"doctor", "--json"}, variables);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  const llvm::json::Value report = parse_object(outcome.out);
  for (const llvm::json::Value& entry : *report.getAsObject()->getArray("capabilities")) {
    const llvm::json::Object& capability = *entry.getAsObject();
    if (capability.getString("name") != "nccl_drop_in") continue;
    return {capability.getBoolean("ok").value(), capability.getString("value")->str(),
            capability.getString("reason")->str()};
  }
  ADD_FAILURE() << outcome.out;
  return {};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(NcclDropIn, DoctorSaysWhatItWouldDoHere) {
  const Found found = drop_in({{"ARBITER_NCCL_LIBRARY", STAND_IN}, {"ARBITER_NCCL_WORKSPACE", "16M"}});
  EXPECT_TRUE(contains(found.value, "/libarbiter-nccl.so in front of NCCL 2.28.3 (" STAND_IN ", ARBITER_NCCL_LIBRARY)"))
      << found.value;
  if (cuda_device_count() < 2) {
    EXPECT_FALSE(found.ok);
    EXPECT_TRUE(contains(found.reason, "it serves two GPUs and more")) << found.reason;
  } else if (found.ok) {
    EXPECT_TRUE(contains(found.value, "up to 2097152 bytes, go to Arbiter")) << found.value;
  }
}

TEST(NcclDropIn, DoctorSaysWhyItWouldDoNothing) {
  for (const char* mode : {"off", "verfy"}) {
    const Found off = drop_in({{"ARBITER_NCCL_LIBRARY", STAND_IN}, {"ARBITER_NCCL", mode}});
    EXPECT_FALSE(off.ok);
    EXPECT_TRUE(contains(off.reason, "ARBITER_NCCL is off")) << off.reason;
  }
  const Found missing = drop_in({{"ARBITER_NCCL_LIBRARY", "/no/such/libnccl.so.2"}});
  EXPECT_FALSE(missing.ok);
  EXPECT_TRUE(contains(missing.reason, "/no/such/libnccl.so.2")) << missing.reason;
}

TEST(NcclDropIn, DoctorNamesTheFunctionsThatANewerNcclHas) {
  const Found newer = drop_in({{"ARBITER_NCCL_LIBRARY", STAND_IN_NEWER}});
  EXPECT_TRUE(contains(newer.value, "whose functions ncclInTheFuture,pncclInTheFuture it does not know"))
      << newer.value;
}

}  // namespace
}  // namespace arbiter::testing
