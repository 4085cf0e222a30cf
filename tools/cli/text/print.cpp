#include "text/print.hpp"

#include <cstdarg>
#include <cstdio>
#include <string>

#include "arbiter/generator/plain_text.hpp"

namespace arbiter::cli {
namespace {

void print_to(std::FILE* stream, const char* format, std::va_list values) {
  std::va_list again;
  va_copy(again, values);
  const int length = std::vsnprintf(nullptr, 0, format, values);
  std::string text(length > 0 ? static_cast<std::size_t>(length) : 0, '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  std::fputs(visible_lines(text).c_str(), stream);
}

}  // namespace

void print(const char* format, ...) {
  std::va_list values;
  va_start(values, format);
  print_to(stdout, format, values);
  va_end(values);
}

void print_error(const char* format, ...) {
  std::va_list values;
  va_start(values, format);
  print_to(stderr, format, values);
  va_end(values);
}

}  // namespace arbiter::cli
