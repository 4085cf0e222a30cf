// merge, export, import, snapshot, history and forget, on databases made for the purpose.
#include <gtest/gtest.h>

#include <fstream>

#include "arbiter/db/contents.hpp"
#include "db/fixtures.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

/// A work database with one run: one-shot wins up to 8 tokens, another candidate above; times scaled by `factor`.
void make_database(const std::string& file, const std::string& run_id, double factor) {
  WorkDatabase database = WorkDatabase::open(file);
  const Environment environment = test::example_environment();
  Run run;
  run.id = run_id;
  run.host = "host-of-" + run_id;
  run.command = "arbiter tune";
  run.started = 1'700'000'000 + static_cast<std::int64_t>(100 * factor);
  run.sm_clock_start_mhz = run.sm_clock_end_mhz = 1980;
  run.power_start_watts = run.power_end_watts = 650;
  database.begin_run(environment, run);
  for (const std::int64_t tokens : {1, 8, 64}) {
    for (const int number : {0, 1}) {
      Trial trial = test::done_trial(tokens, number);
      const double us = factor * (tokens < 64 ? 2.0 + number : 9.0 - 4 * number);
      trial.samples_us.clear();
      for (int i = 0; i < 12; ++i) trial.samples_us.push_back(us * (1 + 0.001 * i));
      database.begin_trial(run_id, environment, trial.problem, trial.candidate);
      database.finish_trial(run_id, environment, trial);
    }
  }
  run.finished = run.started + 72;
  database.finish_run(run_id, run);
}

class Data : public ::testing::Test {
 protected:
  void SetUp() override {
    make_database(file("a.db"), "aaaa-1", 1.0);
    make_database(file("b.db"), "abbb-2", 2.0);
  }
  std::string file(const std::string& name) const { return scratch.file(name); }
  llvm::json::Value json(std::vector<std::string> arguments) const {
    arguments.emplace_back("--json");
    const Outcome outcome = run_arbiter(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return parse_object(outcome.out);
  }
  void expect_failure(const std::vector<std::string>& arguments, const std::string& expected) const {
    const Outcome outcome = run_arbiter(arguments);
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(expected), std::string::npos) << outcome.err;
  }

  ScratchDirectory scratch;
};

TEST_F(Data, MergeInEitherOrderGivesTheSameDecisions) {
  const llvm::json::Value report = json({"merge", "--db", file("ab.db"), file("a.db"), file("b.db")});
  expect_keys(&report, {"schema", "database", "added", "updated", "decisions"});
  expect_keys(member(report, "added"), {"environments", "runs", "problems", "candidates", "trials", "samples"});
  EXPECT_EQ(member(report, "added.runs")->getAsInteger(), 2);
  EXPECT_EQ(member(report, "added.trials")->getAsInteger(), 12);
  EXPECT_EQ(member(report, "decisions")->getAsInteger(), 2);
  ASSERT_EQ(run_arbiter({"merge", "--db", file("b.db"), file("a.db")}).exit_code, 0);
  EXPECT_EQ(read_contents(file("ab.db")), read_contents(file("b.db")));
  EXPECT_EQ(member(json({"merge", "--db", file("ab.db"), file("a.db")}), "added.trials")->getAsInteger(), 0);
  EXPECT_NE(run_arbiter({"merge", "--db", file("ab.db"), file("a.db")}).out.find("everything was there already"),
            std::string::npos);
}

TEST_F(Data, AMergeThatFailsChangesNothing) {
  const Contents before = read_contents(file("a.db"));
  std::ofstream(file("not.db")) << "this is not a database, but it is long enough to be looked at as one";
  expect_failure({"merge", "--db", file("a.db"), file("b.db"), file("not.db")}, "not.db");
  expect_failure({"merge", "--db", file("new.db"), file("b.db"), file("missing.db")}, "missing.db");
  EXPECT_EQ(read_contents(file("a.db")), before);
  EXPECT_FALSE(std::filesystem::exists(file("new.db")));
}

