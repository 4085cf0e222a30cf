#include "report/data.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/generator/joined.hpp"
#include "ranks/result_text.hpp"
#include "report/family_curves.hpp"
#include "text/json.hpp"

namespace arbiter::cli {
namespace {

/// Numbers names in the order in which they sort.
class Index {
 public:
  void add(const std::string& name) { numbers_[name] = 0; }
  void number() {
    int next = 0;
    for (auto& [name, number] : numbers_) number = next++;
  }
  int operator[](const std::string& name) const { return numbers_.at(name); }
  const std::map<std::string, int>& names() const noexcept { return numbers_; }

 private:
  std::map<std::string, int> numbers_;
};

/// Where it stands in the catalogue, which only grows at its end: an algorithm has the same colour in every report.
int colour_of(const Candidate& candidate) {
  const std::vector<AlgorithmEntry>& algorithms = Catalogue::builtin().algorithms();
  for (std::size_t i = 0; i < algorithms.size(); ++i) {
    if (algorithms[i].backend == candidate.backend && algorithms[i].name == candidate.algorithm)
      return static_cast<int>(i);
  }
  int sum = 0;  // of a catalogue that this program does not know
  for (const char c : candidate.algorithm) sum = (31 * sum + static_cast<unsigned char>(c)) % 1009;
  return sum;
}

void write_facts(llvm::json::OStream& json, const Environment& e) {
  const std::string variables =
      joined(e.nccl_variables, " ", [](const auto& variable) { return variable.first + "=" + variable.second; });
  const bool gpu = e.device == "cuda";
  const auto number = [&](int value, const char* unit) { return gpu ? std::to_string(value) + unit : std::string(); };
  const std::pair<const char*, std::string> facts[] = {
      {"device", e.gpu_name + " (" + e.device + ")"},
      {"SMs", number(e.sm_count, "")},
      {"compute capability", gpu ? fmt::format("{}.{}", e.compute_capability / 10, e.compute_capability % 10) : ""},
      {"memory clock", number(e.memory_clock_mhz, " MHz")},
      {"power limit", number(e.power_limit_watts, " W")},
      {"driver", e.driver_version},
      {"CUDA runtime", e.cuda_runtime},
      {"compiler", e.compiler_version},
      {"NCCL", e.nccl_version},
      {"topology", e.topology},
      {"nodes", std::to_string(e.nodes)},
      {"ranks per node", std::to_string(e.ranks_per_node)},
      {"symmetric memory", e.symmetric_memory},
      {"multicast", gpu ? (e.multicast ? "used" : "not used") : ""},
      {"NCCL variables", variables},
      {"Arbiter", e.arbiter_version},
      {"catalogue", e.catalogue_hash.substr(0, 12)},
      {"environment", e.key()},
  };
  json.attributeArray("facts", [&] {
    for (const auto& fact : facts) {
      json.array([&] {
        json.value(fact.first);
        json.value(llvm::json::fixUTF8(fact.second));
      });
    }
  });
}

void write_runs(llvm::json::OStream& json, const Contents& contents, const std::string& key) {
  struct Count {
    std::int64_t trials = 0, done = 0;
  };
  std::map<std::string, Count> counts;
  for (const auto& [trial_key, trial] : contents.trials) {
    Count& count = counts[trial.run];
    ++count.trials;
    count.done += trial.status == TrialStatus::done ? 1 : 0;
  }
  std::vector<const Run*> runs;
  for (const auto& [id, stored] : contents.runs) {
    if (stored.environment == key) runs.push_back(&stored.run);
  }
  std::sort(runs.begin(), runs.end(),
            [](const Run* a, const Run* b) { return std::tie(a->started, a->id) < std::tie(b->started, b->id); });
  json.attributeArray("runs", [&] {
    for (const Run* run : runs) {
      json.object([&] {
        write_text(json, "id", run->id);
        write_text(json, "host", run->host);
        write_text(json, "command", run->command);
        json.attribute("started", run->started);
        json.attribute("finished", run->finished);
        json.attribute("trials", counts[run->id].trials);
        json.attribute("done", counts[run->id].done);
        json.attributeArray("clocks", [&] {
          json.value(run->sm_clock_start_mhz);
          json.value(run->sm_clock_end_mhz);
        });
        json.attributeArray("power", [&] {
          json.value(run->power_start_watts);
          json.value(run->power_end_watts);
        });
        json.attribute("clocks_dropped", run->clocks_dropped);
        json.attribute("power_dropped", run->power_dropped());
      });
    }
  });
}

struct Indices {
  Index families, candidates;
};

void write_family_of_problem(llvm::json::OStream& json, const std::string& pattern, Dtype dtype, Mode mode, int world,
                             int hidden) {
  write_text(json, "pattern", pattern);
  write_text(json, "dtype", to_string(dtype));
  write_text(json, "mode", to_string(mode));
  json.attribute("world", world);
  json.attribute("hidden", hidden);
}

void write_size(llvm::json::OStream& json, const FamilySize& size, const Indices& indices) {
  const Problem& p = size.problem;
  json.object([&] {
    write_family_of_problem(json, p.pattern, p.dtype, p.mode, p.world, p.hidden);
    json.attribute("tokens", p.tokens);
    json.attribute("bytes", p.bytes());
    write_field(json, "tried", size.tried);
    write_field(json, "timed", size.timed);
    json.attribute("winner", size.winner == nullptr ? -1 : indices.candidates[size.winner->name]);
    json.attribute("winner_family", size.winner == nullptr ? -1 : indices.families[family_name(*size.winner)]);
    json.attributeArray("points", [&] {
      for (const auto& [family, point] : size.families) {
        json.array([&, &family = family, &point = point] {
          json.value(indices.families[family]);
          json.value(indices.candidates[point.candidate->name]);
          for (const double us : {point.median_us, point.ci_low_us, point.ci_high_us}) write_number(json, us);
        });
      }
    });
  });
}

void write_decision(llvm::json::OStream& json, const Decision& d, const DecisionMeasurements& at,
                    const Indices& indices) {
  json.object([&] {
    write_family_of_problem(json, d.pattern, d.dtype, d.mode, d.world, d.hidden);
    json.attribute("tokens_min", d.tokens_min);
    json.attribute("tokens_max", d.tokens_max);
    json.attribute("bytes_max", d.bytes_max());
    json.attribute("bytes_timed", at.bytes);  // 0: not known
    write_number(json, "nccl_us", at.nccl_us);
    json.attribute("family", indices.families[family_name(d.candidate)]);
    json.attribute("candidate", indices.candidates[d.candidate.name]);
    write_number(json, "us", d.median_us);
    json.attribute("runner_up", d.runner_up ? indices.families[family_name(*d.runner_up)] : -1);
    write_number(json, "runner_up_us", d.runner_up ? d.runner_up_median_us : 0);
  });
}

/// Names in the order of their numbers, and what the page needs to know about a family.
Indices index_names(llvm::json::OStream& json, const std::vector<ReportPart>& parts) {
  std::map<std::string, const Candidate*> families;
  Indices indices;
  const auto add = [&](const Candidate& candidate) {
    families.emplace(family_name(candidate), &candidate);
    indices.families.add(family_name(candidate));
    indices.candidates.add(candidate.name);
  };
  for (const ReportPart& part : parts) {
    for (const FamilySize& size : part.curves.sizes) {
      if (size.winner != nullptr) add(*size.winner);
      for (const auto& [family, point] : size.families) add(*point.candidate);
    }
    for (const Decision& decision : part.decisions) {
      add(decision.candidate);
      if (decision.runner_up) add(*decision.runner_up);
    }
  }
  indices.families.number();
  indices.candidates.number();
  json.attributeArray("families", [&] {
    for (const auto& [name, candidate] : families) {
      json.object([&, &name = name, candidate = candidate] {
        const std::string base = std::string(to_string(candidate->backend)) + "/" + candidate->algorithm;
        write_text(json, "name", name);
        write_text(json, "backend", to_string(candidate->backend));
        write_text(json, "algorithm", candidate->algorithm);
        write_text(json, "base", base);
        json.attribute("unfused", name != base);
        json.attribute("colour", colour_of(*candidate));
      });
    }
  });
  json.attributeArray("candidates", [&] {
    for (const auto& [name, number] : indices.candidates.names()) json.value(llvm::json::fixUTF8(name));
  });
  return indices;
}

/// "<" could end the element or begin a comment; inside JSON text it occurs in strings only.
std::string safe_in_script(const std::string& json) {
  std::string safe;
  safe.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

}  // namespace

std::vector<ReportPart> report_parts(const Contents& contents, const EnvironmentFilter& filter,
                                     const std::string& file) {
  std::vector<ReportPart> parts;
  for (const auto& [key, environment] : contents.environments) {
    if (!filter.admits(environment)) continue;
    ReportPart part;
    part.file = file;
    part.environment = environment;
    part.contents = &contents;
    part.curves = family_curves(contents, key, true);
    if (part.curves.sizes.empty()) continue;
    const auto decisions = contents.decisions.find(key);
    if (decisions != contents.decisions.end()) part.decisions = decisions->second;
    const Measurements measurements(contents, key);
    for (const Decision& decision : part.decisions) part.measured.push_back(measurements.of(decision));
    parts.push_back(std::move(part));
  }
  if (parts.empty()) {
    const bool all = filter.device.empty() && filter.key.empty();
    throw DatabaseError(file + (all ? " has nothing to report; make some measurements with: arbiter tune --db " + file
                                    : " has nothing to report for this device or environment"));
  }
  // GPUs first: who has both in one file asks about those.
  std::stable_partition(parts.begin(), parts.end(),
                        [](const ReportPart& part) { return part.environment.device != "cpu"; });
  return parts;
}

std::string report_data(const std::vector<ReportPart>& parts) {
  std::vector<std::string> files;
  for (const ReportPart& part : parts) {
    if (std::find(files.begin(), files.end(), part.file) == files.end()) files.push_back(part.file);
  }
  return safe_in_script(json_text([&](llvm::json::OStream& json) {
    write_text(json, "version", version());
    write_text(json, "file", joined(files, ", "));
    const Indices indices = index_names(json, parts);
    json.attributeArray("environments", [&] {
      for (const ReportPart& part : parts) {
        json.object([&] {
          write_text(json, "key", part.environment.key());
          write_text(json, "file", part.file);
          write_text(json, "title", part.environment.gpu_name + " (" + part.environment.device + ")");
          json.attribute("snapshot", part.curves.snapshot);
          json.attribute("sizes_known", part.curves.sizes_known);
          write_facts(json, part.environment);
          if (part.contents != nullptr) {
            write_runs(json, *part.contents, part.environment.key());
          } else {
            json.attributeArray("runs", [] {});
          }
          json.attributeArray("problems", [&] {
            for (const FamilySize& size : part.curves.sizes) write_size(json, size, indices);
          });
          json.attributeArray("decisions", [&] {
            for (std::size_t i = 0; i < part.decisions.size(); ++i) {
              write_decision(json, part.decisions[i], part.measured[i], indices);
            }
          });
        });
      }
    });
  }));
}

}  // namespace arbiter::cli
