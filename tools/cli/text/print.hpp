// The door to the terminal: what databases, files and the environment hold cannot steer it.
#pragma once

namespace arbiter::cli {

/// printf() and fprintf(stderr, ...), with control characters as escapes; line ends and tabulators stay.
[[gnu::format(printf, 1, 2)]] void print(const char* format, ...);
[[gnu::format(printf, 1, 2)]] void print_error(const char* format, ...);

}  // namespace arbiter::cli
