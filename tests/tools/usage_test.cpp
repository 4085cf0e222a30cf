// Wrong usage is refused with exit status 2, a message that says what was wrong and what is valid, and no output.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

struct Case {
  std::vector<std::string> arguments;
  std::vector<std::string> expected;  ///< all of these are in the message
};

void PrintTo(const Case& wrong, std::ostream* stream) {
  for (const std::string& argument : wrong.arguments) *stream << argument << ' ';
}

class Usage : public ::testing::TestWithParam<Case> {};

TEST_P(Usage, IsRefused) {
  const Outcome outcome = run_arbiter(GetParam().arguments);
  EXPECT_EQ(outcome.exit_code, 2) << outcome.err;
  const std::vector<std::string>& typed = GetParam().arguments;
  if (std::find(typed.begin(), typed.end(), "--json") == typed.end()) {
    EXPECT_EQ(outcome.out, "");
  } else {
    EXPECT_EQ(member(parse_object(outcome.out), "error.exit_status")->getAsInteger(), 2);
  }
  for (const std::string& expected : GetParam().expected) {
    EXPECT_NE(outcome.err.find(expected), std::string::npos) << "expected '" << expected << "' in: " << outcome.err;
  }
  EXPECT_NE(outcome.err.find("--help"), std::string::npos) << outcome.err;
}

