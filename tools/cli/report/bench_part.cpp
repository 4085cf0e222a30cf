#include "report/bench_part.hpp"

#include <fmt/format.h>
#include <llvm/Support/JSON.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string_view>
#include <system_error>
#include <type_traits>

#include "arbiter/db/fields.hpp"
#include "arbiter/error.hpp"
#include "text/files.hpp"

namespace arbiter::cli {
namespace {

[[noreturn]] void refuse(const std::string& file, const std::string& what) {
  throw Error(fmt::format("'{}': {}; expected a database, or what arbiter bench --json prints", file, what));
}

Environment environment_of(const llvm::json::Object& object) {
  Environment environment;
  for_each_field(environment, [&]<typename Field>(std::string_view name, Field& field) {
    const llvm::StringRef key(name.data(), name.size());
    if constexpr (std::is_same_v<Field, std::string>) {
      field = object.getString(key).value_or("").str();
    } else if constexpr (std::is_same_v<Field, bool>) {
      field = object.getBoolean(key).value_or(false);
    } else if constexpr (std::is_same_v<Field, int>) {
      field = static_cast<int>(object.getInteger(key).value_or(0));
    } else {
      if (const llvm::json::Object* values = object.getObject(key)) {
        for (const auto& [variable, value] : *values) field[variable.str()] = value.getAsString().value_or("").str();
      }
    }
  });
  return environment;
}

/// "trtllm/oneshot_push:threads=256" -> backend, algorithm and name.
Candidate candidate_of(const std::string& name) {
  Candidate candidate;
  candidate.name = name;
  const std::size_t slash = name.find('/');
  if (slash == std::string::npos) throw InvalidArgument("'" + name + "' is no candidate");
  candidate.backend = parse_backend(name.substr(0, slash));
  candidate.algorithm = name.substr(slash + 1, name.find_first_of(":+", slash) - slash - 1);
  return candidate;
}

class Reader {
 public:
  explicit Reader(ReportPart& part) : part_(part) {}

  void add(const llvm::json::Object& row) {
    FamilySize size;
    Problem& problem = size.problem;
    problem.pattern = row.getString("pattern").value_or("").str();
    problem.dtype = parse_dtype(row.getString("dtype").value_or("").str());
    problem.mode = parse_mode(row.getString("mode").value_or("").str());
    problem.world = static_cast<int>(row.getInteger("world").value_or(0));
    problem.hidden = static_cast<int>(row.getInteger("hidden").value_or(0));
    problem.tokens = row.getInteger("tokens").value_or(0);
    const llvm::json::Object* results = row.getObject("results");
    if (results == nullptr || problem.world < 1 || problem.hidden < 1 || problem.tokens < 1) {
      throw InvalidArgument("a row without results");
    }
    double nccl_us = 0;
    for (const auto& [name, value] : *results) {
      const llvm::json::Object* result = value.getAsObject();
      if (result == nullptr || name == "auto" || !result->getNumber("median_us")) continue;
      const double us = *result->getNumber("median_us");
      const Candidate* candidate = keep(result->getString("chosen").value_or(name.str()).str());
      const auto [at, is_new] = size.families.try_emplace(family_name(*candidate), FamilyPoint{});
      if (is_new || us < at->second.median_us) {
        at->second = {candidate, us, result->getNumber("ci_low_us").value_or(us),
                      result->getNumber("ci_high_us").value_or(us)};
      }
      if (candidate->backend == Backend::nccl && (nccl_us == 0 || us < nccl_us)) nccl_us = us;
      ++size.tried;
      ++size.timed;
    }
    if (const llvm::json::Object* automatic = results->getObject("auto")) decide(size, *automatic, nccl_us);
    part_.curves.sizes.push_back(std::move(size));
  }

  /// A decision reaches to just below the next size that was timed.
  void finish() {
    for (Decision& decision : part_.decisions) {
      std::int64_t next = 0;
      for (const Decision& other : part_.decisions) {
        const bool same = other.pattern == decision.pattern && other.dtype == decision.dtype &&
                          other.hidden == decision.hidden && other.world == decision.world &&
                          other.mode == decision.mode;
        if (same && other.tokens_min > decision.tokens_min && (next == 0 || other.tokens_min < next)) {
          next = other.tokens_min;
        }
      }
      if (next > 0) decision.tokens_max = next - 1;
    }
  }

 private:
  const Candidate* keep(const std::string& name) {
    const auto [at, is_new] = part_.owned.try_emplace(name);
    if (is_new) at->second = candidate_of(name);
    return &at->second;
  }

  void decide(FamilySize& size, const llvm::json::Object& automatic, double nccl_us) {
    if (!automatic.getNumber("median_us") || !automatic.getString("chosen")) return;
    size.winner = keep(automatic.getString("chosen")->str());
    const Problem& problem = size.problem;
    Decision decision;
    decision.pattern = problem.pattern;
    decision.dtype = problem.dtype;
    decision.mode = problem.mode;
    decision.world = problem.world;
    decision.hidden = problem.hidden;
    decision.tokens_min = decision.tokens_max = problem.tokens;
    decision.candidate = *size.winner;
    decision.median_us = *automatic.getNumber("median_us");
    for (const auto& [family, point] : size.families) {
      if (family == family_name(*size.winner)) continue;
      if (decision.runner_up && decision.runner_up_median_us <= point.median_us) continue;
      decision.runner_up = *point.candidate;
      decision.runner_up_median_us = point.median_us;
    }
    part_.decisions.push_back(decision);
    part_.measured.push_back({problem.tokens, problem.bytes(), nccl_us});
  }

  ReportPart& part_;
};

}  // namespace

bool is_bench_file(const std::string& file) {
  // To look into a pipe takes from it, and a device may have no end.
  if (std::error_code error; !std::filesystem::is_regular_file(file, error)) return false;
  std::ifstream in(file, std::ios::binary);
  char first = '\0';
  in >> first;  // behind white space
  return first == '{';
}

ReportPart bench_part(const std::string& file) {
  auto parsed = llvm::json::parse(read_input(file));
  if (!parsed) refuse(file, llvm::toString(parsed.takeError()));
  const llvm::json::Object* document = parsed->getAsObject();
  const llvm::json::Object* environment = document == nullptr ? nullptr : document->getObject("environment");
  const llvm::json::Array* rows = document == nullptr ? nullptr : document->getArray("rows");
  if (environment == nullptr || rows == nullptr) refuse(file, "it has no environment or no rows");
  ReportPart part;
  part.file = file;
  try {
    part.environment = environment_of(*environment);
    Reader reader(part);
    for (const llvm::json::Value& row : *rows) {
      if (row.getAsObject() == nullptr) throw InvalidArgument("a row that is no object");
      reader.add(*row.getAsObject());
    }
    reader.finish();
  } catch (const InvalidArgument& error) {
    refuse(file, error.what());
  }
  return part;
}

}  // namespace arbiter::cli
