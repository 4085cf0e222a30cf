#include "arbiter/communicator.hpp"

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

std::unique_ptr<Group> make_agreed_group(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                         const CommunicatorOptions& options) {
  if (!bootstrap) throw InvalidArgument("a communicator needs a bootstrap; it is null");
  everywhere(*bootstrap, "create a communicator", [&] {
    if (!device) throw InvalidArgument("a communicator needs a device; it is null");
  });
  const EnvironmentVariables& variables = options.variables;
  require_equal(*bootstrap, "creating a communicator",
                {{"backend (ARBITER_BACKEND)", std::string(to_string(variables.backend))},
                 {"numerics (ARBITER_NUMERICS)", variables.numerics == NumericsPolicy::strict ? "strict" : "any"},
                 {"multicast (ARBITER_MULTICAST)", variables.multicast ? "on" : "off"},
                 {"timeout (ARBITER_TIMEOUT_MS)", std::to_string(variables.timeout.count())},
                 {"use of shipped decisions", options.shipped_decisions ? "yes" : "no"},
                 {"use of NCCL", options.nccl ? "yes" : "no"}});
  return make_group(std::move(bootstrap), std::move(device), {variables, options.nccl, options.cache});
}

std::string asked(const Call& call) {
  return std::string(call.pattern) + " " + std::string(to_string(call.dtype)) +
         " hidden=" + std::to_string(call.hidden) + " tokens=" + std::to_string(call.tokens);
}

}  // namespace

Communicator::Impl::Impl(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                         CommunicatorOptions given)
    : options(std::move(given)),
      log(options.variables.log, "arbiter rank " + std::to_string(bootstrap ? bootstrap->rank() : 0)),
      group(make_agreed_group(std::move(bootstrap), std::move(device), options)),
      decisions(load_decisions(group->bootstrap(), options)),
      pointers(group->device()),
      plain(group->catalogue().pattern(plain_pattern)) {
  group->provide(decisions.kernels);
  if (group->rank() != 0) return;
  if (!decisions.problem.empty()) log.warn("going on without measured decisions: " + decisions.problem);
  if (!decisions.source.empty()) {
    log.info("decisions: " + decisions.source + ", for " + std::to_string(decisions.sets.size()) +
             " environments and with " + std::to_string(decisions.kernels->size()) + " compiled kernels");
  }
}

void Communicator::Impl::run(const Call& call, StreamHandle stream) {
  group->check();
  if (call.tokens < 0 || call.hidden <= 0) {
    throw InvalidArgument(asked(call) + ": tokens must be 0 or more, and hidden positive");
  }
  const Mode mode = mode_of(stream);
  const FamilyTable* found = table.find(call.pattern, call.dtype, call.hidden, mode);
  if (found != nullptr && call.tokens > found->family().max_tokens) found = nullptr;
  if (call.pattern == plain_pattern) {
    run_plain(call, found, mode, stream);
    return;
  }
  if (found == nullptr) {
    group->catalogue().pattern(call.pattern);  // an unknown name is a better answer than "not prepared"
    throw Unsupported(asked(call) + " is not prepared. Prepared: " + table.describe() +
                      ". Call prepare() with this pattern, dtype and hidden size, and max_tokens of at least the "
                      "tokens of any call.");
  }
  if (call.tokens == 0) return;
  validate_tensors(found->pattern(), call, vector_bytes);
  if (mode == Mode::eager) pointers.require_device_memory(found->pattern(), call);
  captured = captured || mode == Mode::graph;
  found->candidate(call.tokens).enqueue(call, stream);
  group->check();
}

