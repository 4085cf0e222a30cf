// prepare(): resolve, load, reserve, compare, publish. Every step ends the same way on all ranks.
#include <fmt/format.h>

#include <algorithm>

#include "arbiter/error.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/runtime/family.hpp"
#include "candidate/geometry.hpp"
#include "candidate/loaded_kernel.hpp"
#include "communicator/impl.hpp"
#include "communicator/switched_off.hpp"
#include "environment/hash.hpp"
#include "group/collective.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

/// The most tokens that any interval asks of this candidate: what its memory is sized for.
std::int64_t tokens_asked(const std::vector<PlannedInterval>& intervals, const CandidateSpec& spec) {
  std::int64_t tokens = 0;
  for (const PlannedInterval& interval : intervals) {
    if (interval.spec == spec) tokens = std::max(tokens, interval.tokens_max);
  }
  return tokens;
}

std::string loaded_key(const CandidateSpec& spec, const ProblemFamily& family) {
  return fmt::format("{} {} {} {}", family.pattern, to_string(family.dtype), family.hidden, spec.name());
}

/// Sizes of every order from `from` to `to`; null spec: as NCCL chooses.
void add_first_calls(std::vector<FirstNcclCall>& calls, Dtype dtype, std::size_t from, std::size_t to,
                     const CandidateSpec* spec) {
  constexpr std::size_t most_bytes = std::size_t{64} << 20;
  to = std::min(to, most_bytes);
  for (std::size_t bytes = std::max(from, vector_bytes); bytes < to; bytes *= 4) calls.push_back({dtype, bytes, spec});
  calls.push_back({dtype, to, spec});
}

[[noreturn]] void refuse_to_move(const std::string& what) {
  throw Unsupported("prepare: " + what +
                    " would have to grow and move, but a call was captured into a graph that uses it. Prepare "
                    "everything before the first capture.");
}

}  // namespace

void Communicator::Impl::prepare(std::span<const ProblemFamily> families) {
  Bootstrap& bootstrap = group->bootstrap();
  std::vector<ProblemFamily> missing;
  NamedValues names = {{"number of families", std::to_string(families.size())}};
  everywhere(bootstrap, "prepare", [&] {
    group->check();
    group->device().activate();
    for (const ProblemFamily& family : families) {
      validate_family(group->catalogue(), family);
      names.emplace_back(fmt::format("family {}", names.size()), to_text(family));
    }
  });
  require_equal(bootstrap, "prepare", names);
  for (const ProblemFamily& family : families) {
    if (switch_off(family)) continue;
    const FamilyTable* known = table.find(family.pattern, family.dtype, family.hidden, family.mode);
    if (known != nullptr && known->family().mode == family.mode && known->family().max_tokens >= family.max_tokens) {
      continue;
    }
    missing.push_back(family);
  }
  if (missing.empty()) return;
  const ProfilerRange range(profiler, missing.front().max_tokens, [&] { return "prepare " + missing.front().pattern; });
  const bool any_captured = !bootstrap.all(!captured);
  recent.forget();
  if (!any_captured) tune_unknown(missing);
  const std::vector<Plan> plans = resolve_and_load(missing, any_captured);
  reserve_memory(plans, any_captured);
  require_equal_plans(plans);
  warm_nccl(plans);
  publish(plans);
}

bool Communicator::Impl::switch_off(const ProblemFamily& family) {
  const bool served = family.pattern == plain_pattern && (group->size() == 1 || group->nccl() != nullptr);
  if (!options.variables.off || served) return false;
  constexpr std::string_view key = "off";
  auto made =
      loaded.emplace(fmt::format("{} {}", key, family.pattern), Loaded{family.max_tokens, make_switched_off(family)});
  RunnableCandidate& candidate = *made->second.candidate;
  FamilyTable refusing(family, group->catalogue().pattern(family.pattern));
  CallCounter& counter = counters.of(family, std::string(key), Rule::fallback);
  refusing.append(family.max_tokens, candidate, {Rule::fallback, candidate.refusal(), candidate.record(), std::nullopt},
                  counter, counter);
  table.put(std::move(refusing));
  return true;
}

RunnableCandidate* Communicator::Impl::find_loaded(const std::string& key, std::int64_t max_tokens) {
  const auto [first, last] = loaded.equal_range(key);
  for (auto item = first; item != last; ++item) {
    if (item->second.max_tokens >= max_tokens) return item->second.candidate.get();
  }
  return nullptr;
}

