// Every export is read back by the program that would read it: Python, a CSV reader, a C++ compiler.
#include "arbiter/db/export.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>

#include "arbiter/db/json.hpp"
#include "arbiter/db/nccl_configuration.hpp"
#include "db/fixtures.hpp"
#include "exports/curves.hpp"

namespace arbiter::test {
namespace {

using db::BandFit;
using db::BandPoint;

/// What a command prints; fails the test unless it succeeds.
std::string output_of(const std::string& command) {
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) {
    ADD_FAILURE() << "cannot run " << command;
    return {};
  }
  std::string text;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) text += static_cast<char>(c);
  EXPECT_EQ(::pclose(pipe), 0) << command << "\n" << text;
  return text;
}

/// Runs a program in which `text` is what was exported.
std::string python(const ScratchDirectory& scratch, const std::string& exported, const std::string& program) {
  write_file(scratch / "exported", exported);
  write_file(scratch / "program.py", "import ast, csv, io\ntext = open('" + (scratch / "exported").string() +
                                         "', newline='').read()\n" + program);
  return output_of("python3 '" + (scratch / "program.py").string() + "'");
}

Candidate named(Backend backend, const std::string& algorithm, const std::string& more = "") {
  const std::string name = std::string(to_string(backend)) + "/" + algorithm + more;
  return {backend, algorithm, name, backend == Backend::nccl ? Numerics::nccl : Numerics::rank_order_fp32,
          backend == Backend::nccl ? "" : "feed"};
}

const Candidate one_shot = named(Backend::trtllm, "oneshot_push", ":threads=256");
const Candidate pulled = named(Backend::custom, "twoshot_pull", ":threads=512");
const Candidate nccl = named(Backend::nccl, "classic");
const Candidate unfused = named(Backend::nccl, "classic", "+epilogue:threads=512");

struct Time {
  const char* pattern;
  std::int64_t tokens;
  Candidate candidate;
  double us;
};

/// Measured on 4 ranks with rows of 16 KiB.
Contents measured(const ScratchDirectory& scratch, const std::vector<Time>& times) {
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  const std::string run = database.begin_run(example_environment(), {});
  for (const Time& time : times) {
    Trial trial = done_trial(time.tokens);
    trial.problem.pattern = time.pattern;
    trial.candidate = time.candidate;
    trial.samples_us = {time.us, time.us, time.us * 2};
    database.begin_trial(run, example_environment(), trial.problem, trial.candidate);
    database.finish_trial(run, example_environment(), trial);
  }
  return database.contents();
}

std::vector<DecisionSet> awkward_sets() {
  DecisionSet set{example_environment(), example_decisions(5)};
  set.environment.gpu_name = "GPU, \"quoted\" | \\\n*/ #error \?\?/";
  set.decisions[0].candidate.name = "a,\"b\"\\ | 1?";
  return {set};
}

TEST(ExportCsv, IsReadByACsvReader) {
  const ScratchDirectory scratch;
  const std::vector<DecisionSet> sets = awkward_sets();
  const std::string read =
      python(scratch, decisions_csv(sets),
             "rows = list(csv.DictReader(io.StringIO(text), strict=True))\n"
             "assert all(None not in row and None not in row.values() for row in rows)\n"
             "assert rows[0]['gpu_name'] == 'GPU, \"quoted\" | \\\\\\\\x0a*/ #error \?\?/', rows[0]\n"
             "assert rows[0]['candidate'] == 'a,\"b\"\\\\ | 1?'\n"
             "assert float(rows[0]['median_us']) == 2.3 and int(rows[0]['tokens_max']) == 100\n"
             "assert rows[0]['runner_up'] == 'nccl/classic'\n"
             "assert [rows[0][n] for n in ('measured_tokens', 'registers', 'spill_bytes')] == ['64', '40', '0']\n"
             "assert rows[0]['runner_up_registers'] == '', 'not recorded'\n"
             "print(len(rows))\n");
  EXPECT_EQ(read, "5\n");
}

