// arbiter cache: list, check and clear the kernel cache.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/cache.hpp"
#include "arbiter/variables.hpp"
#include "arbiter/vocabulary.hpp"
#include "commands/command.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

std::string age(std::int64_t last_used) {
  const std::int64_t seconds = std::max<std::int64_t>(0, static_cast<std::int64_t>(std::time(nullptr)) - last_used);
  return format_seconds(static_cast<double>(seconds));
}

void list(const KernelCache& cache, bool as_json) {
  const std::vector<CacheEntry> entries = cache.list();
  std::uint64_t bytes = 0;
  for (const CacheEntry& entry : entries) bytes += entry.bytes;
  if (as_json) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      write_text(json, "directory", cache.options().directory.string());
      json.attribute("bytes", bytes);
      json.attribute("max_bytes", cache.options().max_bytes);
      json.attributeArray("entries", [&] {
        for (const CacheEntry& entry : entries) {
          json.object([&] {
            write_text(json, "key", entry.key);
            write_text(json, "name", entry.name);
            write_text(json, "target", entry.target);
            json.attribute("bytes", entry.bytes);
            json.attribute("last_used", entry.last_used);
          });
        }
      });
    });
    return;
  }
  if (!entries.empty()) {
    Table table({"kernel", "target", "size", "unused for"});
    for (const CacheEntry& entry : entries) {
      table.add({entry.name, entry.target, format_bytes(entry.bytes), age(entry.last_used)});
    }
    table.print();
    print("\n");
  }
  print("%zu entries, %s of at most %s, in %s\n", entries.size(), format_bytes(bytes).c_str(),
        format_bytes(cache.options().max_bytes).c_str(), cache.options().directory.c_str());
}

}  // namespace

Options cache_options() {
  Options options("cache",
                  "Looks into the kernel cache, where every compiled kernel of this node is kept once.\n"
                  "Its place is ARBITER_CACHE_DIR (default: $XDG_CACHE_HOME/arbiter, else ~/.cache/arbiter).",
                  "arbiter cache list\narbiter cache verify");
  options
      .words("list|verify|clear|path",
             "  list    every entry, its size, and when it was used last (the default)\n"
             "  verify  check every entry and remove the broken ones\n"
             "  clear   remove everything\n"
             "  path    print the directory",
             1)
      .choices({"list", "verify", "clear", "path"})
      .flag("json", "for programs (with list and verify); see docs/cli.md");
  return options;
}

int run_cache(const Options& options) {
  constexpr std::string_view actions[] = {"list", "verify", "clear", "path"};
  const std::string action = options.words().empty() ? "list" : options.words().front();
  if (std::find(std::begin(actions), std::end(actions), action) == std::end(actions)) {
    throw UsageError(unknown_name_message("action", action, actions));
  }
  CacheOptions cache_options;
  cache_options.directory = EnvironmentVariables::read().cache_dir;
  if (cache_options.directory.empty()) {
    throw UsageError(
        "there is no kernel cache, because HOME is not set and this user has no entry in passwd; set "
        "ARBITER_CACHE_DIR");
  }
  if (action == "path") {
    print("%s\n", cache_options.directory.c_str());
    return exit_success;
  }
  KernelCache cache(cache_options);
  if (action == "list") {
    list(cache, options.has("json"));
  } else if (action == "verify") {
    const std::size_t broken = cache.verify();
    const std::size_t good = cache.list().size();
    if (options.has("json")) {
      print_json([&](llvm::json::OStream& json) {
        json.attribute("schema", json_schema);
        write_field(json, "removed", broken);
        write_field(json, "good", good);
      });
    } else {
      print("%zu entries are good; %zu broken ones were removed\n", good, broken);
    }
  } else {
    const std::size_t entries = cache.list().size();
    cache.clear();
    print("removed %zu entries from %s\n", entries, cache_options.directory.c_str());
  }
  return exit_success;
}

}  // namespace arbiter::cli
