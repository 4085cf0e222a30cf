// Files that were made to do harm, given to the commands that people run.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <regex>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/kernels.hpp"
#include "db/fixtures.hpp"
#include "db/hostile.hpp"
#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

class Hostile : public ::testing::Test {
 protected:
  std::string file(const std::string& name) const { return scratch.file(name); }
  /// Ends, and by itself.
  static Outcome ends(const std::vector<std::string>& arguments) {
    std::vector<std::string> words{"60", arbiter_program()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    Outcome outcome = run_program("timeout", words);
    EXPECT_NE(outcome.exit_code, 124) << arguments.front() << " hung";
    EXPECT_LT(outcome.exit_code, 124) << arguments.front() << ": " << outcome.err;
    return outcome;
  }

  ScratchDirectory scratch;
};

TEST_F(Hostile, EveryReadingCommandSaysThatKernelsAreNotLoaded) {
  StoredKernel kernel{std::string(64, 'a'), "trtllm/oneshot_push rank=0", std::string(64, 'b'), {}};
  kernel.kernel = {".version 9.0\n", "arbiter_kernel", "compute_121", {}};
  write_snapshot(file("k.db"), {{test::example_environment(), test::example_decisions(2)}}, {kernel});
  const std::string expected =
      "carries 1 compiled kernel, made on " + test::example_environment().gpu_name + ", not loaded";
  const std::vector<std::vector<std::string>> commands = {{"show", "--db", file("k.db")},
                                                          {"show", "--db", file("k.db"), "--json"},
                                                          {"history", "--db", file("k.db")},
                                                          {"export", "--db", file("k.db")},
                                                          {"diff", file("k.db"), file("k.db")},
                                                          {"report", "--db", file("k.db"), "--output", file("r.html")},
                                                          {"snapshot", "--db", file("k.db"), file("other.db")}};
  for (const auto& command : commands) {
    const Outcome outcome = ends(command);
    EXPECT_EQ(outcome.exit_code, 0) << command.front() << ": " << outcome.err;
    EXPECT_NE(outcome.err.find(expected), std::string::npos) << command.front() << ": " << outcome.err;
    EXPECT_EQ(outcome.out.find(expected), std::string::npos) << command.front();
  }
  write_snapshot(file("none.db"), {{test::example_environment(), test::example_decisions(2)}});
  EXPECT_EQ(ends({"show", "--db", file("none.db")}).err, "");
}

TEST_F(Hostile, NamesOfFilesCannotSteerTheTerminal) {
  const std::string name = file("evil\x1b]0;owned\x07.db");
  std::ofstream(name) << "no database at all, but long enough to be looked at as one";
  for (const char* command : {"show", "history", "export"}) {
    const Outcome outcome = ends({command, "--db", name});
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ((outcome.out + outcome.err).find('\x1b'), std::string::npos);
    EXPECT_NE(outcome.err.find("\\x1b]0;owned\\x07"), std::string::npos) << outcome.err;
  }
}

TEST_F(Hostile, PipesAndDevicesInThePlaceOfDatabasesDoNotHang) {
  ASSERT_EQ(mkfifo(file("pipe.db").c_str(), 0600), 0);
  for (const std::string& database : {file("pipe.db"), std::string("/dev/zero"), std::string("/dev/tty")}) {
    for (const char* command : {"show", "history", "export", "report"})
      EXPECT_EQ(ends({command, "--db", database, "--output", file("out")}).exit_code != 0, true) << database;
  }
}

/// Pages that read as more rows than could ever be read, and JSON nested so deep that a reader that recurs runs out of
/// stack: given to everything that opens a database.
TEST_F(Hostile, DatabasesMadeToHangOrCrashDoNeither) {
  const std::string good = file("good.db");
  write_snapshot(good, {{test::example_environment(), test::example_decisions(4)}});
  std::ofstream(file("tangled.db"), std::ios::binary) << test::with_shared_pages(good, "decision");
  test::write_with_json(good, file("deep.db"), "{\"a\":" + std::string(100'000, '['));
  const std::vector<std::string> cpu{"--device", "cpu", "--ranks", "2", "--pattern", "allreduce", "--hidden", "64"};
  const auto with_cpu = [&](std::vector<std::string> words) {
    words.insert(words.end(), cpu.begin(), cpu.end());
    return words;
  };
  for (const std::string& evil : {file("tangled.db"), file("deep.db")}) {
    const std::vector<std::vector<std::string>> commands = {
        {"show", "--db", evil},
        {"show", "--db", evil, "--json"},
        {"inspect", "--db", evil, "--pattern", "allreduce", "--world", "2", "--hidden", "64", "--tokens", "1"},
        {"report", "--db", evil, "--output", file("page.html")},
        {"history", "--db", evil},
        {"export", "--db", evil},
        {"export", "--db", evil, "--format", "vllm"},
        {"diff", evil, good},
        {"merge", "--db", file("merged.db"), evil},
        {"import", "--db", file("imported.db"), evil},
        {"snapshot", "--db", evil, file("other.db")},
        {"forget", "--db", evil, "1"},
        with_cpu({"tune", "--db", evil, "--tokens", "1"}),
        with_cpu({"tune", "--db", evil, "--tokens", "1", "--dry-run"})};
    for (const std::vector<std::string>& command : commands) {
      const Outcome outcome = ends(command);
      if (command.size() > 5 && command[5] == "--dry-run") continue;  // looks at no database
      EXPECT_NE(outcome.exit_code, 0) << command.front() << " of " << evil;
      EXPECT_FALSE(outcome.err.empty()) << command.front() << " of " << evil;
    }
    // What decides without it as well says so, and goes on.
    const Outcome benched = ends(with_cpu({"bench", "--db", evil, "--tokens", "1"}));
    EXPECT_FALSE(benched.err.empty());
    EXPECT_EQ(run_arbiter({"doctor"}, {{"ARBITER_DB", evil}}).exit_code, 0);
  }
  std::ofstream(file("deep.jsonl")) << "{\"type\":\"header\",\"schema\":2}\n" << std::string(100'000, '[') << "\n";
  EXPECT_EQ(ends({"import", "--db", file("imported.db"), file("deep.jsonl")}).exit_code, 1);
}

/// As many tokens as there are numbers: every sum and product of them would overflow.
TEST_F(Hostile, TheLargestNumberOfTokensIsANumber) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const Environment environment = test::example_environment();
  for (const char* name : {"evil.db", "good.db"}) {
    WorkDatabase work = WorkDatabase::open(file(name));
    const std::string run = work.begin_run(environment, {});
    for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
      for (const std::int64_t tokens : {std::int64_t{1}, std::int64_t{64}, *name == 'e' ? most : 4096}) {
        Trial trial = test::done_trial(tokens);
        trial.problem.pattern = pattern;
        trial.problem.world = 2;
        work.begin_trial(run, environment, trial.problem, trial.candidate);
        work.finish_trial(run, environment, trial);
      }
    }
    std::vector<Decision> decisions = test::example_decisions(2);
    for (Decision& decision : decisions) decision.tokens_max = *name == 'e' ? most : 4096;
    work.replace_decisions(environment, decisions);
    work.finish_run(run, {});
  }
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"show", "--db", file("evil.db")},
           {"show", "--db", file("evil.db"), "--json"},
           {"show", "--db", file("evil.db"), "--plot"},
           {"history", "--db", file("evil.db")},
           {"report", "--db", file("evil.db"), "--output", file("page.html")},
           {"diff", file("evil.db"), file("good.db")},
           {"snapshot", "--db", file("evil.db"), file("snapshot.db")},
           {"export", "--db", file("evil.db"), "--format", "csv"},
           {"export", "--db", file("evil.db"), "--format", "markdown"},
           {"export", "--db", file("evil.db"), "--format", "header"},
           {"export", "--db", file("evil.db"), "--format", "vllm"},
           {"export", "--db", file("evil.db"), "--format", "sglang"},
           {"inspect", "--db", file("evil.db"), "allreduce bf16 hidden=8192 tokens=64 world=2 graph"}}) {
    const Outcome outcome = ends(command);
    EXPECT_EQ(outcome.exit_code, 0) << command.front() << ": " << outcome.err;
  }
}

/// Times that no clock gives and dates that no calendar has.
TEST_F(Hostile, ExtremeTimesAndDatesAreShown) {
  ExampleShape shape;
  shape.worlds = {2};
  shape.hiddens = {8192};
  shape.tokens = {1, 64, 4096};
  make_example_database(file("good.db"), shape);
  ASSERT_EQ(run_arbiter({"export", "--db", file("good.db"), "--output", file("good.jsonl")}).exit_code, 0);
  std::string text = read_text(file("good.jsonl"));
  text = std::regex_replace(text, std::regex("\"started\":-?[0-9]+"), "\"started\":9223372036854775807");
  text = std::regex_replace(text, std::regex("\"finished\":-?[0-9]+"), "\"finished\":-9223372036854775808");
  for (const char* microseconds : {"0", "5e-324", "1.7e308"}) {
    const std::string database = file(std::string("evil-") + microseconds + ".db");
    const std::string samples = std::string("\"samples_us\":[") + microseconds + "," + microseconds + "]";
    std::ofstream(file("evil.jsonl")) << std::regex_replace(text, std::regex("\"samples_us\":\\[[^\\]]+\\]"), samples);
    const Outcome imported = ends({"import", "--db", database, file("evil.jsonl")});
    ASSERT_EQ(imported.exit_code, 0) << imported.err;
    for (const std::vector<std::string>& command :
         std::vector<std::vector<std::string>>{{"show", "--db", database},
                                               {"show", "--db", database, "--plot"},
                                               {"history", "--db", database},
                                               {"report", "--db", database, "--output", file("page.html")},
                                               {"diff", database, file("good.db")},
                                               {"export", "--db", database, "--format", "csv"},
                                               {"export", "--db", database, "--format", "markdown"},
                                               {"export", "--db", database, "--format", "sglang"},
                                               {"inspect", "--db", database, "--pattern", "allreduce", "--world", "2",
                                                "--hidden", "8192", "--tokens", "64"}}) {
      const Outcome outcome = ends(command);
      EXPECT_EQ(outcome.exit_code, 0) << command.front() << " of " << microseconds << ": " << outcome.err;
    }
    // A page that never finishes drawing is killed by its time limit.
    if (run_program("chromium", {"--version"}).exit_code != 0) continue;
    const Outcome page =
        run_program("timeout", {"60", "chromium", "--headless", "--no-sandbox", "--disable-gpu",
                                "--disable-dev-shm-usage", "--user-data-dir=" + file("browser"),
                                "--enable-logging=stderr", "--dump-dom", "file://" + file("page.html")});
    EXPECT_EQ(page.exit_code, 0) << "the report of " << microseconds << " us hangs";
    EXPECT_EQ(page.err.find("CONSOLE"), std::string::npos) << page.err;
  }
}

/// RLIMIT_FSIZE, as a batch system may set it.
TEST_F(Hostile, AFileThatMayNotGrowIsAnError) {
  make_example_database(file("good.db"));
  const std::string shell = "ulimit -f 8; exec \"$0\" \"$@\"";
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"export", "--db", file("good.db"), "--output", file("out.jsonl")},
                                             {"report", "--db", file("good.db"), "--output", file("out.html")},
                                             {"snapshot", "--db", file("good.db"), file("out.db")},
                                             {"merge", "--db", file("merged.db"), file("good.db")}}) {
    std::vector<std::string> words{"-c", shell, arbiter_program()};
    words.insert(words.end(), command.begin(), command.end());
    const Outcome outcome = run_program("bash", words);
    EXPECT_EQ(outcome.exit_code, 1) << command.front() << ": " << outcome.err;
    EXPECT_FALSE(outcome.err.empty()) << command.front();
    EXPECT_FALSE(std::filesystem::exists(command[3] == "--output" ? command.back() : file("out.db")));
  }
}

/// A program that `arbiter run` starts has the signal as this one had it.
TEST_F(Hostile, ProgramsThatAreRunKeepTheirSignals) {
  const Outcome outcome = run_arbiter({"run", "--", "sh", "-c", "kill -XFSZ $$; echo alive"});
  EXPECT_EQ(outcome.out.find("alive"), std::string::npos);
}

}  // namespace
}  // namespace arbiter::testing