TEST(ExportCsv, NoCellIsAFormula) {
  for (const char* formula : {"=HYPERLINK(\"http://x\")", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"}) {
    std::vector<DecisionSet> sets = {{example_environment(), example_decisions(1)}};
    sets[0].environment.gpu_name = formula;
    const std::string text = decisions_csv(sets);
    const std::size_t row = text.find('\n') + 1;
    const std::string cell = text.substr(text.find(',', row) + 1);
    EXPECT_TRUE(cell.starts_with("'") || cell.starts_with("\"'")) << cell;
  }
}

TEST(ExportExtremes, TimesAndSizesOfAnyKindHaveAText) {
  DecisionSet set{example_environment(), example_decisions(3)};
  const double times[] = {0, 5e-324, 1.7e308};
  for (std::size_t i = 0; i < 3; ++i) set.decisions[i].median_us = times[i];
  set.decisions.back().tokens_max = std::numeric_limits<std::int64_t>::max();
  EXPECT_CONTAINS(decisions_csv({set}), "9223372036854775807,");
  EXPECT_CONTAINS(decisions_csv({set}), "5e-324");
  const std::string markdown = decisions_markdown({set});
  EXPECT_CONTAINS(markdown, "0.00");
  EXPECT_CONTAINS(markdown, ".00 |") << "all of the 309 digits";
  EXPECT_CONTAINS(decisions_header(set), "9223372036854775807");
  EXPECT_CONTAINS(decisions_json(set), "9223372036854775807");
  // Tables of engines: from what was measured or, without that, decided.
  Contents contents;
  const std::string key = set.environment.key();
  set.environment.compute_capability = 90;
  contents.environments[key] = set.environment;
  for (const char* pattern : {"allreduce", "allreduce_residual_rmsnorm"}) {
    for (Decision decision : set.decisions) {
      decision.pattern = pattern;
      contents.decisions[key].push_back(decision);
    }
  }
  for (EngineExport (*convert)(const Contents&, const std::string&) :
       {export_vllm, export_sglang, export_tensorrt_llm}) {
    EXPECT_FALSE((*convert)(contents, key).text.empty());
  }
}

TEST(ExportMarkdown, EveryRowHasEveryColumn) {
  const std::string text = decisions_markdown(awkward_sets());
  std::istringstream lines(text);
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("|")) continue;
    ++rows;
    int bars = 0;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '\\')
        ++i;
      else if (line[i] == '|')
        ++bars;
    }
    EXPECT_EQ(bars, 12) << line;
  }
  EXPECT_EQ(rows, 7);
}

TEST(ExportHeader, CompilesAndFindsDecisions) {
  const ScratchDirectory scratch;
  const DecisionSet set = awkward_sets().front();
  write_file(scratch / "decisions.hpp", decisions_header(set));
  write_file(scratch / "use.cpp", R"(#include "decisions.hpp"
#include "decisions.hpp"
using arbiter_decisions::find;
static_assert(sizeof(arbiter_decisions::decisions) / sizeof(arbiter_decisions::Decision) == 5);
static_assert(find("allreduce", "bf16", 8192, 2, "graph", 100)->median_us == 2.3);
static_assert(find("allreduce", "bf16", 8192, 2, "graph", 1)->candidate == "a,\"b\"\\ | 1\?");
static_assert(find("allreduce", "bf16", 8192, 2, "graph", 101) == nullptr);
static_assert(find("allreduce", "bf16", 8192, 3, "graph", 1) == nullptr);
)");
  output_of(std::string("'") + ARBITER_CXX + "' -std=c++17 -Wall -Wextra -Werror -fsyntax-only '" +
            (scratch / "use.cpp").string() + "'");
  EXPECT_CONTAINS(message_of([] { decisions_header({example_environment(), {}}); }), "no decisions");
}

TEST(Bands, ATableThatFitsLosesNothing) {
  const BandFit fit = db::fit_bands({{1, {{1.0, 2.0}}}, {2, {{1.0, 2.0}}}, {4, {{3.0, 2.0}}}}, 2, "x");
  EXPECT_EQ(fit.largest, std::vector<std::int64_t>{2});
  EXPECT_EQ(fit.loss.worst_percent, 0);
  EXPECT_EQ(fit.loss.points, 3U);
}

TEST(Bands, ABandInTheMiddleCostsWhatIsPrinted) {
  // The second class wins at both ends: the best single threshold gives up the smallest size, 10% on one of three.
  const BandFit fit = db::fit_bands({{1, {{1.1, 1.0}}}, {2, {{1.0, 2.0}}}, {4, {{3.0, 2.0}}}}, 2, "x");
  EXPECT_EQ(fit.largest, std::vector<std::int64_t>{2});
  EXPECT_NEAR(fit.loss.worst_percent, 10, 1e-9);
  EXPECT_NEAR(fit.loss.mean_percent, 10.0 / 3, 1e-9);
}

