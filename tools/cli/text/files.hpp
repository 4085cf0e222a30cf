// Files that commands read and write besides databases.
#pragma once

#include <string>

namespace arbiter::cli {

/// Write `text` to standard output if `file` is empty or "-", else to the file: it is there with all of its text or is
/// left as it was. An ordinary file is replaced; a link, a device, a folder or a database (any SQLite file) is not.
/// Throws Error naming the file.
void write_output(const std::string& file, const std::string& text);

/// The file's bytes; standard input for "-". Throws Error naming the file.
std::string read_input(const std::string& file);

}  // namespace arbiter::cli