void Communicator::Impl::run_plain(const Call& call, const FamilyTable* found, Mode mode, StreamHandle stream) {
  std::int64_t elements = 0;
  if (__builtin_mul_overflow(call.tokens, std::int64_t{call.hidden}, &elements)) {
    throw InvalidArgument(asked(call) + ": more than 2^63 elements");
  }
  if (elements == 0) return;
  Device& device = group->device();
  if (found == nullptr) found = table.covering(plain_pattern, call.dtype, elements, mode);
  const Pattern& pattern = found != nullptr ? found->pattern() : plain;
  if (found == nullptr && group->nccl() == nullptr && group->size() > 1) {
    throw Unsupported(asked(call) + " is not prepared, and there is no NCCL to fall back to (" + group->nccl_reason() +
                      "). Prepared: " + table.describe() + ". Call prepare() with pattern 'allreduce', dtype " +
                      std::string(to_string(call.dtype)) + " and tokens * hidden of at least " +
                      std::to_string(elements) + ".");
  }
  message_vectors(elements, 1, call.dtype);  // refuses what does not fit 63 bits
  const std::size_t element = element_bytes(call.dtype);
  const std::size_t bytes = static_cast<std::size_t>(elements) * element;
  Call flat = call;
  flat.tokens = elements;
  flat.hidden = 1;
  validate_tensors(pattern, flat, element);
  if (mode == Mode::eager) pointers.require_device_memory(pattern, flat);
  captured = captured || mode == Mode::graph;

  if (group->size() == 1) {
    if (call.input != call.output) device.copy(call.output, call.input, bytes, stream);
    return;
  }
  const bool whole_vectors =
      bytes % vector_bytes == 0 && is_aligned(call.input, vector_bytes) && is_aligned(call.output, vector_bytes);
  RunnableCandidate* candidate = nullptr;
  if (found != nullptr) {
    const std::int64_t hidden = found->family().hidden;
    candidate = &found->candidate((elements + hidden - 1) / hidden);
  }
  if (candidate != nullptr && (whole_vectors || !candidate->spec().kernel)) {
    candidate->enqueue(flat, stream);
  } else if (group->nccl() != nullptr) {
    group->nccl()->all_reduce(call.input, call.output, static_cast<std::size_t>(elements), call.dtype, stream);
  } else {
    run_padded(flat, *candidate, stream);
  }
  group->check();
}

/// In place on an aligned copy whose last vector is filled up with zeros. The copy was reserved by prepare().
void Communicator::Impl::run_padded(const Call& call, RunnableCandidate& candidate, StreamHandle stream) {
  Device& device = group->device();
  const std::size_t bytes = static_cast<std::size_t>(call.tokens) * element_bytes(call.dtype);
  const std::size_t padded = message_vectors(call.tokens, 1, call.dtype) * vector_bytes;
  auto* copy = static_cast<unsigned char*>(group->workspace().scratch());
  constexpr std::size_t words = vector_bytes / sizeof(std::uint32_t);
  if (padded != bytes) device.fill_words(copy + padded - vector_bytes, 0, words, stream);
  device.copy(copy, call.input, bytes, stream);
  Call whole = call;
  whole.tokens = static_cast<std::int64_t>(padded / element_bytes(call.dtype));
  whole.input = copy;
  whole.output = copy;
  candidate.enqueue(whole, stream);
  device.copy(call.output, copy, bytes, stream);
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
void Communicator::run(const Call& call, StreamHandle stream) { alive(impl_).run(call, stream); }

void Communicator::all_reduce(const void* input, void* output, std::int64_t count, Dtype dtype, StreamHandle stream) {
  Impl& impl = alive(impl_);
  impl.group->check();
  if (count < 0) throw InvalidArgument("all_reduce of " + std::to_string(count) + " elements; expected 0 or more");
  Call call;
  call.dtype = dtype;
  call.hidden = 1;
  call.tokens = count;
  call.input = input;
  call.output = output;
  impl.run_plain(call, nullptr, impl.mode_of(stream), stream);
}

void Communicator::all_reduce_residual_rmsnorm(const Call& call, StreamHandle stream) {
  Call fused = call;
  fused.pattern = residual_rmsnorm_pattern;
  alive(impl_).run(fused, stream);
}

void* Communicator::allocate_symmetric(std::size_t bytes) {
  Group& group = *alive(impl_).group;
  everywhere(group.bootstrap(), "allocate symmetric memory", [&] { group.check(); });
  return group.shared_buffers().allocate(bytes);
}
void Communicator::register_buffer(void* data, std::size_t bytes) {
  Group& group = *alive(impl_).group;
  everywhere(group.bootstrap(), "register a buffer", [&] { group.check(); });
  group.shared_buffers().add(data, bytes);
}
void Communicator::release_shared(const void* data) { alive(impl_).group->shared_buffers().release(data); }

bool Communicator::can_use(const Problem& problem) const { return alive(impl_).can_use(problem); }
Explanation Communicator::explain(const Problem& problem) const { return alive(impl_).explain(problem); }
void Communicator::check() const { alive(impl_).group->check(); }
void Communicator::abort() noexcept {
  if (impl_) impl_->group->abort();
}
std::size_t Communicator::workspace_bytes() const noexcept { return impl_ ? impl_->group->workspace_bytes() : 0; }
const Environment& Communicator::environment() const noexcept { return impl_->group->environment(); }

SymmetricProvider Communicator::symmetric_provider() const {
  const Group& group = *alive(impl_).group;
  if (const auto provider = group.symmetric_provider()) return *provider;
  throw Unsupported("this communicator uses no symmetric memory: " + group.symmetric_reason());
}

}  // namespace arbiter
