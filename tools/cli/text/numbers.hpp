// Strict readers for what people type: the whole text must be the number, and the number must be in range.
// All throw UsageError naming the option, what was typed and what is valid.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace arbiter::cli {

/// Decimal digits, an optional leading minus, nothing else.
std::int64_t parse_integer(std::string_view text, std::string_view option, std::int64_t min, std::int64_t max);

/// "500ms", "90s", "5m", "2h"; a bare number means seconds. More than zero, at most a week.
std::chrono::milliseconds parse_duration(std::string_view text, std::string_view option);

/// "0-3,5" -> 0 1 2 3 5, in the order written; duplicates are kept. Every number in [min, max].
std::vector<int> parse_integer_ranges(std::string_view text, std::string_view option, int min, int max);

/// "a,b,c" -> its non-empty parts; an empty part is an error.
std::vector<std::string> split_list(std::string_view text, std::string_view option);

}  // namespace arbiter::cli
