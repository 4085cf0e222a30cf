#include "group/collective.hpp"

#include <fmt/format.h>

#include <charconv>
#include <exception>
#include <map>
#include <new>

#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"

namespace arbiter {
namespace {

// The kind of an exception travels as a word, so that ranks that did not fail can throw the same kind.
std::string kind_of(const std::exception& error) {
  if (dynamic_cast<const InvalidArgument*>(&error) != nullptr) return "invalid_argument";
  if (dynamic_cast<const Unsupported*>(&error) != nullptr) return "unsupported";
  if (dynamic_cast<const Unavailable*>(&error) != nullptr) return "unavailable";
  if (dynamic_cast<const CompileError*>(&error) != nullptr) return "compile";
  if (dynamic_cast<const DatabaseError*>(&error) != nullptr) return "database";
  if (dynamic_cast<const Disagreement*>(&error) != nullptr) return "disagreement";
  if (dynamic_cast<const Poisoned*>(&error) != nullptr) return "poisoned";
  return "device";
}

[[noreturn]] void throw_as(const std::string& kind, const std::string& message) {
  if (kind == "invalid_argument") throw InvalidArgument(message);
  if (kind == "unsupported") throw Unsupported(message);
  if (kind == "unavailable") throw Unavailable(message);
  if (kind == "compile") throw CompileError(message);
  if (kind == "database") throw DatabaseError(message);
  if (kind == "disagreement") throw Disagreement(message);
  if (kind == "poisoned") throw Poisoned(message);
  throw DeviceError(message);
}

std::string shortened(const std::string& value) {
  constexpr std::size_t limit = 160;
  return value.size() <= limit ? value : value.substr(0, limit) + "...";
}

}  // namespace

void everywhere(Bootstrap& bootstrap, std::string_view what, const std::function<void()>& local) {
  std::exception_ptr mine;
  std::string report;
  try {
    local();
  } catch (const std::bad_alloc&) {
    const Unavailable error("no memory is left");
    mine = std::make_exception_ptr(error);
    report = kind_of(error) + ":" + error.what();
  } catch (const std::exception& error) {
    mine = std::current_exception();
    report = kind_of(error) + ":" + error.what();
  }
  const std::vector<std::string> all = bootstrap.allgather(report);
  if (mine) std::rethrow_exception(mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const std::size_t colon = all[rank].find(':');
    throw_as(all[rank].substr(0, colon),
             fmt::format("rank {} could not {}: {}", rank, what, all[rank].substr(colon + 1)));
  }
}

void require_equal(Bootstrap& bootstrap, std::string_view where, const NamedValues& mine) {
  std::vector<std::string> fields;
  for (const auto& [name, value] : mine) {
    fields.push_back(name);
    fields.push_back(value);
  }
  const std::vector<std::string> all = bootstrap.allgather(pack(fields));

  // Group ranks by value, name by name; a name that a rank does not have counts as a value of its own.
  std::vector<std::string> names;
  std::vector<std::map<std::string, std::string>> values(all.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const std::vector<std::string> theirs = unpack(all[rank]);
    for (std::size_t i = 0; i + 1 < theirs.size(); i += 2) {
      if (!values[rank].emplace(theirs[i], theirs[i + 1]).second) continue;
      bool known = false;
      for (const std::string& name : names) known = known || name == theirs[i];
      if (!known) names.push_back(theirs[i]);
    }
  }
  std::string differences;
  for (const std::string& name : names) {
    std::map<std::string, std::vector<int>> ranks_by_value;
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
      const auto found = values[rank].find(name);
      ranks_by_value[found == values[rank].end() ? "(nothing)" : found->second].push_back(static_cast<int>(rank));
    }
    if (ranks_by_value.size() == 1) continue;
    differences += fmt::format("\n  {}: {}", name, joined(ranks_by_value, "; ", [](const auto& item) {
                                 return list_ranks(item.second) + ": " + shortened(item.first);
                               }));
  }
  if (differences.empty()) return;
  throw Disagreement(std::string(where) + ": the ranks do not agree. Pass the same on every rank." + differences);
}

std::string list_ranks(const std::vector<int>& ranks) {
  return fmt::format("rank{} {}", ranks.size() == 1 ? "" : "s", joined(ranks, ", "));
}

std::string pack(const std::vector<std::string>& fields) {
  std::string text;
  for (const std::string& field : fields) text += fmt::format("{}:{}", field.size(), field);
  return text;
}

std::vector<std::string> unpack(std::string_view text) {
  std::vector<std::string> fields;
  while (!text.empty()) {
    std::size_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    const auto digits = static_cast<std::size_t>(end - text.data());
    if (error != std::errc() || digits >= text.size() || text[digits] != ':' || size > text.size() - digits - 1) {
      throw Disagreement(
          "a message from another rank cannot be read: are all ranks running the same version, and making the same "
          "calls in the same order?");
    }
    fields.emplace_back(text.substr(digits + 1, size));
    text.remove_prefix(digits + 1 + size);
  }
  return fields;
}

}  // namespace arbiter
