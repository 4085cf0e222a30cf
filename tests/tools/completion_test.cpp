// Shell completion and the manual page: what the shells and troff make of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class Bash : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    const Outcome outcome = run_arbiter({"completion", "bash", "--output", scratch->file("arbiter.bash")});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  static void TearDownTestSuite() { scratch.reset(); }

  /// What bash offers when Tab is pressed behind these words.
  static std::vector<std::string> candidates(const std::vector<std::string>& words) {
    std::vector<std::string> arguments{"--norc",
                                       "-c",
                                       ("source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _arbiter; "
                                        "printf '%s\\n' \"${COMPREPLY[@]}\""),
                                       "bash",
                                       scratch->file("arbiter.bash"),
                                       "arbiter"};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const Outcome outcome = run_program("bash", arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    std::vector<std::string> lines;
    std::istringstream stream(outcome.out);
    for (std::string line; std::getline(stream, line);) {
      if (!line.empty()) lines.push_back(line);
    }
    return lines;
  }
  static bool offers(const std::vector<std::string>& words, const std::string& expected) {
    const std::vector<std::string> all = candidates(words);
    return std::find(all.begin(), all.end(), expected) != all.end();
  }
  using List = std::vector<std::string>;

  static std::unique_ptr<ScratchDirectory> scratch;
};

std::unique_ptr<ScratchDirectory> Bash::scratch;

TEST_F(Bash, CompletesCommands) {
  EXPECT_EQ(candidates({"sho"}), List{"show"});
  EXPECT_EQ(candidates({"help", "insp"}), List{"inspect"});
  EXPECT_TRUE(offers({""}, "report"));
  EXPECT_TRUE(offers({""}, "--version"));
}

TEST_F(Bash, CompletesTheOptionsOfTheCommand) {
  EXPECT_EQ(candidates({"show", "--plo"}), List{"--plot"});
  EXPECT_EQ(candidates({"merge", "--plo"}), List{});
  EXPECT_TRUE(offers({"show", "--db", "some.db", "--"}, "--json"));
  EXPECT_FALSE(offers({"tune", "--"}, "--worker")) << "how the program calls itself is nobody's business";
}

TEST_F(Bash, CompletesValues) {
  EXPECT_EQ(candidates({"show", "--dtype", "f"}), (List{"fp16", "fp32"}));
  EXPECT_EQ(candidates({"show", "--dtype", "bf16,fp3"}), List{"bf16,fp32"});
  EXPECT_EQ(candidates({"show", "--dtype", "=", "b"}), List{"bf16"});
  EXPECT_EQ(candidates({"show", "--dtype", "="}), (List{"bf16", "fp16", "fp32"}));
  EXPECT_EQ(candidates({"export", "--format", "v"}), List{"vllm"});
  EXPECT_EQ(candidates({"cache", "v"}), List{"verify"});
  EXPECT_EQ(candidates({"completion", "z"}), List{"zsh"});
  EXPECT_TRUE(offers({"tune", "--pattern", "allreduce_"}, "allreduce_residual_rmsnorm"));
  EXPECT_TRUE(offers({"tune", "--pattern", "allreduce,moe_f"}, "allreduce,moe_finalize_allreduce_residual_rmsnorm"));
  EXPECT_TRUE(offers({"render", "--algorithm", "trtllm/"}, "trtllm/oneshot_push"));
  EXPECT_TRUE(offers({"verify", "--area", ""}, "plain"));
  EXPECT_EQ(candidates({"tune", "--max-tokens", ""}), List{}) << "a number is wanted, not an option";
}

TEST_F(Bash, CompletesFiles) {
  const std::string start = scratch->file("arb");
  EXPECT_EQ(candidates({"show", "--db", start}), List{scratch->file("arbiter.bash")});
  EXPECT_EQ(candidates({"merge", start}), List{scratch->file("arbiter.bash")});
  EXPECT_EQ(candidates({"history", start}), List{scratch->file("arbiter.bash")}) << "the database";
  EXPECT_EQ(candidates({"doctor", start}), List{});
}

/// Every value that is offered is one that the program takes.
TEST_F(Bash, OffersOnlyWhatIsValid) {
  for (const std::string& name : candidates({"doctor", "--require", ""})) {
    EXPECT_NE(run_arbiter({"doctor", "--require", name}).exit_code, 2) << name;
  }
  for (const std::string& pattern : candidates({"render", "--pattern", ""})) {
    EXPECT_EQ(run_arbiter({"render", "--list", "--pattern", pattern}).exit_code, 0) << pattern;
  }
  for (const std::string& target : candidates({"render", "--target", ""})) {
    EXPECT_EQ(run_arbiter({"render", "--list", "--target", target}).exit_code, 0) << target;
  }
}

