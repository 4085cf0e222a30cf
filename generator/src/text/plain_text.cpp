#include "arbiter/generator/plain_text.hpp"

#include <array>
#include <cstdint>

namespace arbiter {
namespace {

struct Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  ///< 0: not UTF-8
};

unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

Character character_at(std::string_view text, std::size_t at) {
  const unsigned first = byte_at(text, at);
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || bytes > text.size() - at) return {};
  std::uint32_t code = first & (0xffU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    const unsigned next = byte_at(text, at + i);
    if ((next & 0xc0U) != 0x80) return {};
    code = code << 6U | (next & 0x3fU);
  }
  constexpr std::array<std::uint32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
  if (code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return {};
  return {code, bytes};
}

bool is_control(std::uint32_t code) { return code < 0x20 || (code >= 0x7f && code < 0xa0); }

/// Ends of lines and of paragraphs, marks and overrides of the direction.
bool rearranges(std::uint32_t code) {
  return code == 0x200e || code == 0x200f || code == 0x061c || (code >= 0x2028 && code <= 0x202e) ||
         (code >= 0x2066 && code <= 0x2069);
}

std::string escaped(std::string_view text, bool lines) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  shown.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    const std::size_t bytes = character.bytes == 0 ? 1 : character.bytes;
    const bool kept = lines && (character.code == '\n' || character.code == '\t');
    if (character.bytes != 0 && (kept || (!is_control(character.code) && !rearranges(character.code)))) {
      shown.append(text, at, bytes);
    } else {
      for (std::size_t i = 0; i < bytes; ++i) {
        const unsigned byte = byte_at(text, at + i);
        shown += "\\x";
        shown += digits[byte >> 4U];
        shown += digits[byte & 15U];
      }
    }
    at += bytes;
  }
  return shown;
}

}  // namespace

std::size_t find_control_character(std::string_view text, std::size_t from) noexcept {
  for (std::size_t at = from; at < text.size();) {
    const Character character = character_at(text, at);
    if (character.bytes != 0 && is_control(character.code)) return at;
    at += character.bytes == 0 ? 1 : character.bytes;
  }
  return std::string_view::npos;
}

std::string visible(std::string_view text) { return escaped(text, false); }
std::string one_line(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  std::string line;
  for (;;) {
    const std::size_t end = text.find('\n');
    line += visible(text.substr(0, end));
    if (end == std::string_view::npos) return line;
    line += " | ";
    text.remove_prefix(end + 1);
  }
}

std::string visible_lines(std::string_view text) { return escaped(text, true); }

}  // namespace arbiter
