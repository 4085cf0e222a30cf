#pragma once
// A list in one line of text.
#include <fmt/format.h>

#include <string>
#include <string_view>

namespace arbiter {

/// The elements of a container, each as `text_of` says it, with `separator` between them. Empty for an empty container.
template <typename List, typename TextOf>
std::string joined(const List& list, std::string_view separator, TextOf text_of) {
  std::string text;
  bool first = true;
  for (const auto& element : list) {
    if (!first) text.append(separator);
    first = false;
    text.append(text_of(element));
  }
  return text;
}

/// The same, each as fmt writes it.
template <typename List>
std::string joined(const List& list, std::string_view separator) {
  return joined(list, separator, [](const auto& element) { return fmt::format("{}", element); });
}

}  // namespace arbiter