TEST(Bands, WhatWasNotMeasuredIsAvoidedAndOtherwiseCounted) {
  BandFit fit = db::fit_bands({{1, {5.0, std::nullopt}}, {2, {std::nullopt, 1.0}}}, 2, "x");
  EXPECT_EQ(fit.largest, std::vector<std::int64_t>{1});
  EXPECT_EQ(fit.loss.unmeasured, 0U);
  fit = db::fit_bands({{1, {std::nullopt, 1.0}}, {2, {1.0, std::nullopt}}}, 2, "x");
  EXPECT_EQ(fit.loss.unmeasured, 1U);
}

/// The same by trying every combination.
TEST(Bands, AreTheBestThereAre) {
  for (std::uint32_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::minstd_rand random(seed);
    std::vector<BandPoint> points;
    for (std::int64_t i = 0; i < 6; ++i) {
      BandPoint point{1 + (i / 2) * 2 + (seed % 2 == 0 ? i % 2 : 0), {}};
      for (int c = 0; c < 3; ++c) point.class_us.emplace_back(1.0 + static_cast<double>(random() % 8));
      points.push_back(point);
    }
    double least = 1e9;
    for (std::int64_t a = 0; a <= 8; ++a) {
      for (std::int64_t b = a; b <= 8; ++b) {
        double loss = 0;
        for (const BandPoint& p : points) {
          const double best = std::min({*p.class_us[0], *p.class_us[1], *p.class_us[2]});
          const std::size_t c = p.bytes <= a ? 0 : p.bytes <= b ? 1 : 2;
          loss += 100 * (*p.class_us[c] - best) / best / 6;
        }
        least = std::min(least, loss);
      }
    }
    const BandFit fit = db::fit_bands(points, 3, "x");
    EXPECT_NEAR(fit.loss.mean_percent, least, 1e-9);
    double said = 0;
    for (const BandPoint& p : points) {
      const double best = std::min({*p.class_us[0], *p.class_us[1], *p.class_us[2]});
      const std::size_t c = p.bytes <= fit.largest[0] ? 0 : p.bytes <= fit.largest[1] ? 1 : 2;
      said += 100 * (*p.class_us[c] - best) / best / 6;
    }
    EXPECT_NEAR(said, least, 1e-9) << "the thresholds are not those of the loss";
  }
}

const std::string environment = example_environment().key();

TEST(ExportVllm, IsAPythonLiteral) {
  const ScratchDirectory scratch;
  const char* fused = "allreduce_residual_rmsnorm";
  const Contents contents = measured(scratch, {{fused, 1, one_shot, 2},
                                               {fused, 1, pulled, 4},
                                               {fused, 1, unfused, 8},
                                               {fused, 64, one_shot, 6},
                                               {fused, 64, pulled, 5},
                                               {fused, 64, unfused, 9},
                                               {fused, 512, one_shot, 60},
                                               {fused, 512, pulled, 40},
                                               {fused, 512, unfused, 30}});
  const EngineExport exported = export_vllm(contents, environment);
  Contents renamed = contents;
  renamed.environments.begin()->second.gpu_name = "H200\nimport os\r\nos.system(1) \\";
  for (const std::string& hostile : {export_vllm(renamed, environment).text, exported.text}) {
    EXPECT_EQ(std::count(hostile.begin(), hostile.end(), 0x0a),
              std::count(exported.text.begin(), exported.text.end(), 0x0a));
    EXPECT_EQ(hostile.find(0x0d), std::string::npos);
  }
  python(scratch, exported.text,
         "values = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(text).body}\n"
         "assert values == {'FI_ALLREDUCE_FUSION_MAX_SIZE_MB': {90: {4: 1.0}},\n"
         "                  '_FI_ALLREDUCE_ONE_SHOT_MAX_SIZES_MB': {90: {4: 0.015625}}}, values\n");
  ASSERT_EQ(exported.losses.size(), 2U);
  for (const Loss& loss : exported.losses) EXPECT_EQ(loss.worst_percent, 0) << loss.what;
  EXPECT_CONTAINS(exported.losses[0].what, "4 ranks, graph");
}