TEST_F(Data, ExportAndImport) {
  ASSERT_EQ(run_arbiter({"merge", "--db", file("a.db"), file("b.db")}).exit_code, 0);
  ASSERT_EQ(run_arbiter({"export", "--db", file("a.db"), "--output", file("a.jsonl")}).exit_code, 0);
  const std::string text = read_text(file("a.jsonl"));
  EXPECT_EQ(run_arbiter({"export", "--db", file("a.db")}).out, text);
  const llvm::json::Value report = json({"import", "--db", file("copy.db"), file("a.jsonl")});
  EXPECT_EQ(member(report, "added.runs")->getAsInteger(), 2);
  EXPECT_EQ(read_contents(file("copy.db")), read_contents(file("a.db")));
  EXPECT_EQ(run_arbiter({"export", "--db", file("copy.db")}).out, text);
  EXPECT_EQ(member(json({"import", "--db", file("b.db"), file("a.jsonl")}), "added.runs")->getAsInteger(), 1);
  EXPECT_EQ(read_contents(file("b.db")), read_contents(file("a.db")));

  std::ofstream(file("bad.jsonl")) << text.substr(0, text.size() / 2);
  expect_failure({"import", "--db", file("new.db"), file("bad.jsonl")}, "bad.jsonl' line ");
  EXPECT_FALSE(std::filesystem::exists(file("new.db")));
  expect_failure({"import", "--db", file("new.db"), file("none.jsonl")}, "none.jsonl");
  expect_failure({"export", "--db", file("a.db"), "--output", file("none/a.jsonl")}, "none/a.jsonl");
  expect_failure({"export", "--db", file("none.db")}, "none.db");
}

TEST_F(Data, ShowListsWhatNcclIsServed) {
  EXPECT_EQ(run_arbiter({"show", "--db", file("a.db")}).out.find("NCCL alone"), std::string::npos) << "nothing is";
  const auto nccl = [](const char* parameters) {
    return Candidate{Backend::nccl, "classic", std::string("nccl/classic") + parameters, Numerics::nccl, ""};
  };
  WorkDatabase::open(file("a.db"))
      .replace_nccl_choices(test::example_environment(),
                            {{2, 1, 65536, nccl(":channels=4"), 7.25, {}, 0},
                             {4, 1, 65536, nccl(""), 9.5, nccl(":algo=tree,channels=8,proto=ll"), 9.75},
                             {4, 65537, 1 << 20, nccl(":algo=ring,channels=1,proto=ll128"), 21, {}, 0}});
  ASSERT_EQ(run_arbiter({"snapshot", "--db", file("a.db"), file("s.db")}).exit_code, 0);
  for (const char* name : {"a.db", "s.db"}) {
    const Outcome table = run_arbiter({"show", "--db", file(name)}, {{"COLUMNS", "120"}});
    for (const char* part : {"libarbiter-nccl-tuner.so serves", "at most 4 channels", "as NCCL chooses ",
                             "tree, ll, at most 8 channels  9.75", "ring, ll128, at most 1 channel ", " 1048576  "}) {
      EXPECT_NE(table.out.find(part), std::string::npos) << part << " is not in:\n" << table.out;
    }
    const llvm::json::Value document = json({"show", "--db", file(name), "--world", "4"});
    EXPECT_EQ(member(document, "nccl_choices")->getAsArray()->size(), 2U);
    expect_keys(member(document, "nccl_choices[0]"), {"world", "nodes", "bytes_min", "bytes_max", "candidate",
                                                      "algorithm", "protocol", "channels", "median_us", "forced"});
    EXPECT_EQ(member(document, "nccl_choices[0].forced.channels")->getAsInteger(), 8);
    EXPECT_EQ(member(document, "nccl_choices[1].algorithm")->getAsString(), "ring");
    EXPECT_TRUE(member(document, "nccl_choices[1].forced")->getAsNull());
  }
  const llvm::json::Value fused = json({"show", "--db", file("a.db"), "--pattern", "allreduce_residual_rmsnorm"});
  EXPECT_TRUE(member(fused, "nccl_choices")->getAsArray()->empty()) << "they are of plain allreduce";
}

