// SHA-256 as lower-case hexadecimal text.
#pragma once

#include <string>
#include <string_view>

namespace arbiter {

std::string sha256_hex(std::string_view bytes);

/// Append `field` with its length in front, so that no two sequences of fields give the same bytes to a digest.
void append_field(std::string& bytes, std::string_view field);

}  // namespace arbiter
