#include "text/json.hpp"

#include <llvm/Support/raw_ostream.h>

#include <cmath>
#include <cstdio>
#include <string>

#include "arbiter/db/json.hpp"

namespace arbiter::cli {
namespace {

llvm::StringRef view(std::string_view text) { return {text.data(), text.size()}; }

/// The same document with two spaces for each level, whatever it looked like; members and numbers stay as they are.
std::string indented(const std::string& document) {
  std::string text;
  std::size_t level = 0;
  bool in_string = false;
  const auto new_line = [&] { text += "\n" + std::string(2 * level, ' '); };
  for (std::size_t at = 0; at < document.size(); ++at) {
    const char c = document[at];
    if (in_string) {
      text += c;
      if (c == '\\' && at + 1 < document.size()) text += document[++at];
      in_string = c != '"';
      continue;
    }
    if (c == ' ' || c == '\n' || c == '\t' || c == '\r') continue;
    if (c == '}' || c == ']') {
      --level;
      if (text.back() != '{' && text.back() != '[') new_line();
    } else if (!text.empty() && (text.back() == '{' || text.back() == '[')) {
      new_line();
    }
    text += c;
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') ++level;
    if (c == ',') new_line();
    if (c == ':') text += ' ';
  }
  return text;
}

}  // namespace

void print_json(const std::function<void(llvm::json::OStream&)>& body) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream);
  json.object([&] { body(json); });
  std::printf("%s\n", indented(stream.str()).c_str());
}

void print_json(const Environment& environment, const std::function<void(llvm::json::OStream&)>& body) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    write_environment(json, "environment", environment);
    body(json);
  });
}

void write_environment(llvm::json::OStream& json, std::string_view name, const Environment& environment) {
  json.attributeBegin(view(name));
  json.rawValue(environment_json(environment));
  json.attributeEnd();
}

void write_number(llvm::json::OStream& json, std::string_view name, double number) {
  json.attributeBegin(view(name));
  write_number(json, number);
  json.attributeEnd();
}

void write_number(llvm::json::OStream& json, double number) {
  if (!std::isfinite(number)) {
    json.value(nullptr);
    return;
  }
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", number);
  json.rawValue(llvm::StringRef(digits));
}

}  // namespace arbiter::cli