/// Where NCCL was put off, and these plans need it, all ranks start it together. What it is like may change the plans:
/// true, they have to be made again.
bool Communicator::Impl::wait_for_nccl(const std::vector<Plan>& plans) {
  if (group->size() == 1 || group->nccl() != nullptr || !group->capabilities().has_nccl()) return false;
  const bool needed = std::any_of(plans.begin(), plans.end(), [](const Plan& plan) {
    return std::any_of(plan.second.begin(), plan.second.end(),
                       [](const PlannedInterval& interval) { return interval.spec.nccl.has_value(); });
  });
  if (needed) group->require_nccl();
  return needed;
}

std::vector<Communicator::Impl::Plan> Communicator::Impl::resolve_and_load(const std::vector<ProblemFamily>& families,
                                                                           bool any_captured) {
  std::span<const DecisionSet> shipped;
  if (options.shipped_decisions) shipped = shipped_decisions();
  Resolver resolver(group->capabilities(), decisions.sets, policy(), shipped);
  std::vector<Plan> plans;
  // A candidate that cannot be loaded on some rank is refused on all, and its sizes are resolved again without it.
  for (bool complete = false; !complete;) {
    plans.clear();
    everywhere(group->bootstrap(), "resolve its decisions", [&] {
      for (const ProblemFamily& family : families) plans.emplace_back(family, resolver.plan(family, refusals));
    });
    require_equal_plans(plans);
    if (wait_for_nccl(plans)) continue;

    std::vector<LoadRequest> requests;
    std::vector<std::string> keys;
    for (const auto& [family, intervals] : plans) {
      for (const PlannedInterval& interval : intervals) {
        ProblemFamily sized = family;
        sized.max_tokens = tokens_asked(intervals, interval.spec);
        const std::string key = loaded_key(interval.spec, family);
        const bool requested = std::any_of(requests.begin(), requests.end(), [&](const LoadRequest& request) {
          return request.family.max_tokens >= sized.max_tokens && loaded_key(request.spec, request.family) == key;
        });
        if (requested || find_loaded(key, sized.max_tokens) != nullptr) continue;
        if (any_captured && arbiter::scratch_bytes(interval.spec, sized) > group->workspace().scratch_bytes()) {
          refuse_to_move("scratch memory");
        }
        if (any_captured && interval.spec.nccl == NcclKind::symmetric &&
            message_vectors(sized.max_tokens, sized.hidden, sized.dtype) * vector_bytes >
                group->nccl_symmetric_bytes()) {
          refuse_to_move("NCCL's symmetric window");
        }
        requests.push_back({interval.spec, sized});
        keys.push_back(key);
      }
    }
    std::vector<LoadResult> results = load_on_all_ranks(*group, requests);
    complete = true;
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (results[i].candidate) {
        loaded.emplace(keys[i], Loaded{requests[i].family.max_tokens, std::move(results[i].candidate)});
        continue;
      }
      complete = false;
      refusals.emplace(refusal_key(requests[i].spec, requests[i].family), results[i].reason);
      log.warn("'" + requests[i].spec.name() + "' cannot be used: " + results[i].reason);
    }
    complete = refuse_other_kernels(plans) && complete;
  }
  for (const IgnoredDecision& ignored : resolver.ignored()) {
    if (group->rank() == 0) log.warn("decision not used: " + ignored.decision + ": " + ignored.reason);
  }
  return plans;
}

/// What is served is what was measured: kernels that this compiler gives more registers, or spills where there were
/// none, are others than those that were timed. What they use is agreed on by all ranks, and so is the verdict. True if
/// all are as they were.
bool Communicator::Impl::refuse_other_kernels(const std::vector<Plan>& plans) {
  bool same = true;
  for (const auto& [family, intervals] : plans) {
    for (const PlannedInterval& interval : intervals) {
      const RunnableCandidate* candidate =
          find_loaded(loaded_key(interval.spec, family), tokens_asked(intervals, interval.spec));
      if (candidate == nullptr) continue;  // refused already
      const std::string more = exceeds(candidate->use(), interval.timed);
      if (more.empty()) continue;
      same = false;
      refusals.emplace(refusal_key(interval.spec, family, interval.timed), more);
    }
  }
  return same;
}

