// The fields of the records, once: names, order and members. Text forms, rows, digests and checks go by it, so that a
// new field is a line here and a column in the schema.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>

#include "arbiter/db/records.hpp"

namespace arbiter {

template <typename Record, typename Plain>
concept record_of = std::same_as<std::remove_const_t<Record>, Plain>;

/// visit(name, member) for every field, in the order in which JSON shows them. Names are those of the columns.
template <record_of<Environment> Record, typename Visit>
void for_each_field(Record& environment, Visit&& visit) {
  visit("device", environment.device);
  visit("gpu_name", environment.gpu_name);
  visit("sm_count", environment.sm_count);
  visit("compute_capability", environment.compute_capability);
  visit("memory_clock_mhz", environment.memory_clock_mhz);
  visit("power_limit_watts", environment.power_limit_watts);
  visit("driver_version", environment.driver_version);
  visit("cuda_runtime", environment.cuda_runtime);
  visit("compiler_version", environment.compiler_version);
  visit("nccl_version", environment.nccl_version);
  visit("topology", environment.topology);
  visit("nodes", environment.nodes);
  visit("ranks_per_node", environment.ranks_per_node);
  visit("nvlink_domains", environment.nvlink_domains);
  visit("symmetric_memory", environment.symmetric_memory);
  visit("multicast", environment.multicast);
  visit("nccl_variables", environment.nccl_variables);
  visit("arbiter_version", environment.arbiter_version);
  visit("catalogue_hash", environment.catalogue_hash);
}

template <record_of<Problem> Record, typename Visit>
void for_each_field(Record& problem, Visit&& visit) {
  visit("pattern", problem.pattern);
  visit("dtype", problem.dtype);
  visit("hidden", problem.hidden);
  visit("tokens", problem.tokens);
  visit("world", problem.world);
  visit("mode", problem.mode);
  visit("in_place", problem.in_place);
}

template <record_of<Candidate> Record, typename Visit>
void for_each_field(Record& candidate, Visit&& visit) {
  visit("backend", candidate.backend);
  visit("algorithm", candidate.algorithm);
  visit("name", candidate.name);
  visit("numerics", candidate.numerics);
  visit("source_hash", candidate.source_hash);
}

template <record_of<KernelUse> Record, typename Visit>
void for_each_field(Record& use, Visit&& visit) {
  visit("registers", use.registers);
  visit("spill_bytes", use.spill_bytes);
}

/// What is decided, in the order of the columns. By whom and how fast follows, in a form of its own everywhere.
template <record_of<Decision> Record, typename Visit>
void for_each_field(Record& decision, Visit&& visit) {
  visit("mode", decision.mode);
  visit("world", decision.world);
  visit("dtype", decision.dtype);
  visit("pattern", decision.pattern);
  visit("hidden", decision.hidden);
  visit("tokens_min", decision.tokens_min);
  visit("tokens_max", decision.tokens_max);
}

/// What is recorded of a decision since schema 4: at the end of rows and lines, and not there in older ones.
template <record_of<Decision> Record, typename Visit>
void for_each_later_field(Record& decision, Visit&& visit) {
  visit("measured_tokens", decision.measured_tokens);
  visit("registers", decision.use.registers);
  visit("spill_bytes", decision.use.spill_bytes);
  visit("runner_up_registers", decision.runner_up_use.registers);
  visit("runner_up_spill_bytes", decision.runner_up_use.spill_bytes);
}
template <std::integral Integer>
bool is_recorded(Integer field) noexcept {
  return field != not_recorded;
}

/// Where a decision's times stand on an axis: the size they were taken at, or, if that was not recorded, the largest
/// that it can have been.
inline std::int64_t timed_tokens(const Decision& decision) noexcept {
  return is_recorded(decision.measured_tokens) ? decision.measured_tokens : decision.tokens_max;
}

/// All but the identifier, which is the row's key.
template <record_of<Run> Record, typename Visit>
void for_each_field(Record& run, Visit&& visit) {
  visit("host", run.host);
  visit("command", run.command);
  visit("started", run.started);
  visit("finished", run.finished);
  visit("sm_clock_start_mhz", run.sm_clock_start_mhz);
  visit("sm_clock_end_mhz", run.sm_clock_end_mhz);
  visit("power_start_watts", run.power_start_watts);
  visit("power_end_watts", run.power_end_watts);
  visit("clocks_dropped", run.clocks_dropped);
}

/// The enumerations that records hold, from their spellings. Throw InvalidArgument naming the valid ones.
inline void parse_field(std::string_view text, Dtype& field) { field = parse_dtype(text); }
inline void parse_field(std::string_view text, Mode& field) { field = parse_mode(text); }
inline void parse_field(std::string_view text, Backend& field) { field = parse_backend(text); }
inline void parse_field(std::string_view text, Numerics& field) { field = parse_numerics(text); }

}  // namespace arbiter
