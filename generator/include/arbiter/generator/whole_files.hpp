// Reading and writing all of it: a call may do less than it was asked for.
#pragma once

#include <string>
#include <string_view>

namespace arbiter {

/// False, with errno, if anything could not be written. A file that may not grow (RLIMIT_FSIZE) is EFBIG and not the
/// end of the process.
bool write_all(int descriptor, std::string_view bytes) noexcept;

/// Fill `bytes`, as long as it is. False, with errno, if there is less or reading fails.
bool read_all(int descriptor, std::string& bytes) noexcept;

}  // namespace arbiter
