// Making a compiler's log readable when the source it complains about is in no file.
#pragma once

#include <string>
#include <string_view>

namespace arbiter {

/// The log (cut to a readable length) and, numbered, the lines of `source` it mentions with one line around each.
/// Recognises "<file>(12): error" (NVRTC) and "<file>:12:3: error" (GCC, Clang), for the given file name.
std::string explain_log(std::string_view log, std::string_view file, std::string_view source);

}  // namespace arbiter
