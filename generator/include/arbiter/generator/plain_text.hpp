// The door for text that somebody else may have written, on its way to a terminal, a log or a generated file.
#pragma once

#include <string>
#include <string_view>

namespace arbiter {

/// Where the first control character is (U+0000 to U+001F, U+007F to U+009F); npos if there is none.
std::size_t find_control_character(std::string_view text, std::size_t from = 0) noexcept;

/// One line that cannot steer a terminal: control characters, characters that change the direction of what follows or
/// end a line, and bytes that are no UTF-8 are shown as \xNN.
std::string visible(std::string_view text);

/// visible() of a text of several lines as one, for logs: " | " in the place of line ends.
std::string one_line(std::string_view text);

/// visible() of a text of several lines: line ends and tabulators stay.
std::string visible_lines(std::string_view text);

}  // namespace arbiter
