// Lists of folders, as PATH and LD_LIBRARY_PATH have them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace arbiter {

/// What stands between the colons; nothing for an empty part, which would mean the working directory.
inline std::vector<std::string> split_search_path(std::string_view rest) {
  std::vector<std::string> folders;
  while (!rest.empty()) {
    const std::size_t end = rest.find(':') == std::string_view::npos ? rest.size() : rest.find(':');
    if (end > 0) folders.emplace_back(rest.substr(0, end));
    rest.remove_prefix(end < rest.size() ? end + 1 : end);
  }
  return folders;
}

}  // namespace arbiter
