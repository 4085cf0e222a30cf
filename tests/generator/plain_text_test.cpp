// Text of others on its way to a terminal, a log or a file.
#include "arbiter/generator/plain_text.hpp"

#include <gtest/gtest.h>

namespace arbiter {
namespace {

TEST(PlainText, ControlCharactersAreShown) {
  EXPECT_EQ(visible("NVIDIA H200, 8\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x98\x80"),
            "NVIDIA H200, 8\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x98\x80");
  EXPECT_EQ(visible("\x1b[2J\r\nx\x7f\t"), "\\x1b[2J\\x0d\\x0ax\\x7f\\x09");
  EXPECT_EQ(visible(std::string("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(visible("\xc2\x9b\x32J"), "\\xc2\\x9b\x32J") << "CSI in one character";
}

TEST(PlainText, WhatIsNoUtf8OrTurnsTheTextAroundIsShown) {
  EXPECT_EQ(visible("\x9b\x32J"), "\\x9b\x32J") << "CSI for terminals of 8 bits";
  EXPECT_EQ(visible("\xc2"), "\\xc2");
  EXPECT_EQ(visible("\xe2\x80"), "\\xe2\\x80");
  EXPECT_EQ(visible("\xc0\x8a"), "\\xc0\\x8a") << "an overlong line end";
  EXPECT_EQ(visible("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "half a surrogate pair";
  EXPECT_EQ(visible("\xe2\x80\xae"
                    "txt"),
            "\\xe2\\x80\\xae"
            "txt")
      << "right to left";
  EXPECT_EQ(visible("\xe2\x80\xa8"), "\\xe2\\x80\\xa8") << "a line separator";
}

TEST(PlainText, LinesStayOrAreJoined) {
  EXPECT_EQ(visible_lines("a\n\tb\r\n\x1b"), "a\n\tb\\x0d\n\\x1b");
  EXPECT_EQ(one_line("error\nline 2\x1b\n"), "error | line 2\\x1b");
  EXPECT_EQ(one_line(""), "");
}

TEST(PlainText, FindsTheFirstControlCharacter) {
  EXPECT_EQ(find_control_character("plain \xc3\xa9"), std::string_view::npos);
  EXPECT_EQ(find_control_character("\xc3\xa9\n"), 2U);
  EXPECT_EQ(find_control_character("a\xc2\x85"), 1U);
  EXPECT_EQ(find_control_character("\n\n", 1), 1U);
}

}  // namespace
}  // namespace arbiter