TEST(ExportEngines, WhatSends8BitValuesIsLeftOut) {
  const char* fused = "allreduce_residual_rmsnorm";
  std::vector<Time> times{{fused, 1, one_shot, 2},
                          {fused, 1, pulled, 4},
                          {fused, 512, one_shot, 60},
                          {fused, 512, pulled, 40},
                          {fused, 512, unfused, 50}};
  const ScratchDirectory without, with;
  const std::string expected = export_vllm(measured(without, times), environment).text;
  Candidate lossy = named(Backend::trtllm, "oneshot_push_fp8", ":threads=256");
  lossy.numerics = Numerics::fp8_transport;
  times.push_back({fused, 512, lossy, 20});
  Contents contents = measured(with, times);
  EXPECT_EQ(export_vllm(contents, environment).text, expected);
  // The same of a snapshot, which has decisions only: the one that serves where 8 bits are not allowed speaks.
  Decision decision = example_decisions().front();
  decision.pattern = fused;
  decision.candidate = lossy;
  decision.runner_up = pulled;
  decision.runner_up_median_us = 40;
  contents.trials.clear();
  contents.decisions = {{environment, {decision}}};
  EXPECT_CONTAINS(export_vllm(contents, environment).text, "FI_ALLREDUCE_FUSION_MAX_SIZE_MB");
}

TEST(ExportSglang, IsAPythonLiteral) {
  const ScratchDirectory scratch;
  const Contents contents = measured(scratch, {{"allreduce", 1, one_shot, 2},
                                               {"allreduce", 1, nccl, 1.5},
                                               {"allreduce", 4, one_shot, 3},
                                               {"allreduce", 4, nccl, 6},
                                               {"allreduce", 64, pulled, 5},
                                               {"allreduce", 64, nccl, 9},
                                               {"allreduce", 512, pulled, 50},
                                               {"allreduce", 512, nccl, 30}});
  const EngineExport exported = export_sglang(contents, environment);
  python(scratch, exported.text,
         "values = ast.literal_eval(text)\n"
         "assert values == {90: {4: {'graph': {'one_shot_push_threshold': 65537, 'one_shot_pull_threshold': 65537,\n"
         "                                    'two_shot_pull_threshold': 1048577}}}}, values\n");
  ASSERT_EQ(exported.losses.size(), 1U);
  EXPECT_NEAR(exported.losses[0].worst_percent, 100 * (2 - 1.5) / 1.5, 1e-9) << "NCCL won below a band";
  EXPECT_EQ(exported.losses[0].points, 4U);
}

TEST(ExportSglang, OnlyWhatPullsSpeaksForItsPullKernels) {
  for (const Candidate& other : {named(Backend::mnnvl, "twoshot_push"), named(Backend::mnnvl, "twoshot_rows"),
                                 named(Backend::trtllm, "twoshot_barrier"), named(Backend::custom, "twoshot_chunked"),
                                 named(Backend::custom, "twoshot_of_tomorrow")}) {
    const ScratchDirectory scratch;
    const Contents contents = measured(scratch, {{"allreduce", 1, one_shot, 2},
                                                 {"allreduce", 1, nccl, 5},
                                                 {"allreduce", 64, other, 5},
                                                 {"allreduce", 64, nccl, 9}});
    // One-shot up to 16 KiB; above, NCCL: the other kernel is none that the engine has.
    const std::string text = export_sglang(contents, environment).text;
    EXPECT_CONTAINS(text, "\"one_shot_push_threshold\": 16385");
    EXPECT_CONTAINS(text, "\"two_shot_pull_threshold\": 16385");
  }
}

