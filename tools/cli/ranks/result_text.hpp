// What a rank body hands back: JSON documents, one behind the other, as text that travels between processes.
// They are printed as they are, so numbers and the order of members survive.
#pragma once

#include <llvm/Support/JSON.h>
#include <functional>

#include <string>
#include <string_view>
#include <vector>

namespace arbiter::cli {

/// One JSON object on one line.
std::string json_text(const std::function<void(llvm::json::OStream&)>& body);

std::string join_documents(const std::vector<std::string>& documents);
std::vector<std::string> split_documents(const std::string& text);

/// For reading: the document as a value. Throws Error if it is not an object.
llvm::json::Object parse_document(const std::string& document);

/// The text of one member's value, and of an array's elements, exactly as they were written. `document` must be JSON.
/// Throws Error if there is no such member.
std::string member_text(const std::string& document, std::string_view name);
std::vector<std::string> element_texts(const std::string& array);

/// An array of documents as the attribute `name`.
void write_documents(llvm::json::OStream& json, std::string_view name, const std::vector<std::string>& documents);

}  // namespace arbiter::cli
