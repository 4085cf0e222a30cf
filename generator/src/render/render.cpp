#include "arbiter/generator/render.hpp"

#include <fmt/format.h>
#include <llvm/Support/Allocator.h>
#include <llvm/Support/Mustache.h>
#include <llvm/Support/StringSaver.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "catalogue/keys.hpp"
#include "render/template_scan.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

constexpr std::size_t max_depth = 64;                        // of partials in partials
constexpr std::size_t max_rendered = std::size_t{64} << 20;  // bytes

// One file, checked, and rewritten for llvm::mustache, which
//  - takes a section for every string, even an empty one: sections are renamed to "key?", whose value is a boolean;
//  - loses the keys in a partial that stands in a section, and cuts a partial's name at the first dot: partials are put
//    in place of their tags;
//  - keeps references into the text it parses.
struct File {
  std::string_view path;
  std::string_view text;
  std::vector<Tag> tags;
};

class Renderer {
 public:
  Renderer(const Context& context, const TemplateMap& templates) : context_(context), templates_(templates) {
    check_context();
  }

  std::string run(const std::string& path) {
    if (templates_.find(path) == templates_.end()) throw CompileError(unknown_template("template", path));
    File& root = file(path);
    check(root);

    llvm::BumpPtrAllocator allocator;
    llvm::StringSaver saver(allocator);
    llvm::mustache::MustacheContext mustache(allocator, saver);
    const std::string rewritten = rewrite(root);  // the syntax tree refers to it
    llvm::mustache::Template compiled(rewritten, mustache);
    compiled.overrideEscapeCharacters(llvm::DenseMap<char, std::string>());  // no HTML escapes
    std::string text;
    text.reserve(std::size_t{64} << 10);
    llvm::raw_string_ostream stream(text);
    compiled.render(data(), stream);
    return text;
  }

 private:
  // What llvm::json would assert on, and keys that no tag could name.
  void check_context() const {
    const auto check_keys = [](const Keys& keys) {
      for (const auto& [key, value] : keys) {
        if (!is_identifier(key)) throw CompileError("template key '" + key + "' is not of the form [a-z][a-z0-9_]*");
        if (!llvm::json::isUTF8(value)) throw CompileError("the value of template key '" + key + "' is not UTF-8");
      }
    };
    check_keys(context_.keys);
    for (const auto& [name, entries] : context_.lists) {
      check_keys({{name, ""}});
      if (context_.keys.count(name) != 0) throw CompileError("template key '" + name + "' is both a value and a list");
      for (const Keys& entry : entries) {
        check_keys(entry);
        for (const auto& [key, value] : entry)
          if (context_.lists.count(key) != 0)
            throw CompileError("template key '" + key + "' is both a list and a value in an entry of '" + name + "'");
        const auto same_key = [](const auto& a, const auto& b) { return a.first == b.first; };
        if (!std::equal(entry.begin(), entry.end(), entries[0].begin(), entries[0].end(), same_key))
          throw CompileError("the entries of template list '" + name + "' do not have the same keys");
      }
    }
  }

  File& file(std::string_view path) {
    if (const auto known = files_.find(path); known != files_.end()) return known->second;
    const auto found = templates_.find(path);
    File& added = files_[std::string(path)];
    added.path = found->first;
    added.text = found->second;
    added.tags = scan_template(path, found->second);
    return added;
  }

  // Walk a file and its partials as rendering would, with the lists that are open around it. Returns an upper bound of
  // the bytes rendered, so that partials that multiply each other are refused instead of filling the memory.
  std::size_t check(File& file) {
    std::string state(file.path);
    for (const std::string_view list : open_lists_) state.append(":").append(list);
    if (const auto known = checked_.find(state); known != checked_.end()) return known->second;
    active_.push_back(file.path);

    std::size_t bytes = file.text.size();
    std::vector<std::size_t> outside;  // bytes before each open section
    std::vector<bool> is_list;
    for (const Tag& tag : file.tags) {
      switch (tag.kind) {
        case Tag::Kind::variable:
          bytes += value_size(file, tag);
          break;
        case Tag::Kind::section:
        case Tag::Kind::inverted_section:
          is_list.push_back(open_section(file, tag));
          outside.push_back(std::exchange(bytes, 0));
          break;
        case Tag::Kind::close:
          if (is_list.back()) {
            bytes *= std::max<std::size_t>(context_.lists.find(tag.name)->second.size(), 1);
            open_lists_.pop_back();
          }
          bytes += outside.back();
          is_list.pop_back();
          outside.pop_back();
          break;
        case Tag::Kind::partial:
          bytes += check(partial(file, tag));
          break;
        case Tag::Kind::comment:
          break;
      }
      if (bytes > max_rendered) fail_at(file.path, tag.line, "the rendered text would be larger than 64 MiB");
    }
    active_.pop_back();
    checked_.emplace(std::move(state), bytes);
    return bytes;
  }

  std::size_t value_size(const File& file, const Tag& tag) const {
    const std::string* value = find_value(tag.name);
    if (value == nullptr) {
      if (context_.lists.find(tag.name) != context_.lists.end())
        fail_at(file.path, tag.line, quote(tag.name) + " is a list: it can only be a section");
      fail_unknown_key(file, tag);
    }
    return value->size();
  }

