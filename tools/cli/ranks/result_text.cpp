#include "ranks/result_text.hpp"

#include <llvm/Support/raw_ostream.h>

#include "arbiter/error.hpp"
#include "arbiter/generator/json_limits.hpp"
#include "arbiter/generator/plain_text.hpp"

namespace arbiter::cli {
namespace {

constexpr char separator = '\x1e';  // the record separator; JSON text never contains it unescaped

std::string trimmed(const std::string& text) {
  constexpr const char* spaces = " \t\r\n";
  const std::size_t first = text.find_first_not_of(spaces);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

/// Behind the string that starts at `at`.
std::size_t skip_string(const std::string& text, std::size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] == '\\') ++at;
  }
  return at + 1;
}

/// Calls `take` with every part of an object or array that lies between its outer brackets and commas.
template <typename Take>
void for_each_part(const std::string& text, Take take) {
  int depth = 0;
  std::size_t start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at);
      continue;
    }
    const bool opens = c == '{' || c == '[';
    const bool closes = c == '}' || c == ']';
    if (opens && ++depth == 1) start = at + 1;
    if ((closes && depth == 1) || (c == ',' && depth == 1)) {
      const std::string part = trimmed(text.substr(start, at - start));
      if (!part.empty()) take(part);
      start = at + 1;
    }
    if (closes) --depth;
    ++at;
  }
}

}  // namespace

std::string member_text(const std::string& document, std::string_view name) {
  const std::string key = "\"" + std::string(name) + "\"";
  std::string found;
  for_each_part(document, [&](const std::string& part) {
    if (!part.starts_with(key)) return;
    const std::string behind = trimmed(part.substr(key.size()));
    if (behind.starts_with(":")) found = trimmed(behind.substr(1));
  });
  if (found.empty()) throw Error("a rank returned a result without '" + std::string(name) + "'");
  return found;
}

std::vector<std::string> element_texts(const std::string& array) {
  std::vector<std::string> elements;
  for_each_part(array, [&](const std::string& part) { elements.push_back(part); });
  return elements;
}

std::string json_text(const std::function<void(llvm::json::OStream&)>& body) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream);
  json.object([&] { body(json); });
  return stream.str();
}

std::string join_documents(const std::vector<std::string>& documents) {
  std::string text;
  for (const std::string& document : documents) text += document + separator;
  return text;
}

std::vector<std::string> split_documents(const std::string& text) {
  std::vector<std::string> documents;
  for (std::size_t start = 0, end = 0; (end = text.find(separator, start)) != std::string::npos; start = end + 1) {
    documents.push_back(text.substr(start, end - start));
  }
  return documents;
}

llvm::json::Object parse_document(const std::string& document) {
  const auto refuse = [&] {
    throw Error("a rank returned something that is not a result: " + visible(document.substr(0, 200)));
  };
  if (!json_problem(document, {32, std::size_t{1} << 28}).empty()) refuse();
  auto parsed = llvm::json::parse(document);
  if (!parsed) {
    llvm::consumeError(parsed.takeError());
    refuse();
  }
  if (parsed->getAsObject() == nullptr) refuse();
  return std::move(*parsed->getAsObject());
}

void write_documents(llvm::json::OStream& json, std::string_view name, const std::vector<std::string>& documents) {
  json.attributeArray(llvm::StringRef(name.data(), name.size()), [&] {
    for (const std::string& document : documents) json.rawValue(llvm::StringRef(document));
  });
}

}  // namespace arbiter::cli
