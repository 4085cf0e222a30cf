// Shell completion, made from what the commands say about their options.
#pragma once

#include <span>
#include <string>

#include "commands/command.hpp"

namespace arbiter::cli {

/// A script that `source`, or the shell's folder of completions, makes known. Options, their values where they can be
/// listed (the parts of lists too), files, and the commands themselves.
std::string bash_completion(std::span<const Command>);
std::string zsh_completion(std::span<const Command>);

}  // namespace arbiter::cli
