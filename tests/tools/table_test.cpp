// Tables fit the terminal; names shorten before numbers do, and parameters stand only where they differ.
#include "text/table.hpp"

#include <gtest/gtest.h>

#include <sstream>

#include "text/candidates.hpp"

namespace arbiter::cli {
namespace {

constexpr const char* long_name = "mnnvl/a_rather_long_algorithm";

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Table, KeepsWhatFits) {
  Table table({"name", "us"});
  table.add_cells({Cell(long_name, "brief"), "2.50"});
  table.add_cells({"other", "10.0"});
  EXPECT_EQ(table.text({80, false, false}), "name                             us\n" + std::string(long_name) +
                                                "  2.50\nother                          10.0\n");
}

TEST(Table, NamesShortenBeforeNumbersDo) {
  Table table({"name", "us"});
  table.add_cells({Cell(long_name, "brief"), "123456.5"});
  EXPECT_EQ(table.text({30, false, false}), "name         us\nbrief  123456.5\n");
}

TEST(Table, TextWrapsAtWordsAndNumbersStayWhole) {
  Table table({"name", "us", "what is said about it"});
  table.add_cells({"a_name_of_some_length", "1234567", "one two three four five six seven eight"});
  const std::string text = table.text({48, false, false});
  for (const std::string& line : lines_of(text)) EXPECT_LE(line.size(), 48U) << text;
  EXPECT_NE(text.find("a_name_of_some_length"), std::string::npos) << text;
  EXPECT_NE(text.find("1234567"), std::string::npos) << text;
  for (const char* word : {"one", "three", "seven", "eight"}) EXPECT_NE(text.find(word), std::string::npos) << text;
  EXPECT_GT(lines_of(text).size(), 3U);
}

TEST(Table, TitlesOfNumbersWrap) {
  Table table({"pruned by the model", "measured again"});
  table.add({"1", "2"});
  EXPECT_EQ(table.text({18, false, false}), "pruned  measured\nby the     again\n model\n     1         2\n");
}

TEST(Table, WhatStandsOutIsColouredOnlyWhereThereIsColour) {
  Table table({"name", "us"});
  table.add_cells({Cell("winner", "", true), "1"});
  EXPECT_EQ(table.text({80, false, false}).find('\033'), std::string::npos);
  EXPECT_NE(table.text({80, false, true}).find("\033[1;32mwinner\033[0m"), std::string::npos);
}

TEST(Table, CharactersAreCountedNotBytes) {
  Table table({"a", "b"});
  table.add({"µµµ", "x"});
  table.add({"abc", "x"});
  const std::vector<std::string> lines = lines_of(table.text({80, true, false}));
  EXPECT_EQ(lines[1].size(), lines[2].size() + 3);
}

/// They are printed as they are, colours and all: nothing else may look like one.
TEST(Table, ControlCharactersOfTitlesCellsAndParagraphsAreEscaped) {
  const std::string evil = "a\x1b[2J\nb";
  Table table({evil, "other"});
  table.add_cells({Cell(evil, evil, true), Cell(evil, evil)});
  for (const int columns : {12, 80}) EXPECT_EQ(table.text({columns, false, false}).find('\x1b'), std::string::npos);
  EXPECT_EQ(table.text({80, false, false}), "a\\x1b[2J\\x0ab  other\na\\x1b[2J\\x0ab  a\\x1b[2J\\x0ab\n");
  EXPECT_EQ(wrapped(evil, 80), "a\\x1b[2J\\x0ab\n");
}

TEST(Candidates, BackendsAreNamedWhereTheyAreNeeded) {
  const std::vector<Cell> cells = family_cells({"trtllm/oneshot_push", "mnnvl/oneshot_push", "mnnvl/twoshot_push",
                                                "nccl/classic", "nccl/classic+epilogue", "nccl/symmetric", "-"});
  std::vector<std::string> brief;
  for (const Cell& cell : cells) brief.push_back(cell.brief);
  EXPECT_EQ(brief, (std::vector<std::string>{"trtllm/oneshot_push", "mnnvl/oneshot_push", "twoshot_push", "nccl",
                                             "nccl+epilogue", "nccl/symmetric", "-"}));
}

TEST(Candidates, ParametersStandWhereTheyDiffer) {
  const ParameterColumn one =
      parameter_column({"a/x:cluster=1,threads=256", "a/x:cluster=1,threads=512", "nccl/classic"});
  EXPECT_EQ(one.title, "threads");
  EXPECT_EQ(one.legend, "with cluster=1");
  EXPECT_EQ(one.cells, (std::vector<std::string>{"256", "512", "-"}));

  const ParameterColumn two = parameter_column(
      {"a/x:cluster=1,threads=256", "a/x:cluster=2,threads=512,blocks=8", "nccl/classic:algo=ring,proto=ll"});
  EXPECT_EQ(two.title, "params");
  EXPECT_EQ(two.legend, "params: cluster/threads/blocks");
  EXPECT_EQ(two.cells, (std::vector<std::string>{"1/256", "2/512/8", "ring/ll"}));

  const ParameterColumn none = parameter_column({"a/x:threads=256", "a/x:threads=256", "a/y:threads=256"});
  EXPECT_EQ(none.title, "");
  EXPECT_EQ(none.legend, "with threads=256");

  const ParameterColumn unfused =
      parameter_column({"a/x:threads=256+epilogue:threads=512", "a/x:threads=256+epilogue:threads=128"});
  EXPECT_EQ(unfused.title, "epilogue threads");
  EXPECT_EQ(unfused.cells, (std::vector<std::string>{"512", "128"}));
}

TEST(Candidates, RatiosToNccl) {
  EXPECT_EQ(ratio_text(17.7, 6.65), "2.66x");
  EXPECT_EQ(ratio_text(0, 6.65), "-");
  EXPECT_EQ(ratio_range({1.2, 3.68, 2}), "1.2-3.7x over NCCL");
  EXPECT_EQ(ratio_range({1.21, 1.19}), "1.2x over NCCL");
  EXPECT_EQ(ratio_range({}), "");
}

}  // namespace
}  // namespace arbiter::cli
