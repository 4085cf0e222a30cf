#include "commands/link_seeds.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/tuner/link_check.hpp"
#include "commands/command.hpp"
#include "ranks/session.hpp"
#include "ranks/tools.hpp"
#include "text/json.hpp"
#include "text/numbers.hpp"
#include "text/print.hpp"
#include "text/table.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

constexpr std::uint64_t seeds_at_once = 100;  // between two looks at the clock
constexpr std::size_t most_failures_told = 3;

struct SeedRange {
  std::uint64_t first = 1;
  std::uint64_t last = 1;
};

/// "1000" or "1001-2000".
SeedRange parse_seeds(const std::string& text) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const auto number = [&](const std::string& part) {
    return static_cast<std::uint64_t>(parse_integer(part, "--link-seeds", 1, most));
  };
  const std::size_t dash = text.find('-', 1);
  if (dash == std::string::npos) return {1, number(text)};
  const SeedRange range{number(text.substr(0, dash)), number(text.substr(dash + 1))};
  if (range.first > range.last) throw UsageError("--link-seeds " + text + ": the first seed is behind the last one");
  return range;
}

/// One algorithm with one number of ranks.
struct Proof {
  LinkCheckOptions options;
  std::string unavailable;  // why there is none
  std::uint64_t seeds = 0;
  std::vector<std::pair<std::uint64_t, std::string>> failures;  // the first ones
  std::uint64_t failed = 0;
  CpuLinkStatistics statistics;
  double seconds = 0;
};

std::vector<Proof> read_proofs(const Options& options) {
  const std::vector<LinkCheckOptions> algorithms = link_check_algorithms();
  std::vector<std::string> names;
  for (const LinkCheckOptions& one : algorithms) {
    names.push_back(one.algorithm);
    names.push_back(one.name());
  }
  const std::vector<std::string> wanted = options.texts("algorithm");
  for (const std::string& name : wanted) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    throw UsageError(
        unknown_name_message("algorithm", name, std::vector<std::string_view>(names.begin(), names.end())));
  }
  std::vector<Proof> proofs;
  for (const int world : options.integers(options.has("ranks") ? "ranks" : "world", 2, max_world, {2, 3, 4})) {
    for (const LinkCheckOptions& one : algorithms) {
      Proof proof;
      proof.options = one;
      proof.options.world = world;
      const bool chosen = wanted.empty() || std::find(wanted.begin(), wanted.end(), one.algorithm) != wanted.end() ||
                          std::find(wanted.begin(), wanted.end(), proof.options.name()) != wanted.end();
      if (chosen) proofs.push_back(std::move(proof));
    }
  }
  return proofs;
}

void run(Proof& proof, const SeedRange& range, ProgressLine& progress, const std::string& which) {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  std::unique_ptr<LinkCheck> check;
  try {
    check = std::make_unique<LinkCheck>(proof.options);
  } catch (const Unsupported& error) {
    proof.unavailable = error.what();
    return;
  }
  const std::uint64_t count = range.last - range.first + 1;
  while (proof.seeds < count) {
    const std::uint64_t until = std::min(proof.seeds + seeds_at_once, count);
    for (; proof.seeds < until; ++proof.seeds) {
      const std::uint64_t seed = range.first + proof.seeds;
      std::string wrong = check->run(seed);
      if (wrong.empty()) continue;
      if (++proof.failed <= most_failures_told) proof.failures.emplace_back(seed, std::move(wrong));
    }
    proof.seconds = elapsed();
    const double left = proof.seconds / static_cast<double>(proof.seeds) * static_cast<double>(count - proof.seeds);
    progress.update(fmt::format("{} {} with {} ranks: {} of {} seeds, {} left for it", which, proof.options.name(),
                                proof.options.world, proof.seeds, count, format_seconds(left)));
  }
  proof.statistics = check->statistics();
}

void print_as_json(const std::vector<Proof>& proofs, const SeedRange& range, const std::string& command) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    if (!command.empty()) write_text(json, "command", command);
    write_field(json, "first_seed", range.first);
    write_field(json, "last_seed", range.last);
    json.attributeArray("algorithms", [&] {
      for (const Proof& proof : proofs) {
        json.object([&] {
          write_text(json, "backend", to_string(proof.options.backend));
          write_text(json, "algorithm", proof.options.algorithm);
          json.attribute("world", proof.options.world);
          if (!proof.unavailable.empty()) write_text(json, "unavailable", proof.unavailable);
          write_field(json, "seeds", proof.seeds);
          write_field(json, "failed", proof.failed);
          json.attributeArray("failures", [&] {
            for (const auto& [seed, text] : proof.failures) {
              json.object([&, seed = seed, &text = text] {
                write_field(json, "seed", seed);
                write_text(json, "reason", text);
              });
            }
          });
          write_field(json, "stores", proof.statistics.stores);
          write_field(json, "torn", proof.statistics.torn);
          write_field(json, "overtaken", proof.statistics.overtaken);
          write_number(json, "seconds", proof.seconds);
        });
      }
    });
  });
}

void print_as_table(const std::vector<Proof>& proofs) {
  Table table({"algorithm", "ranks", "seeds", "failed", "stores", "torn", "ms a seed"});
  for (const Proof& proof : proofs) {
    for (const auto& failure : proof.failures) print("FAILED %s\n\n", failure.second.c_str());
    if (!proof.unavailable.empty()) {
      table.add({proof.options.name(), std::to_string(proof.options.world), "-", "-", "-", "-", "-"});
      continue;
    }
    std::array<char, 32> milliseconds{};
    std::snprintf(milliseconds.data(), milliseconds.size(), "%.2f",
                  proof.seconds * 1e3 / static_cast<double>(proof.seeds));
    table.add({proof.options.name(), std::to_string(proof.options.world), std::to_string(proof.seeds),
               std::to_string(proof.failed), std::to_string(proof.statistics.stores),
               std::to_string(proof.statistics.torn), milliseconds.data()});
  }
  table.print();
  for (const Proof& proof : proofs) {
    if (!proof.unavailable.empty()) print("%s\n", proof.unavailable.c_str());
  }
}

}  // namespace

int run_link_seeds(const Options& options) {
  if (options.text("device") != "cpu")
    throw UsageError("--link-seeds needs --device cpu: the link model is part of it");
  for (const char* other : {"area", "full", "gpus", "in-process", "seed"}) {
    if (options.has(other)) throw UsageError(std::string("--link-seeds and --") + other + " do not go together");
  }
  const SeedRange range = parse_seeds(options.text("link-seeds"));
  std::vector<Proof> proofs = read_proofs(options);
  const EnvironmentVariables variables = EnvironmentVariables::read();
  const std::shared_ptr<KernelCache> cache = make_cache(variables);
  std::uint64_t seeds = 0;
  std::uint64_t failed = 0;
  {
    ProgressLine progress;
    for (std::size_t i = 0; i < proofs.size(); ++i) {
      proofs[i].options.variables = variables;
      proofs[i].options.cache = cache;
      run(proofs[i], range, progress, fmt::format("[{}/{}]", i + 1, proofs.size()));
      seeds += proofs[i].seeds;
      failed += proofs[i].failed;
    }
  }
  if (options.has("json")) {
    print_as_json(proofs, range, options.has("record") ? command_text("verify", options.arguments()) : "");
  } else {
    print_as_table(proofs);
  }
  return failed == 0 && seeds != 0 ? exit_success : exit_failure;
}

}  // namespace arbiter::cli