void Communicator::Impl::reserve_memory(const std::vector<Plan>& plans, bool any_captured) {
  WorkspaceNeeds needs;
  bool exchanges = false;
  std::size_t padding = 0;
  for (const auto& [family, intervals] : plans) {
    for (const PlannedInterval& interval : intervals) {
      const RunnableCandidate* candidate =
          find_loaded(loaded_key(interval.spec, family), tokens_asked(intervals, interval.spec));
      const WorkspaceNeeds these = candidate->needs(interval.tokens_max);
      needs.push_bytes = std::max(needs.push_bytes, these.push_bytes);
      needs.staging_bytes = std::max(needs.staging_bytes, these.staging_bytes);
      exchanges = exchanges || (interval.spec.kernel && group->size() > 1);
    }
    // Plain messages that a kernel cannot take as they are go through an aligned copy: those of a rank whose pointers
    // are not aligned, and without NCCL those that are no whole vectors. As large as the largest that a kernel serves.
    if (family.pattern == plain_pattern && group->size() > 1) {
      for (const PlannedInterval& interval : intervals) {
        if (!interval.spec.kernel) continue;
        padding = std::max<std::size_t>(
            padding, message_vectors(interval.tokens_max, family.hidden, family.dtype) * vector_bytes);
      }
    }
  }
  Workspace& workspace = group->workspace();
  if (options.workspace_limit != 0) {
    const std::size_t exchange = exchanges ? workspace
                                                 .layout_for(std::max(needs.push_bytes, workspace.push_bytes()),
                                                             std::max(needs.staging_bytes, workspace.staging_bytes()))
                                                 .total_bytes
                                           : workspace.bytes();
    const std::size_t total = exchange + std::max(padding, workspace.scratch_bytes());
    if (total > options.workspace_limit) {
      throw WorkspaceLimit(fmt::format(
          "prepare: these families need {} bytes of device memory, more than the limit of {}; prepare fewer tokens",
          total, options.workspace_limit));
    }
  }
  if (any_captured && padding > workspace.scratch_bytes()) refuse_to_move("scratch memory");
  if (any_captured && exchanges && workspace.generation() > 0 &&
      !workspace.fits(needs.push_bytes, needs.staging_bytes)) {
    refuse_to_move("the workspace");
  }
  everywhere(group->bootstrap(), "reserve scratch memory", [&] { workspace.reserve_scratch(padding); });
  if (exchanges) group->reserve(needs.push_bytes, needs.staging_bytes);
}

/// NCCL connects its ranks at the first call that needs a way between them, with calls that a capture does not allow.
/// So it is called here, at sizes of every order, for whatever it may have to serve: its own intervals, and the plain
/// messages that kernels leave to it.
void Communicator::Impl::warm_nccl(const std::vector<Plan>& plans) {
  if (group->nccl() == nullptr || !options.warm_nccl || group->size() == 1) return;
  std::vector<FirstNcclCall> calls;
  for (const auto& [family, intervals] : plans) {
    const auto bytes_of = [&, &family = family](std::int64_t tokens) -> std::size_t {
      return message_vectors(tokens, family.hidden, family.dtype) * vector_bytes;
    };
    std::size_t largest = family.pattern == plain_pattern ? bytes_of(family.max_tokens) : 0;
    for (const PlannedInterval& interval : intervals) {
      if (interval.spec.kernel) continue;
      largest = std::max(largest, bytes_of(interval.tokens_max));
      if (interval.spec.nccl == NcclKind::classic && !interval.spec.forced.forces()) continue;
      add_first_calls(calls, family.dtype, bytes_of(interval.tokens_min), bytes_of(interval.tokens_max),
                      &interval.spec);
    }
    std::size_t& warm = nccl_warm_bytes[static_cast<std::size_t>(family.dtype)];
    if (largest <= warm) continue;
    add_first_calls(calls, family.dtype, warm, largest, nullptr);
    warm = largest;
  }
  // What was prepared before there was an NCCL has it to fall back to from now on.
  for (const FamilyTable& prepared : table.tables()) {
    if (!prepared.plain()) continue;
    const ProblemFamily& family = prepared.family();
    std::size_t& warm = nccl_warm_bytes[static_cast<std::size_t>(family.dtype)];
    const std::size_t largest = message_vectors(family.max_tokens, family.hidden, family.dtype) * vector_bytes;
    if (largest <= warm) continue;
    add_first_calls(calls, family.dtype, warm, largest, nullptr);
    warm = largest;
  }
  call_nccl_first(calls);
}

