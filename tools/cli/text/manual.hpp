// The manual page, made from what the commands say about themselves.
#pragma once

#include <span>
#include <string>

#include "commands/command.hpp"

namespace arbiter::cli {

/// arbiter(1) for man and groff. The same program gives the same text: no date.
std::string manual_page(std::span<const Command>);

}  // namespace arbiter::cli
