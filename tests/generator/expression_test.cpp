#include "catalogue/expression.hpp"

#include "arbiter/error.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

const Bindings names{{"rows", 0}, {"world", 4}, {"threads", 256}, {"big", 9223372036854775807L}, {"sm", 90}};

TEST(Expression, PrecedenceIsThatOfC) {
  struct Case {
    const char* text;
    long value;
  };
  for (const Case& c : std::initializer_list<Case>{{"1 + 2 * 3", 7},
                                                   {"(1 + 2) * 3", 9},
                                                   {"10 - 4 - 3", 3},
                                                   {"100 / 10 / 5", 2},
                                                   {"7 % 4 * 2", 6},
                                                   {"-3 + 5", 2},
                                                   {"- -3", 3},
                                                   {"!0 + !5", 1},
                                                   {"1 + 1 == 2", 1},
                                                   {"1 < 2 == 1", 1},
                                                   {"2 >= 3 || 2 <= 2", 1},
                                                   {"1 || 0 && 0", 1},
                                                   {"(1 || 0) && 0", 0},
                                                   {"3 != 3", 0},
                                                   {"5 > 4 && 4 < 5", 1},
                                                   {"2 && 3", 1},
                                                   {"-7 / 2", -3},
                                                   {"-7 % 2", -1},
                                                   {"\tworld*threads\n", 1024},
                                                   {"rows==1||!rows", 1}})
    EXPECT_EQ(evaluate(c.text, names), c.value) << c.text;
}

TEST(Expression, ShortCircuitSkipsArithmeticButNotNames) {
  EXPECT_EQ(evaluate("rows == 0 || 8 % rows == 0", names), 1);
  EXPECT_EQ(evaluate("rows != 0 && 8 / rows > 1", names), 0);
  EXPECT_EQ(evaluate("1 || 1 / 0 || big + big", names), 1);
  expect_error<CompileError>([] { evaluate("1 || wrold", names); }, {"unknown name 'wrold'"});
  expect_error<CompileError>([] { evaluate("0 || 8 % rows", names); }, {"division by zero"});
}

TEST(Expression, RefusesBrokenText) {
  for (const char* text : {"",      " ",     "1 +",         "(1",      "1)",  "()", "1 2",
                           "a b",   "1 = 1", "1 & 1",       "1 | 1",   "* 2", "3x", "$",
                           "\"1\"", "1.5",   "world world", "1 < = 2", "!",   "-",  "99999999999999999999"})
    EXPECT_THROW(evaluate(text, names), CompileError) << text;
  expect_error<CompileError>([] { evaluate("world + (2 * 3", names); },
                             {"'world + (2 * 3'", "expected ')'", "found the end"});
  expect_error<CompileError>([] { evaluate("world ? 1", names); }, {"character 7", "'? 1'"});
}

TEST(Expression, OverflowIsAnErrorNotUndefined) {
  for (const char* text :
       {"big + 1", "big * 2", "-big - 2", "0 - big - 2", "(-big - 1) / -1", "(-big - 1) % -1", "-(-big - 1)"})
    expect_error<CompileError>([&] { evaluate(text, names); }, {"does not fit 64 bits"});
}

TEST(Expression, DepthAndLengthAreBounded) {
  const std::string deep = std::string(100000, '(') + "1" + std::string(100000, ')');
  EXPECT_THROW(evaluate(deep, names), CompileError);
  expect_error<CompileError>([] { evaluate(std::string(200, '(') + "1" + std::string(200, ')'), names); }, {"deeper"});
  expect_error<CompileError>([] { evaluate(std::string(200, '!') + "1", names); }, {"deeper"});
  EXPECT_EQ(evaluate(std::string(50, '(') + "1" + std::string(50, ')'), names), 1);
}

TEST(Expression, CheckNeedsNoValues) {
  const std::set<std::string, std::less<>> valid{"threads", "world"};
  check_expression("threads / (world - world) > 0", valid);
  expect_error<CompileError>([&] { check_expression("thread > 0", valid); },
                             {"unknown name 'thread'", "threads, world", "did you mean 'threads'?"});
  EXPECT_THROW(check_expression("threads >", valid), CompileError);
}

}  // namespace
}  // namespace arbiter
