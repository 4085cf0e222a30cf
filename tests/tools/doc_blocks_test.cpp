// Every fenced block of README.md and docs/ is run as it is written, or says in the Markdown why not. Above a block:
//   (nothing)                          a shell's commands, SQL or JSON: run or read here, on a machine without GPUs
//   <!-- run but for tune, bench: WHY -->  the same, without lines that start these commands of the program
//   <!-- run by FILE -->               the test that runs or checks it, which names the page
//   <!-- not run: WHY -->
// Blocks of the language `text` are pictures and output: nothing that could be run.
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <sstream>

#include "example_database.hpp"
#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

namespace fs = std::filesystem;

const fs::path& root() {
  static const fs::path path = ARBITER_SOURCE_ROOT;
  return path;
}

struct Block {
  std::string page, language, mark, text;
  int line = 0;
  std::string where() const { return page + ":" + std::to_string(line); }
};

std::string trimmed(const std::string& line) {
  const auto begin = line.find_first_not_of(' ');
  return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(' ') + 1 - begin);
}

std::vector<Block> blocks_of(const std::string& page) {
  std::vector<Block> blocks;
  std::istringstream text(read_text((root() / page).string()));
  std::string above;
  bool fenced = false;
  int number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    line = trimmed(line);
    if (line.starts_with("```")) {
      fenced = !fenced;
      if (fenced) blocks.push_back({page, line.substr(3), above.starts_with("<!--") ? above : "", "", number});
      above.clear();
    } else if (fenced) {
      blocks.back().text += line + "\n";
    } else {
      above = line;
    }
  }
  EXPECT_FALSE(fenced) << page << ": a block does not end";
  return blocks;
}

std::vector<Block> all_blocks() {
  std::vector<std::string> pages{"README.md", "CONTRIBUTING.md", "SECURITY.md"};
  for (const auto& entry : fs::directory_iterator(root() / "docs")) {
    if (entry.path().extension() == ".md") pages.push_back("docs/" + entry.path().filename().string());
  }
  std::sort(pages.begin(), pages.end());
  std::vector<Block> all;
  for (const std::string& page : pages) {
    for (Block& block : blocks_of(page)) all.push_back(std::move(block));
  }
  return all;
}

/// What a mark says: FILE or WHY, and the commands that are left out.
struct Mark {
  enum class Kind : std::uint8_t { none, partly, elsewhere, not_run, unknown } kind = Kind::unknown;
  std::string rest;
  std::vector<std::string> left_out;
};

Mark read(const std::string& mark) {
  static const std::regex partly("<!-- run but for ([a-z, ]+): (.+) -->"), elsewhere("<!-- run by (\\S+) -->"),
      not_run("<!-- not run: (.+) -->");
  std::smatch found;
  if (mark.empty()) return {Mark::Kind::none, "", {}};
  if (std::regex_match(mark, found, not_run)) return {Mark::Kind::not_run, found[1], {}};
  if (std::regex_match(mark, found, elsewhere)) return {Mark::Kind::elsewhere, found[1], {}};
  if (!std::regex_match(mark, found, partly)) return {};
  Mark result{Mark::Kind::partly, found[2], {}};
  std::istringstream names(found[1]);
  for (std::string name; std::getline(names, name, ',');) result.left_out.push_back(trimmed(name));
  return result;
}

bool runs(const Mark& mark) { return mark.kind == Mark::Kind::none || mark.kind == Mark::Kind::partly; }