TEST(ExportTensorRtLlm, CompilesAndHoldsTheWinners) {
  const ScratchDirectory scratch;
  const Contents contents = measured(scratch, {{"allreduce", 1, one_shot, 2},
                                               {"allreduce", 1, nccl, 5},
                                               {"allreduce", 64, pulled, 5},
                                               {"allreduce", 64, nccl, 9},
                                               {"allreduce", 96, pulled, 8},
                                               {"allreduce", 96, nccl, 6},
                                               {"allreduce", 2048, pulled, 90},
                                               {"allreduce", 2048, nccl, 60}});
  const EngineExport exported = export_tensorrt_llm(contents, environment);
  write_file(
      scratch / "use.cpp",
      "#include <vector>\nusing AllReduceBestStrategyTableType = "
      "std::vector<std::vector<std::vector<std::vector<int>>>>;\n" +
          exported.text +
          "int main() {\n"
          "  const auto& t = AllReduceBestStrategyTableSM90;\n"
          "  if (t.size() != 3) return 1;\n"
          "  for (auto& a : t) {\n    if (a.size() != 2) return 2;\n    for (auto& b : a) {\n"
          "      if (b.size() != 7) return 3;\n      for (auto& c : b) if (c.size() != 15) return 4;\n    }\n  }\n"
          "  if (t[1][0][6][0] != 4 || t[1][0][6][6] != 5 || t[1][0][6][11] != 0) return 5;\n"
          "  if (t[0][0][6][0] != 0 || t[1][1][6][0] != 0) return 6;\n"
          "  return 0;\n}\n");
  const std::string program = (scratch / "use").string();
  output_of(std::string("'") + ARBITER_CXX + "' -std=c++17 -Wall -Wextra -Werror -o '" + program + "' '" + program +
            ".cpp' && '" + program + "'");
  ASSERT_EQ(exported.losses.size(), 1U);
  EXPECT_NEAR(exported.losses[0].worst_percent, 100 * (8 - 6) / 6.0, 1e-9) << "96 tokens are looked up at 64";
}

/// NCCL's example tuner, as far as it reads its table: fgets into 256 bytes, strtok, atoi.
struct NcclRow {
  std::string collective, algorithm, protocol;
  std::size_t min_bytes = 0, max_bytes = 0;
  int channels = 0, nodes = 0, ranks = 0, pipelined = 0, registered = 0;
};

std::vector<NcclRow> read_as_nccl_does(const ScratchDirectory& scratch, const std::string& text) {
  write_file(scratch / "nccl_tuner.conf", text);
  std::FILE* file = std::fopen((scratch / "nccl_tuner.conf").c_str(), "r");
  std::vector<NcclRow> rows;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (line[0] == '#' || line[0] == '\n') continue;
    line[std::strcspn(line, "\n")] = 0;
    std::vector<std::string> tokens;
    for (char* token = std::strtok(line, ","); token != nullptr; token = std::strtok(nullptr, ",")) {
      tokens.emplace_back(token);
    }
    EXPECT_EQ(tokens.size(), 10U) << line;
    if (tokens.size() != 10) continue;
    rows.push_back({tokens[0], tokens[3], tokens[4], std::strtoull(tokens[1].c_str(), nullptr, 10),
                    std::strtoull(tokens[2].c_str(), nullptr, 10), std::atoi(tokens[5].c_str()),
                    std::atoi(tokens[6].c_str()), std::atoi(tokens[7].c_str()), std::atoi(tokens[8].c_str()),
                    std::atoi(tokens[9].c_str())});
  }
  std::fclose(file);
  return rows;
}

/// First match wins; empty if nothing matches.
std::string nccl_choice(const std::vector<NcclRow>& rows, std::size_t bytes, int nodes, int ranks) {
  for (const NcclRow& row : rows) {
    if (row.collective != "allreduce" || bytes < row.min_bytes || bytes > row.max_bytes) continue;
    if ((row.nodes != -1 && row.nodes != nodes) || (row.ranks != -1 && row.ranks != ranks)) continue;
    return row.algorithm + "/" + row.protocol + "/" + std::to_string(row.channels);
  }
  return "";
}

Contents with_nccl_choices(const std::vector<NcclChoice>& choices, Environment where = example_environment()) {
  Contents contents;
  contents.environments.emplace(where.key(), where);
  contents.nccl[where.key()] = choices;
  return contents;
}

Candidate told(const std::string& parameters) { return named(Backend::nccl, "classic", ":" + parameters); }

