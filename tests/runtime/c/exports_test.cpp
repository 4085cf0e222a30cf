// libarbiter.so shows what arbiter.h declares, and nothing else.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace {

std::set<std::string> exported() {
  const std::string command = "nm -D --defined-only " ARBITER_LIBRARY;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::set<std::string> names;
  std::array<char, 1024> line{};
  while (pipe != nullptr && std::fgets(line.data(), line.size(), pipe.get()) != nullptr) {
    std::istringstream words(line.data());
    std::string address, kind, name;
    if (words >> address >> kind >> name) names.insert(name);
  }
  return names;
}

std::set<std::string> declared() {
  std::ifstream file(ARBITER_HEADER);
  std::stringstream text;
  text << file.rdbuf();
  std::string code = std::regex_replace(text.str(), std::regex("/\\*[^*]*\\*+([^/*][^*]*\\*+)*/"), "");
  std::set<std::string> names;
  const std::regex function("\\b(arbiter_[a-z_]+)\\(");
  for (std::sregex_iterator found(code.begin(), code.end(), function), end; found != end; ++found) {
    names.insert((*found)[1]);
  }
  return names;
}

TEST(Exports, AreWhatTheHeaderDeclares) {
  EXPECT_GE(declared().size(), 25U);
  EXPECT_EQ(exported(), declared());
}

}  // namespace