TEST_F(Data, ExportForPeopleAndEngines) {
  ASSERT_EQ(run_arbiter({"merge", "--db", file("a.db"), file("b.db")}).exit_code, 0);
  const std::map<std::string, std::string> starts{{"csv", "environment,gpu_name,"},
                                                  {"markdown", "## NVIDIA H200"},
                                                  {"header", "// Decisions of Arbiter for NVIDIA H200"},
                                                  {"vllm", "# NVIDIA H200, MiB"},
                                                  {"tensorrt-llm", "// NVIDIA H200."}};
  for (const auto& [format, start] : starts) {
    const Outcome outcome = run_arbiter({"export", "--db", file("a.db"), "--format", format});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_TRUE(outcome.out.starts_with(start)) << outcome.out;
    const bool engine = format == "vllm" || format == "tensorrt-llm";
    EXPECT_EQ(outcome.err.find("% at worst") != std::string::npos, engine) << outcome.err;
  }
  const Outcome told = run_arbiter({"export", "--db", file("a.db"), "--format", "csv", "--output", file("a.csv")});
  EXPECT_TRUE(told.out.starts_with(file("a.csv") + ": csv, ")) << told.out;
  const llvm::json::Value report =
      json({"export", "--db", file("a.db"), "--format", "vllm", "--output", file("vllm.py")});
  expect_keys(&report, {"schema", "format", "file", "bytes", "losses"});
  expect_keys(member(report, "losses[0]"), {"what", "mean_percent", "worst_percent", "points", "unmeasured"});
  expect_failure({"export", "--db", file("a.db"), "--format", "nccl"}, "'nccl', which needs");
  const Candidate ring{Backend::nccl, "classic", "nccl/classic:algo=ring,channels=8,proto=ll128", Numerics::nccl, ""};
  WorkDatabase::open(file("a.db")).replace_nccl_choices(test::example_environment(), {{4, 1, 9, ring, 7, ring, 7}});
  const Outcome nccl = run_arbiter({"export", "--db", file("a.db"), "--format", "nccl"});
  EXPECT_NE(nccl.out.find("symmetric kernels"), std::string::npos);
  EXPECT_TRUE(nccl.out.ends_with("\nallreduce,0,18446744073709551615,ring,ll128,8,1,4,-1,-1\n")) << nccl.out;
  EXPECT_NE(nccl.err.find("4 ranks: 1 rows: loses 0.0%"), std::string::npos) << nccl.err;
  EXPECT_EQ(read_text(file("vllm.py")), run_arbiter({"export", "--db", file("a.db"), "--format", "vllm"}).out);
  expect_failure({"export", "--db", file("a.db"), "--format", "sglang"}, "'sglang', which needs");
  WorkDatabase::open(file("a.db")).replace_decisions(test::other_environment(), test::example_decisions(2));
  const Outcome two = run_arbiter({"export", "--db", file("a.db"), "--format", "vllm"});
  EXPECT_EQ(two.exit_code, 2);
  EXPECT_NE(two.err.find("NVIDIA H100"), std::string::npos) << two.err;
  EXPECT_EQ(run_arbiter({"export", "--db", file("a.db"), "--format", "vllm", "--environment",
                         test::example_environment().key().substr(0, 12)})
                .exit_code,
            0);
}

TEST_F(Data, OutputThatCannotBeWrittenIsAFailure) {
  const std::string start = arbiter_program() + " ", source = " --db " + file("a.db") + " > /dev/full";
  for (const std::string command : {"export", "history", "history --json"}) {
    const Outcome outcome = run_program("sh", {"-c", start + command + source});
    EXPECT_EQ(outcome.exit_code, 1) << command;
    EXPECT_NE(outcome.err.find("standard output could not be written"), std::string::npos) << outcome.err;
  }
}

TEST_F(Data, OutputNeverReplacesADatabaseOrAnythingButAnOrdinaryFile) {
  namespace fs = std::filesystem;
  ASSERT_EQ(run_arbiter({"merge", "--db", file("a.db"), file("b.db")}).exit_code, 0);
  ASSERT_EQ(run_arbiter({"snapshot", "--db", file("a.db"), file("snapshot.db")}).exit_code, 0);
  std::ofstream(file("text")) << "as it was";
  fs::create_symlink(file("text"), file("link"));
  fs::create_symlink(file("nowhere"), file("dangling"));
  fs::create_directory(file("folder"));
  ASSERT_EQ(run_program("mkfifo", {file("pipe")}).exit_code, 0);
  const std::map<std::string, std::string> refused{
      {"a.db", "is a database"}, {"b.db", "is a database"},    {"snapshot.db", "is a database"}, {"link", "is a link"},
      {"dangling", "is a link"}, {"folder", "is a directory"}, {"pipe", "is not a regular file"}};
  std::map<std::string, std::string> before;
  for (const char* name : {"a.db", "b.db", "snapshot.db", "text"}) before[name] = read_text(file(name));
  for (const std::string command : {"report", "export"}) {
    for (const auto& [name, expected] : refused) {
      for (const char* option : {"--output", "-o"}) {
        SCOPED_TRACE(command + " " + option + " " + name);
        expect_failure({command, "--db", file("a.db"), option, file(name)}, expected);
      }
    }
  }
  expect_failure({"man", "-o", file("b.db")}, "is a database");
  expect_failure({"completion", "bash", "-o", file("b.db")}, "is a database");
  for (const auto& [name, bytes] : before) EXPECT_EQ(read_text(file(name)), bytes) << name;
  EXPECT_TRUE(fs::is_symlink(file("link")));
  EXPECT_TRUE(fs::is_fifo(file("pipe")));
  EXPECT_FALSE(fs::exists(file("nowhere")));

  const Outcome written = run_arbiter({"export", "--db", file("a.db"), "-o", file("text")});
  EXPECT_EQ(written.exit_code, 0) << written.err;
  EXPECT_EQ(read_text(file("text")), run_arbiter({"export", "--db", file("a.db")}).out);
  for (const auto& entry : fs::directory_iterator(scratch.path())) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
}