  // True for a list, which is then open.
  bool open_section(const File& file, const Tag& tag) {
    if (find_value(tag.name) != nullptr) return false;
    const auto list = context_.lists.find(tag.name);
    if (list == context_.lists.end()) fail_unknown_key(file, tag);
    if (tag.kind == Tag::Kind::inverted_section) return false;
    open_lists_.push_back(list->first);
    return true;
  }

  const std::string* find_value(std::string_view key) const {
    for (const std::string_view list : open_lists_) {
      const std::vector<Keys>& entries = context_.lists.find(list)->second;
      if (entries.empty()) continue;
      if (const auto found = entries[0].find(key); found != entries[0].end()) return &found->second;
    }
    const auto found = context_.keys.find(key);
    return found == context_.keys.end() ? nullptr : &found->second;
  }

  File& partial(const File& from, const Tag& tag) {
    const std::string_view path = partial_path(from, tag);
    if (templates_.find(path) == templates_.end()) fail_at(from.path, tag.line, unknown_template("partial", path));
    if (std::find(active_.begin(), active_.end(), path) != active_.end()) {
      std::string chain;
      for (const std::string_view active : active_) chain.append(active).append(" -> ");
      fail_at(from.path, tag.line, "a partial includes itself: " + chain + std::string(path));
    }
    if (active_.size() == max_depth)
      fail_at(from.path, tag.line, fmt::format("partials are nested deeper than {}", max_depth));
    return file(path);
  }

  std::string_view partial_path(const File& from, const Tag& tag) const {
    if (!tag.name.starts_with('@')) return tag.name;
    const auto alias = context_.aliases.find(tag.name.substr(1));
    if (alias != context_.aliases.end()) return alias->second;
    std::vector<std::string_view> valid;
    for (const auto& [name, path] : context_.aliases) valid.push_back(name);
    fail_at(from.path, tag.line, unknown_name_message("partial", tag.name.substr(1), valid));
  }

  std::string unknown_template(std::string_view kind, std::string_view path) const {
    std::vector<std::string_view> valid;
    for (const auto& [name, text] : templates_) valid.push_back(name);
    return unknown_name_message(kind, path, valid);
  }

  [[noreturn]] void fail_unknown_key(const File& file, const Tag& tag) const {
    std::vector<std::string_view> valid;
    for (const auto& [key, value] : context_.keys) valid.push_back(key);
    for (const auto& [list, entries] : context_.lists) valid.push_back(list);
    for (const std::string_view list : open_lists_)
      if (const auto& entries = context_.lists.find(list)->second; !entries.empty())
        for (const auto& [key, value] : entries[0]) valid.push_back(key);
    fail_at(file.path, tag.line, unknown_name_message("key", tag.name, valid));
  }

  std::string rewrite(const File& file) const {
    std::string text;
    text.reserve(file.text.size() + 4 * file.tags.size());
    std::size_t copied = 0;
    for (const Tag& tag : file.tags) {
      text.append(file.text.substr(copied, tag.begin - copied));
      copied = tag.end;
      const bool list = context_.lists.find(tag.name) != context_.lists.end();
      const std::string section = std::string(tag.name) + (list ? "" : "?");
      switch (tag.kind) {
        case Tag::Kind::variable:
          text.append("{{").append(tag.name).append("}}");
          break;
        case Tag::Kind::section:
          text.append("{{#").append(section).append("}}");
          break;
        case Tag::Kind::inverted_section:
          text.append("{{^").append(section).append("}}");
          break;
        case Tag::Kind::close:
          text.append("{{/").append(section).append("}}");
          break;
        case Tag::Kind::partial: {
          text.append(rewrite(files_.find(partial_path(file, tag))->second));
          // A tag that has a line of its own takes the line with it.
          const bool alone = tag.begin == 0 || file.text[tag.begin - 1] == '\n';
          if (alone && tag.end < file.text.size() && file.text[tag.end] == '\n') ++copied;
          break;
        }
        case Tag::Kind::comment:
          text.append("{{!}}");
          break;
      }
    }
    return text.append(file.text.substr(copied));
  }

  static llvm::json::Object object(const Keys& keys) {
    llvm::json::Object object;
    for (const auto& [key, value] : keys) {
      object[key] = value;
      object[key + "?"] = !value.empty() && value != "0";
    }
    return object;
  }

  llvm::json::Value data() const {
    llvm::json::Object root = object(context_.keys);
    for (const auto& [name, entries] : context_.lists) {
      llvm::json::Array array;
      for (const Keys& entry : entries) array.push_back(object(entry));
      root[name] = std::move(array);
    }
    return root;
  }

  const Context& context_;
  const TemplateMap& templates_;
  std::map<std::string, File, std::less<>> files_;
  std::map<std::string, std::size_t> checked_;
  std::vector<std::string_view> active_;
  std::vector<std::string_view> open_lists_;
};

}  // namespace

std::string render(std::string_view template_name, const Context& context, const TemplateMap& templates) {
  return Renderer(context, templates).run(std::string(template_name) + ".mustache");
}

std::string render(std::string_view template_name, const Keys& keys, const TemplateMap& templates) {
  return render(template_name, Context{keys, {}, {}}, templates);
}

}  // namespace arbiter
