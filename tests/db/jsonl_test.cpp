// JSON lines: what is exported is imported as it was, and what is not an export is refused with its line.
#include <functional>
#include <sstream>

#include "db/random_contents.hpp"

namespace arbiter::test {
namespace {

void no_decisions(WorkDatabase& database, const Environment& environment) {
  database.replace_decisions(environment, {});
}

std::string text_of(const Contents& contents) {
  std::ostringstream out;
  write_jsonl(out, contents);
  return out.str();
}

Contents parse(const std::string& text) {
  std::istringstream in(text);
  return parse_jsonl(in, "given.jsonl");
}

/// Measurements and decisions, of which some name candidates that were never measured.
Contents example_contents(std::uint64_t seed) {
  Contents contents;
  RandomContents random(seed);
  while (contents.trials.empty()) contents = random.next();
  const std::string key = contents.environments.begin()->first;
  contents.decisions[key] = example_decisions(1 + static_cast<int>(seed % 40));
  for (const Decision& decision : contents.decisions[key]) {
    contents.candidates.emplace(decision.candidate.key(), decision.candidate);
    if (decision.runner_up) contents.candidates.emplace(decision.runner_up->key(), *decision.runner_up);
  }
  return contents;
}

TEST(Jsonl, ImportOfExportIsTheSame) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Contents contents = example_contents(seed);
    const std::string text = text_of(contents);
    const Contents again = parse(text);
    for (auto& [key, list] : contents.decisions) {
      std::sort(list.begin(), list.end(), [](const Decision& a, const Decision& b) {
        return std::tie(a.mode, a.world, a.dtype, a.pattern, a.hidden, a.tokens_min) <
               std::tie(b.mode, b.world, b.dtype, b.pattern, b.hidden, b.tokens_min);
      });
    }
    ASSERT_EQ(again, contents);
    ASSERT_EQ(text_of(again), text_of(contents));
  }
}

TEST(Jsonl, ThroughFilesToo) {
  const ScratchDirectory scratch;
  const Contents contents = parse(text_of(example_contents(7)));
  WorkDatabase::open(scratch / "one.db").import(contents, no_decisions);
  const Contents stored = read_contents(scratch / "one.db");
  EXPECT_EQ(stored, contents) << "an import into an empty database keeps its decisions";
  EXPECT_EQ(text_of(stored), text_of(contents));
}

TEST(Jsonl, AnImportIntoADatabaseIsAMerge) {
  const ScratchDirectory scratch;
  RandomContents random(11);
  const Contents a = random.next(), b = random.next();
  WorkDatabase database = WorkDatabase::open(scratch / "one.db");
  database.import(a, no_decisions);
  database.import(b, no_decisions);
  EXPECT_EQ(database.contents(), unite(a, b));
}

TEST(Jsonl, ASnapshotIsExportedAndImportedToo) {
  const ScratchDirectory scratch;
  WorkDatabase database = WorkDatabase::open(scratch / "work.db");
  database.replace_decisions(example_environment(), example_decisions(20));
  database.write_snapshot(scratch / "snapshot.db");
  const Contents contents = parse(text_of(read_contents(scratch / "snapshot.db")));
  WorkDatabase::open(scratch / "again.db").import(contents, no_decisions);
  EXPECT_EQ(read_decisions(scratch / "again.db"), read_decisions(scratch / "snapshot.db"));
}

TEST(Jsonl, StartsWithTheSchemaAndIsOneObjectALine) {
  const std::string text = text_of(example_contents(1));
  EXPECT_TRUE(text.starts_with(R"({"type":"header","schema":3,)")) << text.substr(0, 80);
  EXPECT_EQ(text.back(), '\n');
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.starts_with(R"({"type":")") && line.ends_with("}")) << line;
  }
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::size_t first_of(const std::vector<std::string>& lines, const std::string& type) {
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].starts_with(R"({"type":")" + type + "\"")) return i;
  }
  ADD_FAILURE() << "no line of type " << type;
  return 0;
}

struct Bad {
  const char* name;
  const char* type;      ///< the first line of this type is changed
  const char* from;      ///< this text in it ...
  const char* to;        ///< ... becomes this
  const char* expected;  ///< in the message
};

class Malformed : public ::testing::TestWithParam<Bad> {};

TEST_P(Malformed, IsRefusedWithItsLine) {
  const Bad& bad = GetParam();
  std::vector<std::string> lines = lines_of(text_of(example_contents(4)));
  const std::size_t at = first_of(lines, bad.type);
  const std::size_t found = lines[at].find(bad.from);
  ASSERT_NE(found, std::string::npos) << lines[at];
  lines[at].replace(found, std::string(bad.from).size(), bad.to);
  const std::string message = message_of([&] { parse(joined(lines)); });
  EXPECT_CONTAINS(message, "'given.jsonl' line " + std::to_string(at + 1) + ": ");
  EXPECT_CONTAINS(message, bad.expected);
}

