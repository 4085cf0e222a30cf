#include "render/template_scan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "catalogue/keys.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

std::string_view trim(std::string_view text) noexcept {
  constexpr std::string_view spaces = " \t";
  const std::size_t begin = text.find_first_not_of(spaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(spaces) - begin + 1);
}

bool is_partial_name(std::string_view name) noexcept {
  if (name.starts_with('@')) return is_identifier(name.substr(1));
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.' || c == '/';
  });
}

// The part of a tag that is shown in a message.
std::string shown(std::string_view text) {
  std::string line(text.substr(0, std::min(text.find('\n'), std::size_t{40})));
  return line.size() < text.size() ? line + "..." : line;
}

Tag::Kind kind_of(char sigil) noexcept {
  switch (sigil) {
    case '#':
      return Tag::Kind::section;
    case '^':
      return Tag::Kind::inverted_section;
    case '/':
      return Tag::Kind::close;
    case '>':
      return Tag::Kind::partial;
    case '!':
      return Tag::Kind::comment;
    default:
      return Tag::Kind::variable;
  }
}

Tag read_tag(std::string_view path, std::string_view text, std::size_t begin, std::size_t line) {
  const std::string_view rest = text.substr(begin);
  if (rest.starts_with("{{{"))
    fail_at(path, line,
            "'{{{' is not allowed: text is never escaped, so write {{key}}, with a space after a brace of C++");
  const std::size_t close = rest.find("}}");
  if (close == std::string_view::npos)
    fail_at(path, line, "the tag '" + shown(rest) + "' is not closed with '}}'; braces of C++ need a space: '{ {'");
  const std::string_view body = rest.substr(2, close - 2);
  Tag tag;
  tag.begin = begin;
  tag.end = begin + close + 2;
  tag.line = line;
  tag.kind = kind_of(body.empty() ? '\0' : body.front());
  if (tag.kind == Tag::Kind::comment) return tag;
  tag.name = trim(tag.kind == Tag::Kind::variable ? body : body.substr(1));
  if (tag.kind == Tag::Kind::partial ? is_partial_name(tag.name) : is_identifier(tag.name)) return tag;
  if (body.starts_with('=')) fail_at(path, line, "changing the delimiters ('" + shown(rest) + "') is not allowed");
  if (body.starts_with('&')) fail_at(path, line, quote(shown(rest)) + ": write {{key}}; text is never escaped here");
  fail_at(path, line,
          quote(shown(rest.substr(0, close + 2))) +
              " is not a tag that is known here: expected {{key}}, {{#key}}, {{^key}}, " +
              "{{/key}}, {{> path}} or {{! comment}}; braces of C++ need a space: '{ {'");
}

// Every section is closed in the file it was opened in, innermost first.
void check_sections(std::string_view path, const std::vector<Tag>& tags) {
  std::vector<const Tag*> open;
  for (const Tag& tag : tags) {
    if (tag.kind == Tag::Kind::section || tag.kind == Tag::Kind::inverted_section) open.push_back(&tag);
    if (tag.kind != Tag::Kind::close) continue;
    const std::string name(tag.name);
    if (open.empty()) fail_at(path, tag.line, "{{/" + name + "}} closes a section that was not opened");
    if (open.back()->name != tag.name)
      fail_at(path, tag.line,
              fmt::format("{{{{/{}}}}} closes the section '{}' opened in line {}", name, open.back()->name,
                          open.back()->line));
    open.pop_back();
  }
  if (!open.empty())
    fail_at(path, open.back()->line, "the section '" + std::string(open.back()->name) + "' is not closed in this file");
}

}  // namespace

void fail_at(std::string_view path, std::size_t line, const std::string& what) {
  throw CompileError(fmt::format("templates/{}:{}: {}", path, line, what));
}

std::vector<Tag> scan_template(std::string_view path, std::string_view text) {
  std::vector<Tag> tags;
  std::size_t line = 1;
  std::size_t counted = 0;
  for (std::size_t at = text.find("{{"); at != std::string_view::npos; at = text.find("{{", tags.back().end)) {
    line += static_cast<std::size_t>(std::count(text.begin() + static_cast<std::ptrdiff_t>(counted),
                                                text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    counted = at;
    tags.push_back(read_tag(path, text, at, line));
  }
  check_sections(path, tags);
  return tags;
}

std::string hash_templates(std::string_view json, const Catalogue& catalogue, const TemplateMap& templates) {
  std::vector<std::string> pending{"kernel.mustache"};
  for (const AlgorithmEntry& entry : catalogue.algorithms()) pending.push_back(entry.template_name);
  for (const PartEntry& entry : catalogue.parts()) pending.push_back(entry.template_name);
  for (const std::string_view path : fixed_templates) pending.emplace_back(path);
  std::set<std::string> reached;
  while (!pending.empty()) {
    const std::string path = std::move(pending.back());
    pending.pop_back();
    const auto found = templates.find(path);
    if (found == templates.end() || !reached.insert(path).second) continue;
    // A template that is broken is reported when it is rendered; here it only has to change the hash.
    try {
      for (const Tag& tag : scan_template(path, found->second))
        if (tag.kind == Tag::Kind::partial) pending.emplace_back(tag.name);
    } catch (const CompileError&) {
    }
  }
  std::string bytes;
  append_field(bytes, json);
  for (const std::string& path : reached) {
    append_field(bytes, path);
    append_field(bytes, templates.find(path)->second);
  }
  return sha256_hex(bytes);
}

}  // namespace arbiter
