// The strict readers of the command line, and how results are taken apart and shown.
#include "text/text.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "arbiter/generator/plain_text.hpp"
#include "options/options.hpp"
#include "ranks/result_text.hpp"
#include "text/numbers.hpp"
#include "text/print.hpp"
#include "text/table.hpp"

namespace arbiter::cli {
namespace {

TEST(Numbers, IntegersMustBeTheWholeTextAndInRange) {
  EXPECT_EQ(parse_integer("0", "n", 0, 10), 0);
  EXPECT_EQ(parse_integer("-3", "n", -5, 10), -3);
  for (const char* wrong : {"", " 1", "1 ", "+1", "1.0", "1e1", "0x1", "11", "-1", "one", "99999999999999999999"}) {
    EXPECT_THROW(parse_integer(wrong, "n", 0, 10), UsageError) << "'" << wrong << "'";
  }
}

TEST(Numbers, Durations) {
  EXPECT_EQ(parse_duration("90", "t").count(), 90'000);
  EXPECT_EQ(parse_duration("500ms", "t").count(), 500);
  EXPECT_EQ(parse_duration("90s", "t").count(), 90'000);
  EXPECT_EQ(parse_duration("5m", "t").count(), 300'000);
  EXPECT_EQ(parse_duration("2h", "t").count(), 7'200'000);
  for (const char* wrong : {"", "s", "0", "-1s", "1d", "1 s", "1.5h", "9999h", "9223372036854775807s"}) {
    EXPECT_THROW(parse_duration(wrong, "t"), UsageError) << "'" << wrong << "'";
  }
}

TEST(Numbers, RangesAndLists) {
  EXPECT_EQ(parse_integer_ranges("0-3,7,5", "n", 0, 8), (std::vector<int>{0, 1, 2, 3, 7, 5}));
  EXPECT_EQ(parse_integer_ranges("-2", "n", -5, 8), (std::vector<int>{-2}));
  for (const char* wrong : {"3-1", "0-9", "1-", "-", "1--2", "1,,2", ",1", "1,", ""}) {
    EXPECT_THROW(parse_integer_ranges(wrong, "n", 0, 8), UsageError) << "'" << wrong << "'";
  }
}

TEST(Text, Units) {
  EXPECT_EQ(format_microseconds(2.314), "2.31");
  EXPECT_EQ(format_microseconds(14.96), "15.0");
  EXPECT_EQ(format_microseconds(1203.4), "1203");
  EXPECT_EQ(format_microseconds(1e300).size(), 301U);
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(16384), "16 KiB");
  EXPECT_EQ(format_bytes(3 << 19), "1.5 MiB");
  EXPECT_EQ(format_seconds(0.44), "0.4 s");
  EXPECT_EQ(format_seconds(72), "1 min 12 s");
  EXPECT_EQ(format_seconds(7260), "2 h 1 min");
}

TEST(Text, ControlCharactersAreShownAndNotSent) {
  EXPECT_EQ(visible("\x1b[2J\r\nx\x7f"), "\\x1b[2J\\x0d\\x0ax\\x7f");
  EXPECT_EQ(visible("a\xc2\x9b"
                    "2J"),
            "a\\xc2\\x9b2J");
  EXPECT_EQ(visible("H200 \xc2\xb5s \xe2\x82\xac"), "H200 \xc2\xb5s \xe2\x82\xac");
  Table table({"gpu"});
  table.add({"\x1b]0;owned\x07"});
  testing::internal::CaptureStdout();
  table.print(0);
  std::fflush(stdout);
  const std::string shown = testing::internal::GetCapturedStdout();
  EXPECT_EQ(shown.find('\x1b'), std::string::npos);
  EXPECT_NE(shown.find("\\x1b]0;owned\\x07"), std::string::npos) << shown;
}

TEST(Text, CandidatesAreSplitForTables) {
  EXPECT_EQ(split_candidate("trtllm/oneshot_push:threads=256,vectors=1").algorithm, "trtllm/oneshot_push");
  EXPECT_EQ(split_candidate("trtllm/oneshot_push:threads=256,vectors=1").parameters, "threads=256,vectors=1");
  EXPECT_EQ(split_candidate("nccl/classic").algorithm, "nccl/classic");
  EXPECT_EQ(split_candidate("nccl/classic").parameters, "");
  EXPECT_EQ(split_candidate("nccl/classic+epilogue:threads=128").algorithm, "nccl/classic+epilogue");
  EXPECT_EQ(split_candidate("nccl/classic+epilogue:threads=128").parameters, "threads=128");
  EXPECT_EQ(split_candidate("a/b:x=1+epilogue:y=2").parameters, "x=1 + y=2");
}

TEST(ResultText, MembersAndElementsKeepTheirText) {
  const std::string document =
      R"({"a": "x,]}\"{", "rows": [ {"n": 1.50, "t": "[,"}, {"n": 2} ], "empty": [], "rowsish": 3})";
  EXPECT_EQ(member_text(document, "a"), R"("x,]}\"{")");
  EXPECT_EQ(member_text(document, "rowsish"), "3");
  EXPECT_EQ(element_texts(member_text(document, "rows")),
            (std::vector<std::string>{R"({"n": 1.50, "t": "[,"})", R"({"n": 2})"}));
  EXPECT_TRUE(element_texts(member_text(document, "empty")).empty());
  EXPECT_THROW(member_text(document, "row"), Error);
  EXPECT_THROW(parse_document("[1]"), Error);
  EXPECT_THROW(parse_document("{"), Error);
}

TEST(ResultText, DocumentsTravelTogether) {
  const std::vector<std::string> documents{R"({"a": "\u001e"})", "{}"};
  EXPECT_EQ(split_documents(join_documents(documents)), documents);
  EXPECT_TRUE(split_documents("").empty());
}

/// Everything that people see goes through print() and print_error(); what is for programs has its own escapes.
TEST(Print, IsTheOnlyDoorToTheTerminal) {
  namespace fs = std::filesystem;
  const std::set<std::string> own_doors = {
      "text/print.cpp",      // the door
      "text/json.cpp",       // JSON, which has escapes of its own
      "text/files.cpp",      // files that go to standard output with --output -
      "text/text.cpp",       // the progress line
      "text/show_plot.cpp",  // colours
      "text/table.cpp",      // colours
      "commands/bench.cpp",  // to the process that started this one
      "commands/show.cpp",   // JSON, and tables with colours
  };
  const fs::path root = fs::path(ARBITER_SOURCE_ROOT) / "tools/cli";
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    const std::string name = fs::relative(entry.path(), root).string();
    if (entry.path().extension() != ".cpp" || own_doors.contains(name)) continue;
    std::ifstream file(entry.path());
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    for (const char* other : {"std::printf(", "std::fprintf(", "std::fputs(", "std::puts(", "std::cout", "std::cerr"})
      EXPECT_EQ(text.find(other), std::string::npos) << name << " has " << other << "...): use text/print.hpp";
  }
}

TEST(Print, ShowsControlCharacters) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  print("%s: %d\n", "evil\x1b[2J.db", 3);
  print_error("a\tb\n%s", std::string(5000, 'x').c_str());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "evil\\x1b[2J.db: 3\n");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "a\tb\n" + std::string(5000, 'x'));
}

}  // namespace
}  // namespace arbiter::cli
