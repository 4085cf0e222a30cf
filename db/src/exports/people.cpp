// Decisions as CSV, Markdown and C++.
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "arbiter/db/export.hpp"
#include "arbiter/db/fields.hpp"
#include "arbiter/error.hpp"
#include "exports/comment.hpp"
#include "records/digest.hpp"

namespace arbiter {
namespace {

/// A cell. Programs that open CSV run one that starts with an operator as a formula: an apostrophe makes it text.
std::string quoted_csv(const std::string& given) {
  const bool formula = !given.empty() && std::string_view("=+-@\t\r").find(given.front()) != std::string_view::npos;
  std::string text = (formula ? "'" : "") + visible(given);
  if (text.find_first_of(",\"") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// Text in a cell of a table.
std::string markdown(const std::string& text) {
  std::string escaped;
  for (const char c : visible(text)) {
    if (c == '|' || c == '\\' || c == '`' || c == '*' || c == '_' || c == '<') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

/// A C++ string literal. Octal escapes end after three digits, whatever follows; "?" could start a trigraph.
std::string literal(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 32 && byte < 127 && c != '"' && c != '\\' && c != '?') {
      result += c;
    } else {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\%03o", byte);
      result += escape;
    }
  }
  return result + "\"";
}

std::string fixed(double microseconds) {
  char text[400];  // the largest double has 309 digits before the point
  std::snprintf(text, sizeof text, "%.2f", microseconds);
  return text;
}

}  // namespace

std::string decisions_csv(const std::vector<DecisionSet>& sets) {
  std::string text =
      "environment,gpu_name,mode,world,dtype,pattern,hidden,tokens_min,tokens_max,bytes_min,bytes_max,backend,"
      "algorithm,candidate,numerics,median_us,runner_up,runner_up_median_us";
  const Decision any;
  for_each_later_field(any, [&](const char* name, auto) { text.append(",").append(name); });
  text += "\r\n";
  for (const DecisionSet& set : sets) {
    const std::string start = set.environment.key() + "," + quoted_csv(set.environment.gpu_name);
    for (const Decision& d : set.decisions) {
      text += start;
      for (const std::string& cell :
           {std::string(to_string(d.mode)), std::to_string(d.world), std::string(to_string(d.dtype)), d.pattern,
            std::to_string(d.hidden), std::to_string(d.tokens_min), std::to_string(d.tokens_max),
            std::to_string(d.bytes_min()), std::to_string(d.bytes_max()), std::string(to_string(d.candidate.backend)),
            d.candidate.algorithm, d.candidate.name, std::string(to_string(d.candidate.numerics)),
            db::exact_text(d.median_us), d.runner_up ? d.runner_up->name : std::string(),
            d.runner_up ? db::exact_text(d.runner_up_median_us) : std::string()}) {
        text += "," + quoted_csv(cell);
      }
      for_each_later_field(d, [&](const char*, auto value) {
        text += "," + (is_recorded(value) ? std::to_string(value) : std::string());
      });
      text += "\r\n";
    }
  }
  return text;
}

std::string decisions_markdown(const std::vector<DecisionSet>& sets) {
  std::string text;
  for (const DecisionSet& set : sets) {
    if (!text.empty()) text += "\n";
    text += "## " + markdown(set.environment.gpu_name) + "\n\nEnvironment " + set.environment.key().substr(0, 12) +
            ".\n\n| pattern | dtype | hidden | ranks | mode | tokens | timed at | winner | us | runner-up | us |\n"
            "|---|---|--:|--:|---|--:|--:|---|--:|---|--:|\n";
    for (const Decision& d : set.decisions) {
      text +=
          fmt::format("| {} | {} | {} | {} | {} | {}-{} | {} | {} | {} | {} | {} |\n", markdown(d.pattern),
                      to_string(d.dtype), d.hidden, d.world, to_string(d.mode), d.tokens_min, d.tokens_max,
                      (is_recorded(d.measured_tokens) ? std::to_string(d.measured_tokens) : "-"),
                      markdown(d.candidate.name), fixed(d.median_us), (d.runner_up ? markdown(d.runner_up->name) : "-"),
                      (d.runner_up ? fixed(d.runner_up_median_us) : "-"));
    }
  }
  return text;
}

std::string decisions_header(const DecisionSet& set) {
  if (set.decisions.empty()) throw DatabaseError("there are no decisions for a header. Tune first.");
  std::string text = "// Decisions of Arbiter for " + db::in_a_comment(set.environment.gpu_name) + ", environment " +
                     set.environment.key().substr(0, 12) + R"(.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace arbiter_decisions {

struct Decision {
  std::string_view pattern, dtype;
  int hidden;  // elements
  int world;   // ranks
  std::string_view mode;
  std::int64_t tokens_min, tokens_max;  // inclusive
  std::string_view backend, algorithm, candidate;
  double median_us;              // at measured_tokens
  std::int64_t measured_tokens;  // -1: not recorded; then the largest measured size up to tokens_max
};

inline constexpr std::string_view environment = )" +
                     literal(set.environment.key()) + ";\n\ninline constexpr Decision decisions[] = {\n";
  for (const Decision& d : set.decisions) {
    text += fmt::format("    {{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}},\n", literal(d.pattern),
                        literal(std::string(to_string(d.dtype))), d.hidden, d.world,
                        literal(std::string(to_string(d.mode))), d.tokens_min, d.tokens_max,
                        literal(std::string(to_string(d.candidate.backend))), literal(d.candidate.algorithm),
                        literal(d.candidate.name), db::exact_text(d.median_us), d.measured_tokens);
  }
  return text + R"(};

// The decision for a call, or nullptr if none was made.
constexpr const Decision* find(std::string_view pattern, std::string_view dtype, int hidden, int world,
                               std::string_view mode, std::int64_t tokens) {
  for (const Decision& decision : decisions) {
    if (decision.pattern == pattern && decision.dtype == dtype && decision.hidden == hidden &&
        decision.world == world && decision.mode == mode && decision.tokens_min <= tokens &&
        tokens <= decision.tokens_max) {
      return &decision;
    }
  }
  return nullptr;
}

}  // namespace arbiter_decisions
)";
}

}  // namespace arbiter
