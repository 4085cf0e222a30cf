// The first steps of docs/tuning.md and tools/quickstart run as they are written, on the CPU device; the models of
// docs/cli.md are those of the program.
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <sstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

namespace fs = std::filesystem;

const fs::path root = ARBITER_SOURCE_ROOT;

/// Lines of the fenced blocks of a page, continued lines joined, from behind `heading` to the next of its level.
std::vector<std::string> fenced_lines(const fs::path& page, const std::string& heading = "") {
  std::vector<std::string> lines;
  std::istringstream text(read_text(page.string()));
  bool fenced = false, inside = heading.empty(), python = false;
  std::string continued;
  for (std::string line; std::getline(text, line);) {
    const std::string trimmed = line.substr(std::min(line.find_first_not_of(' '), line.size()));
    if (!fenced && trimmed.starts_with("## ") && !heading.empty()) inside = trimmed == "## " + heading;
    if (trimmed.starts_with("```")) {
      fenced = !fenced;
      python = trimmed == "```python";
      continue;
    }
    if (!fenced || !inside || python) continue;
    if (trimmed.ends_with("\\")) {
      continued += trimmed.substr(0, trimmed.size() - 1) + " ";
      continue;
    }
    lines.push_back(continued + trimmed);
    continued.clear();
  }
  return lines;
}

/// As a person would type it into a shell in `folder`, with the program on the PATH.
Outcome type(const std::string& line, const fs::path& folder) {
  const std::string bin = fs::path(arbiter_program()).parent_path().string();
  return run_program("bash",
                     {"-c", "set -eo pipefail; PATH='" + bin + "':$PATH; cd '" + folder.string() + "'; " + line},
                     {{"ARBITER_CACHE_DIR", (folder / "cache").string()}});
}

/// A tune on the CPU device, as docs/tuning.md has it.
class Walk : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch = std::make_unique<ScratchDirectory>();
    for (const std::string& line : fenced_lines(root / "docs/tuning.md", "Here first, without a GPU")) {
      steps.emplace_back(line, type(line, scratch->path()));
    }
  }
  static void TearDownTestSuite() {
    steps.clear();
    scratch.reset();
  }

  static std::unique_ptr<ScratchDirectory> scratch;
  static std::vector<std::pair<std::string, Outcome>> steps;
};

std::unique_ptr<ScratchDirectory> Walk::scratch;
std::vector<std::pair<std::string, Outcome>> Walk::steps;

/// A stranger follows docs/tuning.md word for word, and sees what it promises: the words in quotes behind a command.
TEST_F(Walk, AStrangerFollowsTheFirstStepsOfTuning) {
  ASSERT_GE(steps.size(), 7U);
  std::size_t promises = 0;
  static const std::regex quoted("\"([^\"]+)\"");
  for (const auto& [line, outcome] : steps) {
    EXPECT_EQ(outcome.exit_code, 0) << line << "\n" << outcome.out << outcome.err;
    const std::string comment = line.substr(std::min(line.find(" # "), line.size()));
    for (std::sregex_iterator match(comment.begin(), comment.end(), quoted), end; match != end; ++match) {
      EXPECT_NE(outcome.out.find((*match)[1]), std::string::npos) << line << "\n" << outcome.out;
      ++promises;
    }
  }
  EXPECT_GE(promises, 5U);
  for (const char* file : {"work.db", "work.html", "engine.db"})
    EXPECT_TRUE(fs::exists(scratch->path() / file)) << file;
}

/// The last lines of tools/quickstart are three commands for the database that it made.
TEST_F(Walk, WhatQuickstartSuggestsWorks) {
  std::istringstream script(read_text((root / "tools/quickstart").string()));
  std::vector<std::string> commands;
  for (std::string line; std::getline(script, line);) {
    if (line.starts_with("  build/bin/arbiter ")) commands.push_back(line.substr(2));
  }
  ASSERT_EQ(commands.size(), 3U);
  fs::create_directory(scratch->path() / "build");
  fs::copy_file(scratch->path() / "work.db", scratch->path() / "build/quickstart.db");
  for (std::string& command : commands) {
    command.replace(0, std::string("build/bin/").size(), "");
    EXPECT_NE(command.find(" build/quickstart.db"), std::string::npos) << command;
    const Outcome outcome = type(command, scratch->path());
    EXPECT_EQ(outcome.exit_code, 0) << command << "\n" << outcome.err;
    EXPECT_FALSE(outcome.out.empty()) << command;
  }
}

/// The table of models in docs/cli.md is the list that the program has.
TEST(Models, ThoseOfTheDocsAreThoseOfTheProgram) {
  const std::string page = read_text((root / "docs/cli.md").string());
  const llvm::json::Value document = parse_object(read_text((root / "tools/cli/presets/models.json").string()));
  const llvm::json::Array& models = *member(document, "models")->getAsArray();
  EXPECT_GE(models.size(), 9U);
  for (const llvm::json::Value& model : models) {
    const std::string name = member(model, "name")->getAsString()->str();
    const std::string hidden = std::to_string(*member(model, "hidden")->getAsInteger());
    const std::regex row("\\| [^|\n]*`" + name + "`[^|\n]* \\| " + hidden + " \\|");
    EXPECT_TRUE(std::regex_search(page, row)) << name << " with hidden size " << hidden;
    const Outcome plan =
        run_arbiter({"tune", "--device", "cpu", "--model", name, "--ranks", "2", "--quick", "--dry-run", "--json"});
    ASSERT_EQ(plan.exit_code, 0) << plan.err;
    EXPECT_EQ(member(parse_object(plan.out), "problems[0].hidden")->getAsInteger(),
              member(model, "hidden")->getAsInteger());
  }
}

}  // namespace
}  // namespace arbiter::testing