INSTANTIATE_TEST_SUITE_P(
    Lines, Malformed,
    ::testing::Values(Bad{"schema", "header", R"("schema":3)", R"("schema":4)", "newer Arbiter"},
                      Bad{"old_schema", "header", R"("schema":3)", R"("schema":0)", "expected 1 to 3"},
                      Bad{"no_count", "header", R"("trials")", R"("trails")", "'trials' is missing"},
                      Bad{"json", "problem", "{", "", "not JSON"},
                      Bad{"array", "problem", "{\"type\"", "[{\"type\"", "not JSON"},
                      Bad{"type", "problem", "problem", "prolbem", "did you mean 'problem'"},
                      Bad{"missing", "problem", R"("hidden")", R"("hiden")", "'hidden' is missing"},
                      Bad{"unknown", "problem", R"("hidden")", R"("extra":1,"hidden")", "'extra' is unknown"},
                      Bad{"kind", "problem", R"("hidden":)", R"("hidden":"x","was":)", "expected a whole number"},
                      Bad{"fraction", "problem", R"("hidden":)", R"("hidden":0.5,"was":)", "expected a whole number"},
                      Bad{"wide", "problem", R"("hidden":)", R"("hidden":99999999999,"was":)", "32 bits"},
                      Bad{"range", "problem", R"("hidden":)", R"("hidden":-1,"was":)", "at least 1"},
                      Bad{"spelling", "problem", R"("bf16")", R"("bf61")", "did you mean 'bf16'"},
                      Bad{"content", "problem", R"("tokens":)", R"("tokens":3)", "'key' does not match"},
                      Bad{"boolean", "problem", R"("in_place":)", R"("in_place":0,"was":)", "true or false"},
                      Bad{"environment_key", "run", R"("environment":")", R"("environment":"0)", "an earlier line"},
                      Bad{"backend", "candidate", R"("backend":")", R"("backend":"x)", "unknown backend"},
                      Bad{"samples", "trial", R"("samples_us":[)", R"("samples_us":["x",)", "a list of numbers"},
                      Bad{"no_list", "trial", R"("samples_us":)", R"("samples_us":1,"was":)", "a list of numbers"},
                      Bad{"nested", "trial", R"("samples_us":[)", R"("samples_us":[[[)", "nested"},
                      Bad{"infinite", "trial", R"("samples_us":[)", R"("samples_us":[1e999,)", "finite"},
                      Bad{"negative", "trial", R"("samples_us":[)", R"("samples_us":[-1,)",
                          "finite time in microseconds"},
                      Bad{"sequence", "trial", R"("sequence":)", R"("sequence":-)", "at least 1"},
                      Bad{"status", "trial", R"("status":")", R"("status":"x)", "trial status"},
                      Bad{"nul", "run", R"("host":")", R"("host":"\u0000)", "NUL"},
                      Bad{"utf8", "run", R"("host":")", "\"host\":\"\xff", "UTF-8"},
                      Bad{"decision", "decision", R"("median_us":)", R"("median_us":1)", "'key' does not match"},
                      Bad{"winner", "decision", R"("candidate":")", R"("candidate":"0)", "an earlier line"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Jsonl, LinesThatAreMissingDoubledOrMisplacedAreNoticed) {
  const std::vector<std::string> good = lines_of(text_of(example_contents(4)));
  ASSERT_NO_THROW(parse(joined(good)));
  for (std::size_t i = 0; i < good.size(); ++i) {
    SCOPED_TRACE("line " + std::to_string(i + 1));
    std::vector<std::string> lines = good;
    lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_CONTAINS(message_of([&] { parse(joined(lines)); }), "'given.jsonl' line ");
    lines = good;
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(i), good[i]);
    EXPECT_CONTAINS(message_of([&] { parse(joined(lines)); }), "line " + std::to_string(i + 2) + ": ");
  }
  std::vector<std::string> lines = good;
  std::swap(lines[first_of(good, "problem")], lines.back());
  EXPECT_CONTAINS(message_of([&] { parse(joined(lines)); }), "line ");
  EXPECT_CONTAINS(message_of([] { parse(""); }), "line 1: there is no line");
  EXPECT_CONTAINS(message_of([] { parse(std::string(1'000'000, '[')); }), "nested");
}

/// Whatever is done to the text: an error, or contents that are as sound as any. Never a crash.
TEST(Jsonl, DamagedTextIsAnErrorOrSound) {
  const std::string good = text_of(example_contents(4));
  std::size_t refused = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    std::string text = good;
    const std::size_t at = random() % text.size();
    if (seed % 3 == 0) text.resize(at);
    if (seed % 3 == 1) text[at] = static_cast<char>(random());
    if (seed % 3 == 2) text.erase(at, random() % 50);
    try {
      const Contents contents = parse(text);
      ASSERT_EQ(parse(text_of(contents)), contents);
    } catch (const DatabaseError& error) {
      EXPECT_CONTAINS(error.what(), "'given.jsonl' line ");
      ++refused;
    }
  }
  EXPECT_GT(refused, 300U);
}

}  // namespace
}  // namespace arbiter::test
