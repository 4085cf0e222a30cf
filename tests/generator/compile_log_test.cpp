#include "compile/compile_log.hpp"

#include <gtest/gtest.h>

#include "compile/ptxas_log.hpp"

namespace arbiter {
namespace {

TEST(CompileLog, ShowsTheLinesItMentions) {
  const std::string source = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";
  EXPECT_EQ(explain_log("k.cu(2): error: bad\n", "k.cu", source),
            "k.cu(2): error: bad\nthe lines it complains about:\n     1 | one\n     2 | two\n     3 | three");
  EXPECT_EQ(explain_log("k.cpp:7:3: error\nk.cpp:1:1: note", "k.cpp", source),
            "k.cpp:7:3: error\nk.cpp:1:1: note\nthe lines it complains about:\n     1 | one\n     2 | two\n     ...\n"
            "     6 | six\n     7 | seven");
}

TEST(CompileLog, LogsWithoutLinesStayAsTheyAre) {
  EXPECT_EQ(explain_log("something else\n", "k.cu", "one"), "something else");
  EXPECT_EQ(explain_log("k.cu(99): error", "k.cu", "one"), "k.cu(99): error");
  EXPECT_EQ(explain_log("", "k.cu", ""), "");
}

TEST(CompileLog, LongLogsAreCut) {
  const std::string text = explain_log(std::string(100000, 'x'), "k.cu", "one");
  EXPECT_LT(text.size(), 9000u);
  EXPECT_NE(text.find("more bytes of log"), std::string::npos);
}

TEST(PtxasLog, ReadsTheRightFunction) {
  const char* log =
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'other' for 'sm_90a'\n"
      "ptxas         .     8 bytes stack frame, 1 bytes spill stores, 1 bytes spill loads\n"
      "ptxas info    : Used 11 registers, used 0 barriers\n"
      "ptxas info    : Compiling entry function 'kernel' for 'sm_90a'\n"
      "ptxas info    : Function properties for kernel\n"
      "ptxas         .     240 bytes stack frame, 400 bytes spill stores, 372 bytes spill loads\n"
      "ptxas info    : Used 128 registers, used 1 barriers, 240 bytes cumulative stack size, 1024 bytes smem\n";
  EXPECT_EQ(parse_ptxas_log(log, "kernel"), (KernelResources{128, 1024, 772, 240}));
  EXPECT_EQ(parse_ptxas_log(log, "other"), (KernelResources{11, 0, 2, 8}));
  EXPECT_EQ(parse_ptxas_log(log, "kern"), (KernelResources{-1, -1, -1, -1}));
  EXPECT_EQ(parse_ptxas_log("", "kernel"), KernelResources{});
}

}  // namespace
}  // namespace arbiter
