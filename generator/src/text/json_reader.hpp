// Reading JSON strictly: every error names the JSON path, what was expected and what was found.
#pragma once

#include <llvm/Support/JSON.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace arbiter {

/// One value and where it is ("algorithms[2].axes[0].name"). A view: the llvm value must outlive it.
class JsonNode {
 public:
  JsonNode(const llvm::json::Value& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const std::string& path() const noexcept { return path_; }
  [[noreturn]] void fail(const std::string& what) const;

  std::string text() const;  ///< a string that is not empty
  int integer() const;       ///< a number without a fraction that fits an int
  bool boolean() const;
  std::vector<JsonNode> elements() const;

  /// The value must be an object whose keys are all listed in one of the two.
  void require_keys(std::initializer_list<std::string_view> required,
                    std::initializer_list<std::string_view> optional) const;
  bool has(std::string_view key) const;
  JsonNode operator[](std::string_view key) const;
  std::vector<std::pair<std::string, JsonNode>> members() const;  ///< sorted by key

 private:
  const llvm::json::Object& object() const;
  std::string found() const;

  const llvm::json::Value* value_;
  std::string path_;
};

/// Parse a document. On top of what llvm::json checks, refuses duplicate keys (it would keep the last one), nesting
/// deeper than 32 (it recurses) and texts above 16 MiB. `what` names the document in messages. Throws CompileError.
llvm::json::Value parse_json(std::string_view text, std::string_view what);

}  // namespace arbiter
