#pragma once
// A list in one line of text.
#include <fmt/format.h>

#include <string>
#include <string_view>

namespace arbiter {

/// The elements of a container, each as fmt writes it, with `separator` between them. Empty for an empty container.
template <typename List>
std::string joined(const List& list, std::string_view separator) {
  std::string text;
  for (const auto& element : list) {
    if (&element != &*list.begin()) text.append(separator);
    text.append(fmt::format("{}", element));
  }
  return text;
}

}  // namespace arbiter
