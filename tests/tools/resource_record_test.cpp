// The record of registers and spills, and what is told and refused against it.
#include "compile/resource_record.hpp"

#include <gtest/gtest.h>

#include "arbiter/error.hpp"

namespace arbiter::cli {
namespace {

using List = std::vector<std::string>;

RecordedKernel kernel(const std::string& target, const std::string& variant, int registers, int spills) {
  return {target, variant, {registers, 0, spills, -1}};
}

TEST(Record, IsReadAsItWasWritten) {
  const std::vector<RecordedKernel> kernels{kernel("sm_90a", "b allreduce", 40, 0), kernel("sm_80", "a x", 255, 16)};
  const ResourceRecord record = read_record(write_record({"13.0", kernels}));
  EXPECT_EQ(record.nvrtc, "13.0");
  ASSERT_EQ(record.kernels.size(), 2U);
  EXPECT_EQ(record.kernels[0], kernels[1]);  // sorted
  EXPECT_EQ(record.kernels[1], kernels[0]);
}

TEST(Record, ABrokenLineIsNamed) {
  const std::string good = write_record({"13.0", {kernel("sm_90a", "b", 40, 0)}});
  const std::pair<std::string, std::string> broken[] = {
      {"", "empty"},
      {"nonsense\n", "line 1"},
      {good.substr(0, good.find("13.0")), "which NVRTC"},
      {good + "sm_90a\t1\t2\n", "line 3"},
      {good + "\n", "line 3"},
      {good + "sm_90a\tmany\t0\t0\tb\n", "'many'"},
      {good + "sm_90a\t1\t0\t-5\tb\n", "'-5'"},
      {good + "sm_90a\t1\t0x4\t0\tb\n", "'0x4'"},
      {good + "sm_90a\t41\t0\t0\tb\n", "line 3 of the record repeats a kernel: b for sm_90a"},
  };
  for (const auto& [text, expected] : broken) {
    try {
      read_record(text);
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  }
}

ResourceRecord made_with(const std::string& nvrtc, const std::vector<RecordedKernel>& kernels) {
  return {nvrtc, kernels};
}

TEST(Record, OnlyASpillThatWasNotThereIsNew) {
  const ResourceRecord before =
      made_with("13.0", {kernel("sm_90a", "clean", 40, 0), kernel("sm_90a", "spilling", 255, 8)});
  const auto new_spills = [&](const std::vector<RecordedKernel>& now) {
    return compare(before, made_with("13.0", now)).new_spills;
  };
  EXPECT_EQ(new_spills({kernel("sm_90a", "clean", 60, 0), kernel("sm_90a", "spilling", 255, 64)}), List{});
  EXPECT_EQ(new_spills({kernel("sm_90a", "clean", 255, 4)}),
            List{"clean for sm_90a spills 4 bytes; it did not before"});
  // Another target is another kernel, and one that the record does not have counts as one without spills.
  EXPECT_EQ(new_spills({kernel("sm_100a", "spilling", 255, 4), kernel("sm_90a", "unheard of", 255, 12)}),
            (List{"spilling for sm_100a spills 4 bytes; it is not in the record",
                  "unheard of for sm_90a spills 12 bytes; it is not in the record"}));
}

TEST(Record, WhatIsInOneOnlyIsTold) {
  const ResourceRecord before =
      made_with("13.0", {kernel("sm_90a", "a", 40, 0), kernel("sm_90a", "gone", 40, 0), kernel("sm_80", "a", 40, 0)});
  const RecordComparison comparison =
      compare(before, made_with("13.0", {kernel("sm_90a", "a", 40, 0), kernel("sm_90a", "new", 40, 0)}));
  EXPECT_EQ(comparison.unrecorded, List{"new for sm_90a"});
  EXPECT_EQ(comparison.not_compiled, List{"gone for sm_90a"});  // sm_80 was not compiled at all
  const std::string text = describe(comparison, "kernels.tsv");
  for (const char* expected : {"Not in kernels.tsv: 1 kernel\n  new for sm_90a\n",
                               "In kernels.tsv, but not compiled any more: 1 kernel\n  gone for sm_90a\n",
                               "arbiter compile --coverage --record kernels.tsv"}) {
    EXPECT_NE(text.find(expected), std::string::npos) << text;
  }
}

TEST(Record, ManyAreCounted) {
  std::vector<RecordedKernel> now;
  for (int i = 0; i < 9; ++i) now.push_back(kernel("sm_90a", "new" + std::to_string(i), 40, 0));
  const std::string text = describe(compare(made_with("13.0", {}), made_with("13.0", now)), "kernels.tsv");
  EXPECT_NE(text.find("Not in kernels.tsv: 9 kernels"), std::string::npos) << text;
  EXPECT_NE(text.find("... and 4 more"), std::string::npos) << text;
}

TEST(Record, WhatGotBetterOrMovedIsTold) {
  const ResourceRecord before = made_with("13.0", {kernel("sm_90a", "a", 40, 0), kernel("sm_90a", "b", 255, 8)});
  const RecordComparison comparison =
      compare(before, made_with("13.0", {kernel("sm_90a", "a", 44, 0), kernel("sm_90a", "b", 255, 0)}));
  EXPECT_EQ(comparison.recovered, List{"b for sm_90a"});
  EXPECT_EQ(comparison.other_registers, 1U);
  EXPECT_NE(describe(comparison, "f").find("With another number of registers: 1 kernel"), std::string::npos);
  EXPECT_EQ(describe(compare(before, before), "f"), "");
}

TEST(Record, AnotherCompilerMaySpillALittle) {
  const ResourceRecord before = made_with("13.0", {kernel("sm_90a", "a", 40, 0), kernel("sm_90a", "b", 40, 0)});
  const RecordComparison other = compare(
      before, made_with("13.5", {kernel("sm_90a", "a", 48, 0), kernel("sm_90a", "b", 255, other_nvrtc_spill_bytes)}));
  EXPECT_EQ(other.new_spills, List{});
  EXPECT_EQ(other.tolerated_spills, List{"b for sm_90a spills 256 bytes; it did not before"});
  EXPECT_EQ(other.other_registers, 0U);
  const std::string text = describe(other, "f");
  EXPECT_NE(text.find("f was made with NVRTC 13.0; this is 13.5"), std::string::npos) << text;
  EXPECT_NE(text.find("New spills of that size: 1 kernel\n  b for sm_90a"), std::string::npos) << text;

  const std::vector<RecordedKernel> more{kernel("sm_90a", "a", 255, other_nvrtc_spill_bytes + 4)};
  const RecordComparison spilling = compare(before, made_with("13.5", more));
  EXPECT_EQ(spilling.new_spills, List{"a for sm_90a spills 260 bytes; it did not before"});
  EXPECT_NE(describe(spilling, "f").find("this NVRTC does it"), std::string::npos);
  EXPECT_EQ(describe(compare(before, made_with("13.0", more)), "f").find("this NVRTC"), std::string::npos);
}

}  // namespace
}  // namespace arbiter::cli
