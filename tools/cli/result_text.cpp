#include "result_text.hpp"

#include <llvm/Support/raw_ostream.h>

#include "arbiter/error.hpp"

namespace arbiter::cli {
namespace {

constexpr char separator = '\x1e';  // the record separator; JSON text never contains it unescaped

}  // namespace

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
  auto parsed = llvm::json::parse(document);
  if (!parsed || parsed->getAsObject() == nullptr) {
    llvm::consumeError(parsed.takeError());
    throw Error("a rank returned something that is not a result: " + document.substr(0, 200));
  }
  return std::move(*parsed->getAsObject());
}

void write_documents(llvm::json::OStream& json, std::string_view name, const std::vector<std::string>& documents) {
  json.attributeArray(llvm::StringRef(name.data(), name.size()), [&] {
    for (const std::string& document : documents) json.rawValue(llvm::StringRef(document));
  });
}

}  // namespace arbiter::cli