TEST_F(Data, DiffNamesWhatChanged) {
  for (const char* name : {"a.db", "b.db"}) {
    ASSERT_EQ(run_arbiter({"merge", "--db", file(name), file(name)}).exit_code, 0);
  }
  EXPECT_NE(run_arbiter({"diff", file("a.db"), file("b.db")}).out.find(": 0 changes"), std::string::npos);
  {
    WorkDatabase database = WorkDatabase::open(file("b.db"));
    std::vector<Decision> decisions = database.decisions().front().decisions;
    std::swap(decisions.front().candidate, decisions.back().candidate);
    database.replace_decisions(test::example_environment(), decisions);
  }
  const llvm::json::Value report = json({"diff", file("a.db"), file("b.db")});
  ASSERT_EQ(member(report, "environments[0].changes")->getAsArray()->size(), 2U);
  expect_keys(member(report, "environments[0].changes[0]"),
              {"mode", "world", "dtype", "pattern", "hidden", "tokens_min", "tokens_max", "before", "after"});
  EXPECT_EQ(member(report, "environments[0].changes[0].tokens")->getAsInteger(), 8);
  EXPECT_GT(*member(report, "environments[0].changes[0].after_us")->getAsNumber(),
            *member(report, "environments[0].changes[0].before_us")->getAsNumber());
  const Outcome table = run_arbiter({"diff", file("a.db"), file("b.db")});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_NE(table.out.find("+50.0%"), std::string::npos) << table.out;
  expect_failure({"diff", file("a.db"), file("none.db")}, "none.db");

  // Narrowed like `show`.
  const llvm::json::Object& change = *member(report, "environments[0].changes[0]")->getAsObject();
  const llvm::json::Value same =
      json({"diff", file("a.db"), file("b.db"), "--world", std::to_string(*change.getInteger("world")), "--pattern",
            change.getString("pattern")->str(), "--mode", change.getString("mode")->str()});
  EXPECT_GE(member(same, "environments[0].changes")->getAsArray()->size(), 1U);
  const Outcome other = run_arbiter({"diff", file("a.db"), file("b.db"), "--world", "64"});
  EXPECT_EQ(other.exit_code, 0);
  EXPECT_NE(other.out.find(": 0 changes"), std::string::npos) << other.out;
  EXPECT_NE(other.err.find("nothing matches. There are decisions for pattern: "), std::string::npos) << other.err;
}

TEST_F(Data, Snapshot) {
  ASSERT_EQ(run_arbiter({"merge", "--db", file("a.db"), file("b.db")}).exit_code, 0);
  const llvm::json::Value report = json({"snapshot", "--db", file("a.db"), file("snapshot.db")});
  expect_keys(&report, {"schema", "snapshot", "bytes", "environments", "decisions", "kernels"});
  EXPECT_EQ(member(report, "decisions")->getAsInteger(), 2);
  EXPECT_EQ(read_decisions(file("snapshot.db")), read_decisions(file("a.db")));
  const std::string bytes = read_text(file("snapshot.db"));
  WorkDatabase::open(file("a.db")).write_snapshot(file("other.db"));
  EXPECT_EQ(read_text(file("other.db")), bytes);
  expect_failure({"snapshot", "--db", file("a.db"), file("a.db")}, "replace the database itself");
  expect_failure({"snapshot", "--db", file("a.db"), file("b.db")}, "work database");
  expect_failure({"merge", "--db", file("a.db"), file("snapshot.db")}, "it is a snapshot");
}

