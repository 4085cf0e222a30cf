#include "arbiter/communicator.hpp"

#include <fmt/format.h>

#include <utility>

#include "arbiter/error.hpp"
#include "candidate/geometry.hpp"
#include "communicator/impl.hpp"
#include "group/collective.hpp"
#include "memory/shared_buffers.hpp"
#include "memory/workspace.hpp"

namespace arbiter {
namespace {

constexpr std::string_view residual_rmsnorm_pattern = "allreduce_residual_rmsnorm";

bool is_aligned(const void* pointer, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

/// Switched off, there is nothing to choose, to measure or to share.
CommunicatorOptions settled(CommunicatorOptions options) {
  if (!options.variables.off) return options;
  options.variables.backend = Backend::nccl;
  options.decisions = share_decisions();
  options.shipped_decisions = false;
  options.candidate.clear();
  return options;
}

std::unique_ptr<Group> make_agreed_group(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                         const CommunicatorOptions& options,
                                         const std::function<void(const std::string&)>& warn) {
  if (!bootstrap) throw InvalidArgument("a communicator needs a bootstrap; it is null");
  everywhere(*bootstrap, "create a communicator", [&] {
    if (!device) throw InvalidArgument("a communicator needs a device; it is null");
  });
  const EnvironmentVariables& variables = options.variables;
  require_equal(*bootstrap, "creating a communicator",
                {{"backend (ARBITER_BACKEND)", variables.off ? "off" : std::string(to_string(variables.backend))},
                 {"numerics (ARBITER_NUMERICS)", std::string(to_string(variables.numerics))},
                 {"multicast (ARBITER_MULTICAST)", variables.multicast ? "on" : "off"},
                 {"timeout (ARBITER_TIMEOUT_MS)", std::to_string(variables.timeout.count())},
                 {"first timeout (ARBITER_FIRST_TIMEOUT_MS)", std::to_string(variables.first_timeout.count())},
                 {"startup tune (ARBITER_STARTUP_TUNE_MS)", std::to_string(startup_budget(options).count())},
                 {"use of shipped decisions", options.shipped_decisions ? "yes" : "no"},
                 {"limit of the workspace", std::to_string(options.workspace_limit)},
                 {"use of NCCL", !options.nccl               ? "no"
                                 : options.nccl_communicator ? "the caller's communicator"
                                 : options.make_nccl         ? "the caller makes it"
                                                             : "yes"},
                 {"creation of NCCL's communicator", options.nccl_when_needed ? "when needed" : "at once"},
                 {"pinned candidate", options.candidate.empty() ? "none" : options.candidate}});
  return make_group(std::move(bootstrap), std::move(device),
                    {variables, options.nccl, options.nccl_communicator, options.cache, options.nccl_when_needed,
                     options.make_nccl, warn});
}

}  // namespace

Communicator::Impl::Impl(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                         CommunicatorOptions given)
    : options(settled(std::move(given))),
      log(options.variables.log, fmt::format("arbiter rank {}", bootstrap ? bootstrap->rank() : 0), options.log),
      group(make_agreed_group(std::move(bootstrap), std::move(device), options,
                              [log = log](const std::string& text) { log.warn(text); })),
      decisions(load_decisions(group->bootstrap(), options)),
      pointers(group->device()),
      copies(group->device()),
      plain(group->catalogue().pattern(plain_pattern)),
      startup{startup_budget(options), {}, false} {
  group->provide(decisions.kernels);
  for (const Dtype dtype : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) {
    nccl_fallback[static_cast<std::size_t>(dtype)] = &counters.of(
        {std::string(plain_pattern), dtype, 0, 0, Mode::graph}, CandidateSpec::classic_nccl().name(), Rule::fallback);
  }
  if (group->rank() != 0) return;
  say_what_there_is();
  if (!decisions.problem.empty()) log.warn("going on without measured decisions: " + decisions.problem);
  if (options.variables.startup_tune.count() > 0 && !options.startup_tuner) {
    log.warn("nothing is measured at start (ARBITER_STARTUP_TUNE_MS): this program was built without the tuner");
  }
  if (!decisions.source.empty()) {
    log.info(fmt::format("decisions: {}, for {} environments and with {} compiled kernels", decisions.source,
                         decisions.sets.size(), decisions.kernels->size()));
    if (!decisions.kernels_note.empty()) log.warn(decisions.kernels_note);
  }
}

void Communicator::Impl::say_what_there_is() const {
  const DeviceProperties& device = group->device().properties();
  const auto or_why_not = [](const std::string& what, const std::string& why_not) {
    return why_not.empty() ? what : "none (" + why_not + ")";
  };
  const GroupCapabilities& can = group->capabilities();
  const auto provider = can.symmetric_provider;
  const bool nccl_waits = can.size > 1 && group->nccl() == nullptr && can.has_nccl();
  log.info(fmt::format(
      "version {}, {} ranks on {} ({}); symmetric memory: {}; multicast: {}; NCCL: {}; backend: {}; numerics: {}; "
      "pinned: {}",
      version(), group->size(), device.name, to_string(group->device().kind()),
      or_why_not(provider ? std::string(to_string(*provider)) : "not needed", can.symmetric_reason),
      or_why_not("usable", can.multicast_reason),
      or_why_not(nccl_waits ? can.environment.nccl_version + " when it is needed" : can.environment.nccl_version,
                 can.nccl_reason),
      options.variables.off ? "off" : to_string(options.variables.backend), to_string(options.variables.numerics),
      options.candidate.empty() ? "no candidate" : options.candidate));
}

void Communicator::Impl::run(const Call& call, StreamHandle stream) {
  group->check();
  const auto text = [&] { return asked(call.pattern, call.dtype, call.hidden, call.tokens); };
  if (call.tokens < 0 || call.hidden <= 0) {
    throw InvalidArgument(text() + ": tokens must be 0 or more, and hidden positive");
  }
  const Mode mode = mode_of(stream);
  const FamilyTable* found = table.find(call.pattern, call.dtype, call.hidden, mode);
  if (found != nullptr && call.tokens <= found->family().max_tokens) {
    run(*found, call, call.tokens, mode, stream);
    return;
  }
  if (call.pattern != plain_pattern) {
    group->catalogue().pattern(call.pattern);  // an unknown name is a better answer than "not prepared"
    throw Unsupported(text() + " is not prepared. Prepared: " + table.describe() +
                      ". Call prepare() with this pattern, dtype and hidden size, and max_tokens of at least the "
                      "tokens of any call.");
  }
  std::int64_t elements = 0;
  if (__builtin_mul_overflow(call.tokens, std::int64_t{call.hidden}, &elements)) {
    throw InvalidArgument(text() + ": more than 2^63 elements");
  }
  run_plain(nullptr, call, call.dtype, elements, mode, stream);
}

[[gnu::hot]] void Communicator::Impl::run(const FamilyTable& found, const CallTensors& tensors, std::int64_t tokens,
                                          Mode mode, StreamHandle stream) {
  const ProblemFamily& family = found.family();
  if (tokens < 0) {
    throw InvalidArgument(asked(family.pattern, family.dtype, family.hidden, tokens) + ": tokens must be 0 or more");
  }
  if (tokens > family.max_tokens) {
    throw Unsupported(fmt::format("{} is not prepared: up to {} tokens are. Prepare the family with more max_tokens.",
                                  asked(family.pattern, family.dtype, family.hidden, tokens), family.max_tokens));
  }
  if (found.plain()) {
    run_plain(&found, tensors, family.dtype, tokens * family.hidden, mode, stream);
    return;
  }
  const bool eager = mode == Mode::eager;
  if (eager && run_again(found, tensors, tokens, stream)) return;
  if (tokens == 0) return;
  const CallSize size{family.dtype, family.hidden, tokens};
  const bool copied = check_tensors(&found, found.pattern(), size, tensors, mode);
  const FamilyTable::Interval& interval = found.interval(tokens);
  RunnableCandidate& candidate = *interval.candidate;
  const ProfilerRange range(profiler, tokens, [&] { return candidate.record().name; });
  if (copied) [[unlikely]] {
    const CallTensors aligned = copies.begin(found.pattern(), size, tensors, family.max_tokens, stream);
    candidate.enqueue(aligned, size.elements(), stream);
    copies.end(found.pattern(), size, tensors, aligned, stream);
  } else {
    candidate.enqueue(tensors, size.elements(), stream);
    if (eager) recent.remember(found, tensors, tokens, candidate, *interval.served);
  }
  interval.served->count();
  group->check();
}

[[gnu::hot]] bool Communicator::Impl::run_again(const FamilyTable& found, const CallTensors& tensors,
                                                std::int64_t count, StreamHandle stream) {
  const RecentCalls::Made* const made = recent.find(found, tensors, count);
  if (made == nullptr) return false;
  const ProfilerRange range(profiler, count, [&] { return made->candidate->record().name; });
  group->device().launch(*made->kernel, made->shape, &made->arguments, sizeof(made->arguments), stream);
  made->served->count();
  group->check();
  return true;
}

bool Communicator::Impl::check_tensors(const FamilyTable* found, const Pattern& pattern, const CallSize& size,
                                       const CallTensors& tensors, Mode mode) {
  const bool look = mode == Mode::eager && options.check_pointers;
  QuickCheck::Pointers given;
  bool known = found != nullptr && found->quick().passes(tensors, size.tokens, given);
  for (std::size_t i = 0; known && look && i < given.count; ++i) known = pointers.remembers(given.items[i]);
  bool copied = false;
  if (!known) [[unlikely]] {
    const TensorRanges ranges = validate_tensors(pattern, size, tensors);
    if (look) pointers.require_device_memory(ranges);
    copied = AlignedCopies::needed(ranges);
  }
  captured = captured || mode == Mode::graph;
  return copied;
}

void Communicator::Impl::run_plain(const FamilyTable* found, const CallTensors& tensors, Dtype dtype,
                                   std::int64_t elements, Mode mode, StreamHandle stream) {
  if (elements == 0) return;
  if (found == nullptr) {
    message_vectors(elements, 1, dtype);  // refuses what does not fit 63 bits
    found = table.covering(plain_pattern, dtype, elements, mode);
  }
  const bool eager = mode == Mode::eager;
  if (eager && found != nullptr && run_again(*found, tensors, elements, stream)) return;
  const Route route = route_plain(found, dtype, elements);
  const Pattern& pattern = found != nullptr ? found->pattern() : plain;
  check_tensors(found, pattern, {dtype, 1, elements}, tensors, mode);
  const ProfilerRange range(profiler, elements, [&] {
    const bool prepared = route.way == Way::candidate || route.way == Way::padded;
    if (prepared) return route.candidate->record().name;
    return route.way == Way::nccl ? CandidateSpec::classic_nccl().name() : CandidateSpec{}.algorithm();
  });
  switch (route.way) {
    case Way::nothing:
      break;
    case Way::copy:
      if (tensors.input != tensors.output) {
        const std::size_t bytes = static_cast<std::size_t>(elements) * element_bytes(dtype);
        group->device().copy(tensors.output, tensors.input, bytes, stream);
      }
      break;
    case Way::candidate:
      // What this rank's pointers are like is its own matter: the exchange stays the same on all ranks.
      if (!route.candidate->spec().kernel ||
          (is_aligned(tensors.input, vector_bytes) && is_aligned(tensors.output, vector_bytes))) {
        route.candidate->enqueue(tensors, elements, stream);
        if (eager && found != nullptr) recent.remember(*found, tensors, elements, *route.candidate, *route.counter);
        break;
      }
      [[fallthrough]];
    case Way::padded:
      run_staged(tensors, dtype, elements, *route.candidate, stream);
      break;
    case Way::nccl:
      group->nccl()->all_reduce(tensors.input, tensors.output, static_cast<std::size_t>(elements), dtype, stream);
      break;
  }
  if (route.counter != nullptr) route.counter->count();
  group->check();
}

/// In place on an aligned copy, which was reserved by prepare(). What an earlier message left behind the last element
/// is added up too, and never read.
void Communicator::Impl::run_staged(const CallTensors& tensors, Dtype dtype, std::int64_t elements,
                                    RunnableCandidate& candidate, StreamHandle stream) {
  Device& device = group->device();
  const std::size_t bytes = static_cast<std::size_t>(elements) * element_bytes(dtype);
  const std::size_t padded = message_vectors(elements, 1, dtype) * vector_bytes;
  auto* copy = static_cast<unsigned char*>(group->workspace().scratch());
  device.copy(copy, tensors.input, bytes, stream);
  CallTensors whole;
  whole.input = copy;
  whole.output = copy;
  candidate.enqueue(whole, static_cast<std::int64_t>(padded / element_bytes(dtype)), stream);
  device.copy(tensors.output, copy, bytes, stream);
}

// ---- The public face ------------------------------------------------------------------------------------------------

namespace {

template <class Impl>
Impl& alive(const std::unique_ptr<Impl>& impl) {
  if (!impl) throw InvalidArgument("this communicator was moved from; use the one it was moved to");
  return *impl;
}

}  // namespace

Communicator::Communicator(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                           CommunicatorOptions options)
    : impl_(std::make_unique<Impl>(std::move(bootstrap), std::move(device), std::move(options))) {}
Communicator::Communicator(Communicator&&) noexcept = default;
Communicator::~Communicator() = default;

int Communicator::rank() const noexcept { return impl_ ? impl_->group->rank() : 0; }
int Communicator::size() const noexcept { return impl_ ? impl_->group->size() : 0; }
void Communicator::prepare(std::span<const ProblemFamily> families) { alive(impl_).prepare(families); }
PreparedFamily Communicator::prepare(const ProblemFamily& family) {
  Impl& impl = alive(impl_);
  impl.prepare({&family, 1});
  // Larger than what was asked for if it was prepared before.
  return {&impl, impl.table.find(family.pattern, family.dtype, family.hidden, family.mode)};
}
void Communicator::prepare_nccl(Dtype dtype, std::int64_t max_count) { alive(impl_).prepare_nccl(dtype, max_count); }
void Communicator::run(const Call& call, StreamHandle stream) { alive(impl_).run(call, stream); }

const ProblemFamily& PreparedFamily::family() const noexcept { return table_->family(); }
[[gnu::hot]] void PreparedFamily::run(const CallTensors& tensors, std::int64_t tokens, StreamHandle stream) const {
  auto& impl = *static_cast<Communicator::Impl*>(impl_);
  impl.group->check();
  impl.run(*table_, tensors, tokens, impl.mode_of(stream), stream);
}
void PreparedFamily::all_reduce(const void* input, void* output, std::int64_t count, StreamHandle stream,
                                Mode call_mode) const {
  auto& impl = *static_cast<Communicator::Impl*>(impl_);
  impl.group->check();
  const ProblemFamily& family = table_->family();
  if (!table_->plain()) throw InvalidArgument("all_reduce of '" + family.pattern + "'; expected a plain family");
  if (count < 0) throw InvalidArgument(fmt::format("all_reduce of {} elements; expected 0 or more", count));
  if (count > table_->max_elements()) {
    throw Unsupported(
        fmt::format("all_reduce of {} elements is not prepared: up to {} are. Prepare the family with more max_tokens.",
                    count, table_->max_elements()));
  }
  CallTensors tensors;
  tensors.input = input;
  tensors.output = output;
  impl.run_plain(table_, tensors, family.dtype, count, call_mode, stream);
}
bool PreparedFamily::runs_kernel(std::int64_t count) const noexcept {
  if (!table_->plain() || count <= 0 || count > table_->max_elements()) return false;
  const auto& impl = *static_cast<const Communicator::Impl*>(impl_);
  const Route route = impl.route_plain(table_, table_->family().dtype, count);
  return (route.way == Way::candidate || route.way == Way::padded) && route.candidate->spec().kernel;
}
Explanation PreparedFamily::explain(std::int64_t tokens) const {
  return static_cast<const Communicator::Impl*>(impl_)->explain(*table_, tokens);
}

void Communicator::all_reduce(const void* input, void* output, std::int64_t count, Dtype dtype, StreamHandle stream) {
  Impl& impl = alive(impl_);
  impl.group->check();
  if (count < 0) throw InvalidArgument(fmt::format("all_reduce of {} elements; expected 0 or more", count));
  CallTensors tensors;
  tensors.input = input;
  tensors.output = output;
  impl.run_plain(nullptr, tensors, dtype, count, impl.mode_of(stream), stream);
}

void Communicator::all_reduce_residual_rmsnorm(const Call& call, StreamHandle stream) {
  Call fused = call;
  fused.pattern = residual_rmsnorm_pattern;
  alive(impl_).run(fused, stream);
}

void* Communicator::allocate_symmetric(std::size_t bytes) {
  Group& group = *alive(impl_).group;
  everywhere(group.bootstrap(), "allocate symmetric memory", [&] { group.check(); });
  impl_->recent.forget();
  return group.shared_buffers().allocate(bytes);
}
void Communicator::register_buffer(void* data, std::size_t bytes) {
  Group& group = *alive(impl_).group;
  everywhere(group.bootstrap(), "register a buffer", [&] { group.check(); });
  impl_->recent.forget();
  group.shared_buffers().add(data, bytes);
}
void Communicator::release_shared(const void* data) {
  alive(impl_).recent.forget();
  impl_->group->shared_buffers().release(data);
}

bool Communicator::can_use(const Problem& problem) const { return alive(impl_).can_use(problem); }
Explanation Communicator::explain(const Problem& problem) const { return alive(impl_).explain(problem); }
void Communicator::check() const { alive(impl_).group->check(); }
void Communicator::abort() noexcept {
  if (impl_) impl_->group->abort();
}
std::vector<CallCount> Communicator::call_counts() const {
  std::vector<CallCount> counts = alive(impl_).counters.list();
  // A fallback that nothing used says nothing.
  std::erase_if(counts, [](const CallCount& count) { return count.calls == 0 && count.rule == Rule::fallback; });
  return counts;
}
std::size_t Communicator::workspace_bytes() const noexcept { return impl_ ? impl_->group->workspace_bytes() : 0; }
std::size_t Communicator::scratch_bytes() const noexcept {
  return impl_ ? impl_->group->workspace().scratch_bytes() : 0;
}
const Environment& Communicator::environment() const noexcept { return impl_->group->environment(); }

SymmetricProvider Communicator::symmetric_provider() const {
  const Group& group = *alive(impl_).group;
  if (const auto provider = group.capabilities().symmetric_provider) return *provider;
  throw Unsupported("this communicator uses no symmetric memory: " + group.capabilities().symmetric_reason);
}

}  // namespace arbiter
