#include "catalogue/expression.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

constexpr std::size_t max_length = 4096;
constexpr int max_depth = 64;  // of parentheses and prefix operators: each one is a stack frame

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Operators by binding strength, weakest first, as in C. Longer spellings come before their prefixes.
constexpr std::array<std::array<std::string_view, 4>, 6> levels{
    {{"||"}, {"&&"}, {"==", "!="}, {"<=", ">=", "<", ">"}, {"+", "-"}, {"*", "/", "%"}}};

// Recursive descent. A sub-expression that short-circuiting skips is still parsed and its names are still looked up,
// but nothing is computed: "rows == 0 || 8 % rows == 0" is fine with rows = 0.
class Evaluator {
 public:
  using Lookup = std::function<std::optional<long>(std::string_view)>;

  Evaluator(std::string_view text, Lookup lookup) : text_(text), lookup_(std::move(lookup)) {}

  long run(bool compute) {
    if (text_.size() > max_length) fail(fmt::format("it is longer than {} characters", max_length));
    const long value = binary(0, compute);
    skip_spaces();
    if (at_ != text_.size()) fail("expected an operator or the end" + here());
    return value;
  }

 private:
  long binary(std::size_t level, bool compute) {
    if (level == levels.size()) return prefix(compute);
    long left = binary(level + 1, compute);
    while (const std::optional<std::string_view> op = accept_operator(level)) {
      const bool decided = (*op == "||" && left != 0) || (*op == "&&" && left == 0);
      const long right = binary(level + 1, compute && !decided);
      if (compute) left = apply(*op, left, right);
    }
    return left;
  }

  long prefix(bool compute) {
    if (++depth_ > max_depth) fail(fmt::format("it is nested deeper than {}", max_depth));
    skip_spaces();
    long value = 0;
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    if (c == '!') {
      ++at_;
      value = prefix(compute) == 0 ? 1 : 0;
    } else if (c == '-') {
      ++at_;
      value = prefix(compute);
      if (compute && __builtin_sub_overflow(0L, value, &value)) fail("the result does not fit 64 bits");
    } else if (c == '(') {
      ++at_;
      value = binary(0, compute);
      skip_spaces();
      if (at_ == text_.size() || text_[at_] != ')') fail("expected ')'" + here());
      ++at_;
    } else if (is_digit(c)) {
      value = number();
    } else if (is_letter(c)) {
      value = name();
    } else {
      fail("expected a number, a name or '('" + here());
    }
    --depth_;
    return value;
  }

  long number() {
    long value = 0;
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc()) fail("a number does not fit 64 bits" + here());
    at_ += static_cast<std::size_t>(end - begin);
    if (at_ < text_.size() && is_letter(text_[at_])) fail("a number runs into a name" + here());
    return value;
  }

  long name() {
    const std::size_t begin = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]))) ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    const std::optional<long> value = lookup_(word);
    if (!value) fail("unknown name '" + std::string(word) + "'");
    return *value;
  }

  long apply(std::string_view op, long left, long right) {
    long result = 0;
    bool overflow = false;
    if (op == "||") return left != 0 || right != 0;
    if (op == "&&") return left != 0 && right != 0;
    if (op == "==") return left == right;
    if (op == "!=") return left != right;
    if (op == "<=") return left <= right;
    if (op == ">=") return left >= right;
    if (op == "<") return left < right;
    if (op == ">") return left > right;
    if (op == "+") overflow = __builtin_add_overflow(left, right, &result);
    if (op == "-") overflow = __builtin_sub_overflow(left, right, &result);
    if (op == "*") overflow = __builtin_mul_overflow(left, right, &result);
    if (op == "/" || op == "%") {
      if (right == 0) fail("division by zero");
      overflow = left == std::numeric_limits<long>::min() && right == -1;
      if (!overflow) result = op == "/" ? left / right : left % right;
    }
    if (overflow) fail("the result does not fit 64 bits");
    return result;
  }

  std::optional<std::string_view> accept_operator(std::size_t level) {
    skip_spaces();
    for (const std::string_view op : levels[level]) {
      if (op.empty() || text_.substr(at_, op.size()) != op) continue;
      at_ += op.size();
      return op;
    }
    return std::nullopt;
  }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
  }

  std::string here() const {
    if (at_ >= text_.size()) return ", found the end";
    return fmt::format(" at character {}, found '{}'", at_ + 1, std::string(text_.substr(at_, 8)));
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw CompileError("expression '" + std::string(text_.substr(0, 200)) + "': " + what);
  }

  std::string_view text_;
  Lookup lookup_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

long evaluate(std::string_view expression, const Bindings& bindings) {
  return Evaluator(expression,
                   [&](std::string_view name) -> std::optional<long> {
                     const auto found = bindings.find(name);
                     if (found == bindings.end()) return std::nullopt;
                     return found->second;
                   })
      .run(true);
}

void check_expression(std::string_view expression, const std::set<std::string, std::less<>>& names) {
  Evaluator(expression, [&](std::string_view name) -> std::optional<long> {
    if (names.find(name) != names.end()) return 1;
    std::vector<std::string_view> valid(names.begin(), names.end());
    throw CompileError("expression '" + std::string(expression.substr(0, 200)) +
                       "': " + unknown_name_message("name", name, valid));
  }).run(false);
}

}  // namespace arbiter