TEST(ExportNccl, IsReadByNcclsExampleTuner) {
  ScratchDirectory scratch;
  const Candidate ring = told("algo=ring,channels=16,proto=ll128");
  const std::vector<NcclChoice> choices = {
      {2, 1, 4096, told("algo=tree,channels=4,proto=ll"), 6, told("algo=tree,channels=4,proto=ll"), 6},
      {2, 4097, 65536, nccl, 8, ring, 8.4},                                    // its own choice is faster
      {2, 65537, 1 << 20, told("channels=8"), 10, ring, 11},                   // no pair
      {2, (1 << 20) + 1, 1 << 24, told("algo=ring,proto=simple"), 50, {}, 0},  // no channels
      {4, 1, 1024, nccl, 7, {}, 0},                                            // nothing that a row could say
      {4, 1025, 4096, told("algo=nvls,channels=32,proto=simple"), 7, {}, 0}};
  Environment where = example_environment();
  where.gpu_name = std::string(300, 'G') + "\nallreduce,0,1,ring,ll,1,-1,-1";
  const EngineExport exported = export_nccl(with_nccl_choices(choices, where), where.key());
  const std::vector<NcclRow> rows = read_as_nccl_does(scratch, exported.text);
  ASSERT_EQ(rows.size(), 4U) << exported.text;
  for (const auto& [bytes, ranks, expected] : {std::tuple{std::size_t{0}, 2, "tree/ll/4"},
                                               {4096, 2, "tree/ll/4"},
                                               {4097, 2, "ring/ll128/16"},
                                               {1 << 20, 2, "ring/ll128/16"},
                                               {(1 << 20) + 1, 2, "ring/simple/-1"},
                                               {std::size_t{1} << 40, 2, "ring/simple/-1"},
                                               {1024, 4, ""},
                                               {1025, 4, "nvls/simple/32"},
                                               {std::size_t{1} << 40, 4, "nvls/simple/32"},
                                               {100, 3, ""}}) {
    EXPECT_EQ(nccl_choice(rows, bytes, 1, ranks), expected) << bytes << " bytes, " << ranks << " ranks";
  }
  EXPECT_EQ(nccl_choice(rows, 100, 2, 2), "") << "measured within a node";
  for (const NcclRow& row : rows) {
    EXPECT_EQ(row.pipelined, -1);
    EXPECT_EQ(row.registered, -1) << "not the same on all ranks";
  }
  EXPECT_CONTAINS(exported.text, "symmetric kernels");
  EXPECT_CONTAINS(exported.text, "4 ranks, 1 to 1024 bytes: no row");
  ASSERT_EQ(exported.losses.size(), 2U);
  EXPECT_EQ(exported.losses[0].points, 4U);
  EXPECT_EQ(exported.losses[0].unmeasured, 0U);
  EXPECT_NEAR(exported.losses[0].worst_percent, 10, 1e-6);
  EXPECT_NEAR(exported.losses[0].mean_percent, (0 + 5 + 10 + 0) / 4.0, 1e-6);
  EXPECT_EQ(exported.losses[1].unmeasured, 1U);
}

TEST(ExportNccl, CountsNodes) {
  ScratchDirectory scratch;
  Environment where = example_environment();
  where.nodes = 4;
  where.ranks_per_node = 4;
  const Candidate ring = told("algo=ring,channels=16,proto=ll128");
  const Contents contents = with_nccl_choices({{4, 1, 100, ring, 1, {}, 0}, {6, 1, 100, ring, 1, {}, 0}}, where);
  const std::vector<NcclRow> rows = read_as_nccl_does(scratch, export_nccl(contents, where.key()).text);
  EXPECT_EQ(nccl_choice(rows, 10, 1, 4), "ring/ll128/16");
  EXPECT_EQ(nccl_choice(rows, 10, 2, 6), "ring/ll128/16");
  EXPECT_EQ(nccl_choice(rows, 10, 2, 4), "");
}

TEST(ExportNccl, WithoutMeasurementsItIsAnError) {
  EXPECT_CONTAINS(message_of([] { export_nccl(with_nccl_choices({}), example_environment().key()); }),
                  "at least 2 ranks");
  EXPECT_CONTAINS(message_of([] { export_nccl(Contents(), "key"); }), "no environment");
}

TEST(ExportEngines, FromASnapshotOnlyWhatItHolds) {
  const ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.replace_decisions(example_environment(), example_decisions(12));
  const Contents contents = database.contents();
  EXPECT_CONTAINS(export_sglang(contents, environment).text, "\"eager\"");
  EXPECT_FALSE(export_vllm(contents, environment).losses.empty());
}

TEST(ExportEngines, NothingToExportIsAnError) {
  const ScratchDirectory scratch;
  const Contents contents = measured(scratch, {{"allreduce_residual", 1, one_shot, 2}});
  EXPECT_CONTAINS(message_of([&] { export_sglang(contents, environment); }), "'sglang', which needs");
  EXPECT_CONTAINS(message_of([&] { export_tensorrt_llm(contents, environment); }), "'tensorrt-llm', which needs");
  EXPECT_CONTAINS(message_of([&] { export_vllm({}, environment); }), "no environment");
}

}  // namespace
}  // namespace arbiter::test
