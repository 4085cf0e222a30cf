#include "communicator/decisions.hpp"

#include <fmt/format.h>

#include <type_traits>

#include "arbiter/db/fields.hpp"
#include "arbiter/error.hpp"
#include "environment/hash.hpp"
#include "group/collective.hpp"

namespace arbiter {
namespace {

/// Two lists of decisions are equal exactly when these are.
std::string digest(const std::vector<DecisionSet>& sets) {
  std::vector<std::string> fields;
  const auto add = [&](const auto& record) {
    for_each_field(record, [&]<typename Value>(const char*, const Value& value) {
      if constexpr (std::is_enum_v<Value>) {
        fields.emplace_back(to_string(value));
      } else {
        fields.push_back(fmt::format("{}", value));
      }
    });
  };
  for (const DecisionSet& set : sets) {
    fields.insert(fields.end(), {"environment", set.environment.key()});
    for (const Decision& decision : set.decisions) {
      fields.emplace_back("decision");
      add(decision);
      add(decision.candidate);
      if (decision.runner_up) add(*decision.runner_up);
      // What is compiled is held against what was timed, so the ranks must know the same about that too.
      for_each_later_field(decision,
                           [&](const char*, const auto& value) { fields.push_back(fmt::format("{}", value)); });
    }
  }
  return hash_of_fields(fields);
}

std::size_t count(const std::vector<DecisionSet>& sets) {
  std::size_t total = 0;
  for (const DecisionSet& set : sets) total += set.decisions.size();
  return total;
}

LoadedDecisions read_decisions_of_rank_0(Bootstrap& bootstrap, const CommunicatorOptions& options, bool& required) {
  LoadedDecisions loaded;
  std::string given = "none";
  if (options.decisions) {
    given = fmt::format("{} decisions, hash {}", count(*options.decisions), digest(*options.decisions).substr(0, 16));
  }
  require_equal(bootstrap, "creating a communicator", {{"decisions given by the caller", given}});
  if (options.decisions) {
    loaded.sets = *options.decisions;
    loaded.source = "given by the caller";
    return loaded;
  }

  // Rank 0's file, so that all ranks use the same bytes even when their file systems do not show the same.
  std::string message;
  if (bootstrap.rank() == 0) {
    std::string name = options.variables.db;
    std::string bytes;
    std::string problem;
    std::string why_not = "set ARBITER_KERNELS=on if you trust whoever made it with what runs as you";
    if (!options.decisions_data.empty()) {
      name = "decisions given in memory";
      bytes = options.decisions_data;
      if (options.variables.kernels) why_not = "bytes in memory have no owner: trust_decisions_data says that they may";
      if (options.trust_decisions_data) why_not.clear();
    } else if (!name.empty()) {
      try {
        bytes = read_for_broadcast(name);
        if (options.variables.kernels && carried_kernels_in_bytes(bytes, name).count != 0) {
          why_not = untrusted_kernels(name, bytes);
        }
      } catch (const std::exception& error) {
        problem = error.what();
      }
    }
    message = pack({name, bytes, problem, why_not, options.require_decisions ? "required" : ""});
  }
  const std::vector<std::string> fields = unpack(bootstrap.broadcast(message, 0));
  if (fields.size() != 5) throw Disagreement("creating a communicator: rank 0 sent no database message");
  loaded.problem = fields[2];
  required = !fields[4].empty();
  if (fields[0].empty() || !loaded.problem.empty()) return loaded;
  try {
    loaded.sets = read_decisions_from_bytes(fields[1], fields[0]);
    if (const std::string& why_not = fields[3]; why_not.empty()) {
      loaded.kernels = std::make_shared<const KernelSet>(read_kernels_from_bytes(fields[1], fields[0]));
    } else if (const CarriedKernels carried = carried_kernels_in_bytes(fields[1], fields[0]); carried.count != 0) {
      loaded.kernels_note = not_loaded(fields[0], carried) + ": " + why_not;
    }
    loaded.source = fields[0];
  } catch (const std::exception& error) {
    loaded.sets.clear();  // nothing of a file that is damaged anywhere
    loaded.problem = error.what();
  }
  // The bytes are equal, but reading them can still fail on one rank (memory, a temporary file).
  require_equal(bootstrap, "creating a communicator", {{"decisions in " + fields[0], digest(loaded.sets)}});
  return loaded;
}

}  // namespace

LoadedDecisions load_decisions(Bootstrap& bootstrap, const CommunicatorOptions& options) {
  bool required = false;
  LoadedDecisions loaded = read_decisions_of_rank_0(bootstrap, options, required);
  // What rank 0 could not read is a problem on every rank; what a rank alone could not read, it says itself.
  everywhere(bootstrap, "load the decisions that were asked for", [&] {
    if (required && !loaded.problem.empty()) throw DatabaseError(loaded.problem);
  });
  return loaded;
}

}  // namespace arbiter