const Case cases[] = {
    {{"shwo"}, {"unknown command 'shwo'", "did you mean 'show'?"}},
    {{"help", "tuen"}, {"unknown command 'tuen'", "'tune'"}},
    {{"show", "--jsno"}, {"unknown option '--jsno'", "'--json'"}},
    {{"show", "--js"}, {"unknown option '--js'"}},  // no abbreviations
    {{"show", "one.db", "extra"}, {"unexpected 'extra'"}},
    {{"show", "one.db", "--db", "two.db"}, {"named twice", "one.db", "two.db"}},
    {{"inspect", "one.db", "--db", "two.db", "allreduce"}, {"named twice", "one.db", "two.db"}},
    {{"tune", "--device", "cpu", "--model", "lama-70b"}, {"'lama-70b'", "'llama-70b'", "--hidden"}},
    {{"tune", "--device", "cpu", "--tp", "2", "--world", "2"}, {"--world", "--tp"}},
    {{"render", "--variant", "trtllm/oneshot_push:threads=257"}, {"no variant matches"}},
    {{"render", "--variant", "trtllm/oneshot_push:threads=256,,vectors=1"}, {"commas"}},
    {{"show", "--db"}, {"db"}},
    {{"show", "--db", ""}, {"--db"}},
    {{"show", "--db", "a", "--db", "b"}, {"--db", "2 times"}},
    {{"show", "--world", "2x"}, {"--world '2x'", "whole number"}},
    {{"show", "--world", "2,,4"}, {"'2,,4'", "commas"}},
    {{"show", "--world", "4-2"}, {"'4-2'", "low to high"}},
    {{"show", "--world", "0"}, {"'0'", "from 1"}},
    {{"show", "--pattern", "alreduce"}, {"'alreduce'", "'allreduce'"}},
    {{"show", "--dtype", "bf61"}, {"'bf61'", "'bf16'"}},
    {{"show", "--device", "gpu"}, {"'gpu'", "cuda"}},
    {{"doctor", "--verbose"}, {"unknown option"}},
    {{"doctor", "extra"}, {"unexpected 'extra'"}},
    {{"doctor", "--require", "cdua"}, {"'cdua'", "'cuda'"}},
    {{"cache", "lsit"}, {"unknown action 'lsit'", "'list'"}},
    {{"cache", "list", "verify"}, {"unexpected 'verify'"}},
    {{"render", "--variant", "nonsense"}, {"no variant matches", "--list"}},
    {{"render", "--algorithm", "oneshotpush"}, {"'oneshotpush'", "oneshot_push"}},
    {{"render", "--algorithm", "oneshot_push"}, {"variants match", "--variant"}},
    {{"render", "--world", "17"}, {"--world '17'", "16"}},
    {{"render", "--world", "1"}, {"--world '1'", "from 2"}},
    {{"render", "--hidden", "-8"}, {"hidden"}},
    {{"render", "--rank", "1.5"}, {"'1.5'"}},
    {{"render", "--dialect", "cdua"}, {"'cdua'", "'cuda'"}},
    {{"render", "--json"}, {"--list"}},
    {{"compile"}, {"--all"}},
    {{"merge"}, {"no SOURCE"}},
    {{"diff", "one.db"}, {"BEFORE and AFTER"}},
    {{"import"}, {"no FILE"}},
    {{"import", "a", "b"}, {"unexpected 'b'"}},
    {{"export", "one.db", "extra"}, {"unexpected 'extra'"}},
    {{"export", "--json"}, {"--json", "--output"}},
    {{"export", "--format", "vlm"}, {"'vlm'", "'vllm'"}},
    {{"export", "--environment", "0"}, {"--environment", "everything"}},
    {{"snapshot"}, {"no FILE"}},
    {{"forget"}, {"no RUN"}},
    {{"compile", "--all", "--target", "sm_90b"}, {"'sm_90b'", "sm_90a"}},
    {{"compile", "--all", "--target", "compute_9x"}, {"9x"}},
    {{"compile", "--all", "--dtype", "fp8"}, {"'fp8'", "fp16"}},
    {{"tune", "--device", "gpu"}, {"unknown device 'gpu'"}},
    {{"tune", "--device", "cpu", "--gpus", "0"}, {"--gpus", "cuda"}},
    {{"tune", "--device", "cpu", "--ranks", "2 "}, {"'2 '"}},
    {{"tune", "--device", "cpu", "--ranks", "0"}, {"'0'"}},
    {{"tune", "--device", "cpu", "--ranks", "17"}, {"'17'", "16"}},
    {{"tune", "--device", "cpu", "--ranks", "2", "--world", "2"}, {"--world", "--ranks"}},
    {{"tune", "--device", "cpu", "--budget", "10q"}, {"'10q'", "90s"}},
    {{"tune", "--device", "cpu", "--budget", "0s"}, {"'0s'"}},
    {{"tune", "--device", "cpu", "--budget", "-1"}, {"budget"}},
    {{"tune", "--device", "cpu", "--max-tokens", "1e3"}, {"'1e3'"}},
    {{"tune", "--device", "cpu", "--max-tokens", "99999999999999999999"}, {"99999999999999999999"}},
    {{"tune", "--device", "cpu", "--mode", "lazy"}, {"'lazy'", "graph"}},
    {{"tune", "--device", "cpu", "--pattern", "rmsnorm"}, {"'rmsnorm'"}},
    {{"tune", "--device", "cpu", "--hidden", "1001"}, {"1001", "multiple"}},
    {{"tune", "--device", "cpu", "--pattern", "allreduce,allreduce_fp8_group48_fp32", "--hidden", "512"},
     {"arbiter: 'fp8_group48_fp32'", "rows of 512", "multiple of the group"}},
    {{"bench", "--device", "cpu", "--pattern", "allreduce_nvfp4_128x4", "--dtype", "bf16,fp32"},
     {"fp32 rows of 1024", "bf16 and fp16 only", "Leave this combination out"}},
    {{"tune", "--device", "cpu", "--worker"}, {"--worker"}},
    {{"bench", "--device", "cpu", "--tokens", "1,two"}, {"'two'"}},
    {{"bench", "--device", "cpu", "--tokens", "0"}, {"'0'"}},
    {{"bench", "--device", "cpu", "--against", "ncll"}, {"'ncll'", "nccl"}},
    {{"verify", "--device", "cpu", "--area", "plian"}, {"'plian'", "'plain'"}},
    {{"verify", "--link-seeds", "10"}, {"--device cpu"}},
    {{"verify", "--device", "cpu", "--link-seeds", "0"}, {"--link-seeds", "0"}},
    {{"verify", "--device", "cpu", "--link-seeds", "20-10"}, {"20-10", "behind"}},
    {{"verify", "--device", "cpu", "--link-seeds", "10", "--full"}, {"--link-seeds", "--full"}},
    {{"verify", "--device", "cpu", "--link-seeds", "10", "--algorithm", "oneshot_pusch"},
     {"oneshot_pusch", "oneshot_push"}},
};

INSTANTIATE_TEST_SUITE_P(Wrong, Usage, ::testing::ValuesIn(cases), [](const auto& test) {
  std::string name = std::to_string(test.index);
  for (const std::string& argument : test.param.arguments) {
    name += '_';
    for (const char c : argument) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? std::string(1, c) : "";
  }
  return name;
});

}  // namespace
}  // namespace arbiter::testing