TEST(DocBlocks, EachIsRunOrSaysWhyNot) {
  int here = 0, by_others = 0, not_run = 0, pictures = 0;
  for (const Block& block : all_blocks()) {
    SCOPED_TRACE(block.where());
    const Mark mark = read(block.mark);
    EXPECT_NE(mark.kind, Mark::Kind::unknown) << block.mark;
    if (block.language == "text") {
      ++pictures;
      EXPECT_EQ(block.mark, "") << "a block of text needs no mark";
      EXPECT_EQ(("\n" + block.text).find("\narbiter "), std::string::npos) << "a command is no text";
      continue;
    }
    switch (mark.kind) {
      case Mark::Kind::elsewhere: {
        ++by_others;
        const fs::path test = root() / mark.rest;
        ASSERT_TRUE(fs::exists(test)) << mark.rest;
        const std::string name = fs::path(block.page).filename().string();
        EXPECT_NE(read_text(test.string()).find(name), std::string::npos) << mark.rest << " does not name the page";
        break;
      }
      case Mark::Kind::not_run:
        ++not_run;
        EXPECT_GE(mark.rest.size(), 10U) << "a reason, please";
        break;
      default:
        ++here;
        EXPECT_TRUE(block.language.empty() || block.language == "sql" || block.language == "json")
            << "nothing runs a block of " << block.language << ": say what does, or why nothing does";
    }
  }
  std::printf("%d blocks are run here, %d by other tests, %d are not run, %d are text\n", here, by_others, not_run,
              pictures);
  EXPECT_GE(here, 6);
}

/// Where commands are typed: a program on the PATH, and the databases that the pages speak of.
class Place {
 public:
  Place() {
    make_example_database(file("h200.db"));
    for (const char* name : {"cluster.db", "node1.db", "node2.db", "last-week.db"})
      fs::copy_file(file("h200.db"), file(name));
  }
  std::string file(const std::string& name) const { return scratch_.file(name); }
  Outcome type(const std::string& line) const {
    const std::string bin = fs::path(arbiter_program()).parent_path().string();
    return run_program(
        "bash", {"-c", "set -eo pipefail; PATH='" + bin + "':$PATH; cd '" + scratch_.path().string() + "'; " + line},
        {{"ARBITER_CACHE_DIR", file("cache")}});
  }
  Outcome ask(const std::string& sql) const {
    return run_program(
        "python3",
        {"-c", "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(*row)",
         file("h200.db"), sql});
  }

 private:
  ScratchDirectory scratch_;
};

/// Lines of a block, continued ones joined, without those that start a command that is left out.
std::vector<std::string> lines_to_run(const Block& block, std::vector<std::string> left_out) {
  std::vector<std::string> lines;
  std::istringstream text(block.text);
  std::string continued;
  for (std::string line; std::getline(text, line);) {
    if (line.ends_with("\\")) {
      continued += line.substr(0, line.size() - 1) + " ";
      continue;
    }
    line = continued + line;
    continued.clear();
    const auto starts = [&](const std::string& command) {
      return line.find("arbiter " + command) != std::string::npos;
    };
    const bool out = std::any_of(left_out.begin(), left_out.end(), starts);
    if (!out && !line.empty() && !line.starts_with("#")) lines.push_back(line);
  }
  for (const std::string& command : left_out) {
    EXPECT_NE(block.text.find("arbiter " + command), std::string::npos)
        << block.where() << ": " << command << " is left out, but nothing starts it";
  }
  return lines;
}

TEST(DocBlocks, WhatIsToBeRunRuns) {
  const Place place;
  int count = 0;
  for (const Block& block : all_blocks()) {
    const Mark mark = read(block.mark);
    if (!runs(mark) || block.language == "text") continue;
    SCOPED_TRACE(block.where());
    if (block.language == "sql") {
      const Outcome outcome = place.ask(block.text);
      EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
      EXPECT_FALSE(outcome.out.empty()) << "no row: the example shows nothing";
      ++count;
      continue;
    }
    if (block.language == "json") {
      parse_object(block.text);
      ++count;
      continue;
    }
    for (const std::string& line : lines_to_run(block, mark.left_out)) {
      const Outcome outcome = place.type(line);
      EXPECT_EQ(outcome.exit_code, 0) << line << "\n" << outcome.out << outcome.err;
      ++count;
    }
  }
  EXPECT_GE(count, 15);
}

}  // namespace
}  // namespace arbiter::testing