TEST(Completion, ASecondShellIsNamedOrRefused) {
  EXPECT_EQ(run_arbiter({"completion"}).exit_code, 2);
  const Outcome outcome = run_arbiter({"completion", "bsh"});
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_NE(outcome.err.find("did you mean 'bash'"), std::string::npos) << outcome.err;
}

TEST(Zsh, TheScriptLoads) {
  if (run_program("zsh", {"--version"}).exit_code != 0) GTEST_SKIP() << "no zsh: apt-get install zsh";
  const ScratchDirectory scratch;
  ASSERT_EQ(run_arbiter({"completion", "zsh", "--output", scratch.file("_arbiter")}).exit_code, 0);
  const Outcome syntax = run_program("zsh", {"-n", scratch.file("_arbiter")});
  EXPECT_EQ(syntax.exit_code, 0) << syntax.err;
  const Outcome sourced = run_program("zsh", {"-f", "-c",
                                              "autoload -Uz compinit; compinit -D -u; source " +
                                                  scratch.file("_arbiter") + "; print $_comps[arbiter]"});
  EXPECT_EQ(sourced.out, "_arbiter\n") << sourced.err;
  const Outcome found =
      run_program("zsh", {"-f", "-c",
                          "fpath=(" + scratch.path().string() +
                              " $fpath); autoload -Uz compinit; compinit -D -u; print $_comps[arbiter]"});
  EXPECT_EQ(found.out, "_arbiter\n") << found.err;
}

/// An interactive zsh on a terminal of its own, with a program `arbiter` that says how it was called.
TEST(Zsh, CompletesCommandsOptionsAndValues) {
  if (run_program("zsh", {"--version"}).exit_code != 0) GTEST_SKIP() << "no zsh: apt-get install zsh";
  const ScratchDirectory scratch;
  ASSERT_EQ(run_arbiter({"completion", "zsh", "--output", scratch.file("_arbiter")}).exit_code, 0);
  const std::string script =
      "zmodload zsh/zpty; zpty z zsh -f -i\n"
      "zpty -w z \"autoload -Uz compinit; compinit -D -u; source " +
      scratch.file("_arbiter") +
      "\"\n"
      "zpty -w z 'arbiter() { print -r -- \"CALLED:$*:\" }; print rea\"\"dy'; zpty -r z out '*ready*'\n"
      "zpty -w z $'arbiter cata\\t--ta\\tsm_90\\t--js\\t'; zpty -r z out '*CALLED:*:*'; print -r -- $out\n"
      "zpty -w z $'arbiter sho\\t--mo\\tea\\t'; zpty -r z out '*CALLED:*:*'; print -r -- $out\n";
  const Outcome outcome = run_program("timeout", {"30", "zsh", "-f", "-c", script});
  EXPECT_NE(outcome.out.find("CALLED:catalogue --target sm_90a --json:"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("CALLED:show --mode eager:"), std::string::npos) << outcome.out;
}

TEST(Manual, TroffHasNoComplaintAndEveryOptionIsThere) {
  const ScratchDirectory scratch;
  ASSERT_EQ(run_arbiter({"man", "--output", scratch.file("arbiter.1")}).exit_code, 0);
  EXPECT_EQ(run_arbiter({"man"}).out, read_text(scratch.file("arbiter.1")));
  if (run_program("groff", {"--version"}).exit_code != 0) GTEST_SKIP() << "no groff: apt-get install groff-base";
  const Outcome outcome =
      run_program("groff", {"-ww", "-man", "-Tascii", "-P-cbou", "-rLL=200n", scratch.file("arbiter.1")});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.err, "");
  for (const char* expected :
       {"ARBITER(1)", "arbiter show [DB] [options]", "--plot", "--pattern NAME", "ARBITER_TIMEOUT_MS", "EXIT STATUS",
        "arbiter tune --model llama-70b --tp 4,8 --db cluster.db", "`arbiter history`"}) {
    EXPECT_NE(outcome.out.find(expected), std::string::npos) << expected;
  }
}

}  // namespace
}  // namespace arbiter::testing