TEST_F(Data, WhatDroppedDuringARunIsSaid) {
  const auto finish = [&](const std::string& name, int clock_end, int watts_end, bool clocks_dropped) {
    WorkDatabase database = WorkDatabase::open(file(name));
    arbiter::Run run = database.runs().front();
    run.sm_clock_end_mhz = clock_end;
    run.power_end_watts = watts_end;
    run.clocks_dropped = clocks_dropped;
    database.finish_run(run.id, run);
  };
  EXPECT_NE(run_arbiter({"history", "--db", file("a.db")}).out.find("steady"), std::string::npos);
  finish("a.db", 1980, 300, false);
  finish("b.db", 1200, 690, true);
  ASSERT_EQ(run_arbiter({"merge", "--db", file("ab.db"), file("a.db"), file("b.db")}).exit_code, 0);
  const llvm::json::Value history = json({"history", "--db", file("ab.db")});
  EXPECT_EQ(member(history, "runs[0].power_dropped")->getAsBoolean(), true);
  EXPECT_EQ(member(history, "runs[0].clocks_dropped")->getAsBoolean(), false);
  EXPECT_EQ(member(history, "runs[1].power_dropped")->getAsBoolean(), false);
  EXPECT_EQ(member(history, "runs[1].clocks_dropped")->getAsBoolean(), true);
  const std::string table = run_arbiter({"history", "--db", file("ab.db")}, {{"COLUMNS", "120"}}).out;
  for (const auto& [name, what] : {std::pair("a.db", "power dropped"), std::pair("b.db", "clocks dropped")}) {
    EXPECT_NE(table.find(what), std::string::npos) << table;
    const std::string inspected = run_arbiter({"inspect", "--db", file(name), "--tokens", "8"}).out;
    EXPECT_NE(inspected.find(std::string("; ") + what + " during it"), std::string::npos) << inspected;
  }
}

TEST_F(Data, HistoryAndForget) {
  ASSERT_EQ(run_arbiter({"merge", "--db", file("ab.db"), file("b.db"), file("a.db")}).exit_code, 0);
  const llvm::json::Value history = json({"history", "--db", file("ab.db")});
  ASSERT_EQ(member(history, "runs")->getAsArray()->size(), 2U);
  expect_keys(member(history, "runs[0]"), {"id", "environment", "gpu_name", "host", "command", "started", "finished",
                                           "trials", "done", "samples", "clocks_dropped"});
  EXPECT_EQ(member(history, "runs[0].id")->getAsString(), "aaaa-1");
  EXPECT_EQ(member(history, "runs[1].host")->getAsString(), "host-of-abbb-2");
  EXPECT_EQ(member(history, "runs[1].samples")->getAsInteger(), 72);
  const std::string table = run_arbiter({"history", "--db", file("ab.db")}).out;
  EXPECT_NE(table.find("2023-11-14 22:15"), std::string::npos) << table;
  EXPECT_NE(table.find("1 min 12 s"), std::string::npos) << table;

  EXPECT_EQ(run_arbiter({"forget", "--db", file("ab.db"), "a"}).exit_code, 2) << "two runs start with a";
  EXPECT_EQ(run_arbiter({"forget", "--db", file("ab.db"), "x"}).exit_code, 2);
  const llvm::json::Value report = json({"forget", "--db", file("ab.db"), "ab"});
  EXPECT_EQ(member(report, "run")->getAsString(), "abbb-2");
  EXPECT_EQ(member(report, "trials")->getAsInteger(), 6);
  ASSERT_EQ(run_arbiter({"merge", "--db", file("alone.db"), file("a.db")}).exit_code, 0);
  EXPECT_EQ(read_contents(file("ab.db")), read_contents(file("alone.db")));
  ASSERT_EQ(run_arbiter({"forget", "--db", file("ab.db"), "aaaa-1"}).exit_code, 0);
  EXPECT_TRUE(read_contents(file("ab.db")).empty());
  EXPECT_NE(run_arbiter({"history", "--db", file("ab.db")}).out.find("no runs"), std::string::npos);
}

}  // namespace
}  // namespace arbiter::testing
