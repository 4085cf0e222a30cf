// What README.md, CONTRIBUTING.md and docs/ say is there is there: folders, files, commands with their options, counts.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "run_arbiter.hpp"

namespace arbiter::testing {
namespace {

namespace fs = std::filesystem;

const fs::path root = ARBITER_SOURCE_ROOT;

std::vector<fs::path> pages() {
  std::vector<fs::path> all{root / "README.md", root / "CONTRIBUTING.md", root / "bench/README.md"};
  for (const auto& entry : fs::directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") all.push_back(entry.path());
  }
  return all;
}

std::vector<std::string> lines_of(const fs::path& file) {
  std::vector<std::string> lines;
  std::istringstream text(read_text(file.string()));
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream text(line);
  std::vector<std::string> words;
  for (std::string word; text >> word;) words.push_back(word);
  return words;
}

/// Lines of fenced blocks that start `arbiter`, without what follows a comment sign, a pipe or a redirection. Python's
/// `from arbiter import` is none.
std::vector<std::vector<std::string>> commands_of(const fs::path& page) {
  std::vector<std::vector<std::string>> commands;
  bool fenced = false, python = false;
  std::string continued;
  for (std::string line : lines_of(page)) {
    if (line.starts_with("```")) {
      fenced = !fenced;
      python = line == "```python";
      continue;
    }
    if (!fenced || python) continue;
    if (line.ends_with("\\")) {
      continued += line.substr(0, line.size() - 1) + " ";
      continue;
    }
    line = continued + line;
    continued.clear();
    std::vector<std::string> words = words_of(line);
    const auto end = std::find_if(words.begin(), words.end(), [](const std::string& word) {
      return word.starts_with("#") || word == "|" || word == ">" || word == "2>" || word == "&&" || word == "--";
    });
    words.erase(end, words.end());
    const auto begin = std::find_if(words.begin(), words.end(), [](const std::string& word) {
      return word == "arbiter" || word == "build/bin/arbiter";
    });
    // What stands in front of it is a launcher or variables.
    if (begin != words.end() && begin + 1 < words.end()) commands.emplace_back(begin + 1, words.end());
  }
  return commands;
}

TEST(Docs, TheTreeInTheReadmeIsTheTree) {
  std::set<std::string> drawn, missing;
  std::string layer;
  std::size_t described = 0;
  for (const std::string& line : lines_of(root / "README.md")) {
    std::smatch match;
    static const std::regex entry("^( *)([a-z_/]+)/ {2,}([a-zA-Z].*)$");
    if (!std::regex_match(line, match, entry)) continue;
    if (match[1].length() == 0) layer = match[2];
    const std::string folder = match[1].length() == 0 ? layer : layer + "/" + match[2].str();
    drawn.insert(folder);
    EXPECT_TRUE(fs::is_directory(root / folder)) << folder << " is in the README's tree but not there";
    const std::size_t words = words_of(match[3]).size();
    EXPECT_GE(words, 4U) << line;
    EXPECT_LE(words, 7U) << line;
    described += 1;
  }
  EXPECT_GT(described, 30U);
  // Every folder that holds a file, itself or by what is drawn below it. Public headers and CMake modules are not
  // drawn.
  for (const char* top : {"tools", "tuner", "runtime", "db", "generator", "templates", "examples"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      if (!entry.is_regular_file()) continue;
      const fs::path parent = fs::relative(entry.path(), root).parent_path();
      if (std::any_of(parent.begin(), parent.end(), [](const fs::path& part) {
            return part == "include" || part == "cmake" || part == "__pycache__";
          })) {
        continue;
      }
      const std::string folder = parent.string();
      const auto below = drawn.lower_bound(folder + "/");
      if (!drawn.contains(folder) && (below == drawn.end() || !below->starts_with(folder + "/")))
        missing.insert(folder);
    }
  }
  for (const std::string& folder : missing) ADD_FAILURE() << folder << " is not in the README's tree";
}

TEST(Docs, EveryLinkLeadsToAFile) {
  static const std::regex link(R"(\]\(([^)#]+)(#[^)]*)?\))");
  std::size_t links = 0;
  for (const fs::path& page : pages()) {
    const std::string text = read_text(page.string());
    for (std::sregex_iterator match(text.begin(), text.end(), link), end; match != end; ++match) {
      const std::string target = (*match)[1];
      if (target.find("://") != std::string::npos) continue;
      EXPECT_TRUE(fs::exists(page.parent_path() / target)) << page.filename() << " links to " << target;
      links += 1;
    }
  }
  EXPECT_GT(links, 10U);
}

TEST(Docs, EveryPathThatIsNamedIsThere) {
  static const std::regex path(
      "`((?:generator|templates|runtime|tuner|db|tools|tests|bench|docs|examples|python)/[a-zA-Z0-9_./-]+)`");
  std::size_t paths = 0;
  for (const fs::path& page : pages()) {
    const std::string text = read_text(page.string());
    for (std::sregex_iterator match(text.begin(), text.end(), path), end; match != end; ++match) {
      const std::string named = (*match)[1];
      EXPECT_TRUE(fs::exists(root / named)) << page.filename() << " names " << named;
      paths += 1;
    }
  }
  EXPECT_GT(paths, 5U);
}

TEST(Docs, EveryCommandExistsAndHasItsOptions) {
  std::map<std::string, std::string> help;
  std::size_t checked = 0;
  for (const fs::path& page : pages()) {
    for (const std::vector<std::string>& command : commands_of(page)) {
      const std::string& name = command.front();
      if (name.starts_with("-") || name.starts_with("<") || name.starts_with("...")) continue;
      if (!help.contains(name)) {
        const Outcome outcome = run_arbiter({name, "--help"});
        EXPECT_EQ(outcome.exit_code, 0) << page.filename() << ": arbiter " << name << ": " << outcome.err;
        help[name] = outcome.out;
      }
      for (std::string option : command) {
        if (!option.starts_with("-") || option == "-") continue;
        if (option == "-o") {
          EXPECT_NE(help[name].find("-o FILE"), std::string::npos) << page.filename() << ": arbiter " << name << " -o";
          continue;
        }
        option = option.substr(0, option.find('='));
        while (!option.empty() && std::string_view("],;").find(option.back()) != std::string_view::npos)
          option.pop_back();
        EXPECT_NE((help[name] + " ").find("  " + option + " "), std::string::npos)
            << page.filename() << ": arbiter " << name << " has no " << option;
        checked += 1;
      }
    }
  }
  EXPECT_GT(checked, 40U);
}

TEST(Docs, TheNumberOfKernelsOnRecordIsTheRecords) {
  std::size_t kernels = 0;
  for (const std::string& line : lines_of(root / "tests/tools/kernel_resources.tsv")) {
    if (!line.empty() && !line.starts_with("#")) kernels += 1;
  }
  EXPECT_NE(read_text((root / "README.md").string()).find("compiles " + std::to_string(kernels) + " kernels"),
            std::string::npos)
      << "README.md says another number than " << kernels;
}

}  // namespace
}  // namespace arbiter::testing