void Communicator::Impl::prepare_nccl(Dtype dtype, std::int64_t max_count) {
  everywhere(group->bootstrap(), "prepare NCCL", [&] {
    group->check();
    group->device().activate();
    if (max_count < 1) {
      throw InvalidArgument(fmt::format("prepare_nccl: max_count is {}; expected at least 1", max_count));
    }
    message_vectors(max_count, 1, dtype);  // refuses what does not fit 63 bits
  });
  require_equal(group->bootstrap(), "prepare NCCL",
                {{"dtype", std::string(to_string(dtype))}, {"most elements", std::to_string(max_count)}});
  if (group->size() == 1) return;
  group->require_nccl();
  if (group->nccl() == nullptr) {
    throw Unsupported("prepare_nccl: there is no NCCL: " + group->capabilities().nccl_reason);
  }
  std::size_t& warm = nccl_warm_bytes[static_cast<std::size_t>(dtype)];
  const std::size_t largest = message_vectors(max_count, 1, dtype) * vector_bytes;
  if (!options.warm_nccl || largest <= warm) return;
  std::vector<FirstNcclCall> calls;
  add_first_calls(calls, dtype, warm, largest, nullptr);
  warm = largest;
  call_nccl_first(calls);
}

void Communicator::Impl::call_nccl_first(const std::vector<FirstNcclCall>& calls) {
  if (calls.empty()) return;
  NcclCommunicator* const nccl = group->nccl();
  Device& device = group->device();
  DeviceMemory data;
  // In a step of its own: who has no memory must not leave the others waiting in NCCL, which has no deadline.
  everywhere(group->bootstrap(), "make room to call NCCL", [&] {
    std::size_t largest = 0;
    for (const FirstNcclCall& call : calls) largest = std::max(largest, call.bytes);
    data = DeviceMemory(device, largest);
  });
  everywhere(group->bootstrap(), "call NCCL for the first time", [&] {
    const std::size_t largest = data.bytes();
    const StreamHandle stream = device.create_stream();
    try {
      device.fill_words(data.data(), 0, largest / sizeof(std::uint32_t), stream);
      for (const FirstNcclCall& call : calls) {
        const std::size_t count = call.bytes / element_bytes(call.dtype);
        if (call.spec == nullptr) {
          nccl->all_reduce(data.data(), data.data(), count, call.dtype, stream);
        } else if (call.spec->forced.forces()) {
          nccl->all_reduce_forced(call.spec->forced, data.data(), data.data(), count, call.dtype, stream);
        } else if (call.bytes <= group->nccl_symmetric_bytes()) {
          NcclCommunicator::RegisteredBuffers& windows = group->reserve_nccl_symmetric(call.bytes);
          nccl->all_reduce(windows.input(), windows.output(), count, call.dtype, stream);
        }
      }
      device.synchronize(stream);
    } catch (...) {
      device.destroy_stream(stream);
      throw;
    }
    device.destroy_stream(stream);
  });
}

void Communicator::Impl::require_equal_plans(const std::vector<Plan>& plans) {
  NamedValues values;
  for (const auto& [family, intervals] : plans) {
    const std::string text = joined(intervals, "; ", [](const PlannedInterval& interval) {
      return fmt::format("{}..{} {}", interval.tokens_min, interval.tokens_max, interval.spec.name());
    });
    std::vector<std::string> hashed;
    for (const PlannedInterval& interval : intervals) {
      const RunnableCandidate* candidate =
          find_loaded(loaded_key(interval.spec, family), tokens_asked(intervals, interval.spec));
      hashed.push_back(candidate == nullptr ? std::string() : candidate->record().source_hash);
      hashed.push_back(candidate == nullptr ? std::string() : std::to_string(candidate->block_limit()));
    }
    hashed.push_back(text);
    values.emplace_back("hash of the choice for " + to_text(family), hash_of_fields(hashed));
    values.emplace_back("choice for " + to_text(family), text);
  }
  require_equal(group->bootstrap(), "prepare", values);
}

void Communicator::Impl::publish(const std::vector<Plan>& plans) {
  for (const auto& [family, intervals] : plans) {
    FamilyTable family_table(family, group->catalogue().pattern(family.pattern));
    if (group->rank() == 0) log.info(fmt::format("{} on {} ranks:", to_text(family), group->size()));
    for (const PlannedInterval& interval : intervals) {
      RunnableCandidate& candidate =
          *find_loaded(loaded_key(interval.spec, family), tokens_asked(intervals, interval.spec));
      if (group->rank() == 0) {
        log.info(fmt::format("  tokens {}..{}: {} ({}: {})", interval.tokens_min, interval.tokens_max,
                             interval.spec.name(), to_string(interval.rule), interval.reason));
      }
      family_table.append(interval.tokens_max, candidate,
                          {interval.rule, interval.reason, candidate.record(), interval.decision},
                          counters.of(family, candidate.record().name, interval.rule),
                          counters.of(family, candidate.record().name, Rule::fallback));
    }
    table.put(std::move(family_table));
  }
}

}  // namespace arbiter
