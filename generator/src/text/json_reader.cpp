#include "text/json_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/json_limits.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {
namespace {

llvm::StringRef ref(std::string_view text) { return {text.data(), text.size()}; }

// Walks the brackets and strings of a document before llvm::json sees it. Anything that is not well formed is left
// for llvm::json to complain about.
class Prescan {
 public:
  Prescan(std::string_view text, std::string_view what) : text_(text), what_(what) {}

  void run() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        string();
        continue;
      }
      if (c == '{' || c == '[') open(c == '{');
      if ((c == '}' || c == ']') && !levels_.empty()) levels_.pop_back();
      if (c == ',' && !levels_.empty()) levels_.back().key_next = levels_.back().object;
      if (c == '\n') ++line_;
      ++at_;
    }
  }

 private:
  struct Level {
    bool object;
    bool key_next;
    std::set<std::string_view> keys;
  };

  void open(bool object) { levels_.push_back({object, object, {}}); }

  void string() {
    const std::size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    at_ = std::min(at_, text_.size());
    const std::string_view body = text_.substr(begin, at_ - begin);
    if (at_ < text_.size()) ++at_;
    if (levels_.empty() || !levels_.back().key_next) return;
    levels_.back().key_next = false;
    // Keys are compared as they are written; none of ours needs an escape.
    if (!levels_.back().keys.insert(body).second) fail("has the key '" + std::string(body) + "' twice in one object");
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw CompileError(fmt::format("{} {} (line {})", what_, why, line_));
  }

  std::string_view text_;
  std::string_view what_;
  std::size_t at_ = 0;
  std::size_t line_ = 1;
  std::vector<Level> levels_;
};

}  // namespace

void JsonNode::fail(const std::string& what) const {
  throw CompileError((path_.empty() ? std::string("top level") : path_) + ": " + what);
}

std::string JsonNode::found() const {
  switch (value_->kind()) {
    case llvm::json::Value::Null:
      return "null";
    case llvm::json::Value::Boolean:
      return *value_->getAsBoolean() ? "true" : "false";
    case llvm::json::Value::Number: {
      if (const auto whole = value_->getAsInteger()) return fmt::format("the number {}", *whole);
      return fmt::format("the number {}", *value_->getAsNumber());
    }
    case llvm::json::Value::String:
      return "the string '" + value_->getAsString()->substr(0, 80).str() + "'";
    case llvm::json::Value::Array:
      return "an array";
    case llvm::json::Value::Object:
      return "an object";
  }
  return "something else";
}

std::string JsonNode::text() const {
  const auto text = value_->getAsString();
  if (!text || text->empty()) fail("expected a string that is not empty, found " + found());
  return text->str();
}

int JsonNode::integer() const {
  const auto number = value_->getAsInteger();
  if (!number || *number < std::numeric_limits<int>::min() || *number > std::numeric_limits<int>::max())
    fail("expected an integer of 32 bits, found " + found());
  return static_cast<int>(*number);
}

bool JsonNode::boolean() const {
  const auto value = value_->getAsBoolean();
  if (!value) fail("expected true or false, found " + found());
  return *value;
}

std::vector<JsonNode> JsonNode::elements() const {
  const llvm::json::Array* array = value_->getAsArray();
  if (array == nullptr) fail("expected an array, found " + found());
  std::vector<JsonNode> nodes;
  nodes.reserve(array->size());
  for (const llvm::json::Value& value : *array) nodes.emplace_back(value, fmt::format("{}[{}]", path_, nodes.size()));
  return nodes;
}

const llvm::json::Object& JsonNode::object() const {
  const llvm::json::Object* object = value_->getAsObject();
  if (object == nullptr) fail("expected an object, found " + found());
  return *object;
}

void JsonNode::require_keys(std::initializer_list<std::string_view> required,
                            std::initializer_list<std::string_view> optional) const {
  std::vector<std::string_view> valid(required);
  valid.insert(valid.end(), optional);
  for (const auto& [key, node] : members())
    if (std::find(valid.begin(), valid.end(), key) == valid.end()) fail(unknown_name_message("key", key, valid));
  for (const std::string_view key : required)
    if (!has(key)) fail("the key '" + std::string(key) + "' is missing");
}

bool JsonNode::has(std::string_view key) const { return object().get(ref(key)) != nullptr; }

JsonNode JsonNode::operator[](std::string_view key) const {
  const llvm::json::Value* value = object().get(ref(key));
  if (value == nullptr) fail("the key '" + std::string(key) + "' is missing");
  return {*value, path_.empty() ? std::string(key) : path_ + "." + std::string(key)};
}

std::vector<std::pair<std::string, JsonNode>> JsonNode::members() const {
  std::vector<std::pair<std::string, JsonNode>> members;
  for (const auto& [key, value] : object()) members.emplace_back(key.str(), (*this)[std::string_view(key.str())]);
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return members;
}

std::string json_problem(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes)
    return fmt::format("it has {} bytes, expected at most {} MiB", text.size(), limits.bytes >> 20);
  std::size_t depth = 0, line = 1;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') ++line;
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > limits.depth) return fmt::format("it is nested deeper than {} (line {})", limits.depth, line);
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return "";
}

llvm::json::Value parse_json(std::string_view text, std::string_view what) {
  if (const std::string problem = json_problem(text); !problem.empty())
    throw CompileError(std::string(what) + ": " + problem);
  Prescan(text, what).run();
  llvm::Expected<llvm::json::Value> value = llvm::json::parse(ref(text));
  if (!value) throw CompileError(std::string(what) + " is not JSON: " + llvm::toString(value.takeError()));
  return std::move(*value);
}

}  // namespace arbiter
