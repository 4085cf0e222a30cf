#include "arbiter/tuner/verify.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "arbiter/error.hpp"
#include "group/collective.hpp"
#include "measure/stream.hpp"
#include "oracle/fp8_transport.hpp"
#include "tune/outcome.hpp"
#include "verify/compare.hpp"
#include "verify/device_comparison.hpp"
#include "verify/expectation.hpp"
#include "verify/tensors.hpp"

namespace arbiter {

using namespace tuning;

namespace {

constexpr std::size_t host_buffer_bytes = 2 << 20;
/// Tolerance is checked in double on the host: beyond this many bytes only on some pieces of a message, all of which
/// was compared to the bit with integers.
constexpr std::size_t tolerant_bytes = 2 << 20;
/// Rows at each end of a message whose quantisation is repeated on the host, where every row has its own numbers.
constexpr std::int64_t requantised_rows = 64;

Outcome wrong(Tensor tensor, const std::string& difference) {
  return {Severity::wrong, std::string(to_string(tensor)) + ": " + difference};
}

}  // namespace

TensorSet optional_outputs(const Pattern& pattern) {
  TensorSet set;
  for (const Tensor tensor : outputs_of(pattern)) {
    if (!pattern.needs(tensor)) set.add(tensor);
  }
  return set;
}

Subject subject_of(RunnableCandidate& candidate) {
  return {candidate.record().name,
          candidate.record().numerics,
          [&candidate](const Call& call, StreamHandle stream) { candidate.enqueue(call, stream); },
          {},
          {},
          {},
          {},
          candidate.rounded_legs()};
}

namespace {

/// What every rank must have before the ranks first wait for each other.
struct Scratch {
  explicit Scratch(Device& device)
      : stream(device), host(device, host_buffer_bytes), guard(device, guard_pattern().size()) {
    device.copy(guard.data(), guard_pattern().data(), guard.bytes(), stream);
    device.synchronize(stream);
  }
  Stream stream;
  HostBuffer host;
  DeviceMemory guard;  ///< what guard regions hold
};

/// Collective.
std::unique_ptr<Scratch> make_scratch(Group& group) {
  std::unique_ptr<Scratch> scratch;
  everywhere(group.bootstrap(), "reserve memory to verify with",
             [&] { scratch = std::make_unique<Scratch>(group.device()); });
  return scratch;
}

}  // namespace

struct Verifier::Impl {
  Impl(Group& the_group, const ProblemFamily& the_family, std::unique_ptr<DeviceComparison> comparison)
      : group(the_group),
        family(the_family),
        scratch(make_scratch(group)),
        on_device(std::move(comparison)),
        expectations(group, family, scratch->stream, scratch->host) {}

  Group& group;
  ProblemFamily family;
  std::unique_ptr<Scratch> scratch;
  HostBuffer& host = scratch->host;
  std::unique_ptr<DeviceComparison> on_device;  ///< null: the host compares everything
  Expectations expectations;
  std::optional<Tensors> tensors;
  Placement placement;
  std::int64_t capacity = 0;  ///< tokens

  Tensors& tensors_for(const VerifyRequest& request) {
    const Placement wanted{request.in_place, request.shift_vectors};
    const bool moe = expectations.composition().moe();
    if (!tensors || capacity < request.tokens || !(placement == wanted) ||
        (moe && !(tensors->shapes().moe == request.moe))) {
      tensors.reset();  // first release, then allocate: the old ones may be large
      capacity = std::max(request.tokens, expectations.rows());
      placement = wanted;
      tensors.emplace(group.device(), TensorShapes(expectations.pattern(), family.dtype, family.hidden, request.moe),
                      capacity, wanted);
    }
    return *tensors;
  }

  /// Roundings on the way to `tensor`: one per addition for an unknown order, then residual, then norm.
  double allowed(Tensor tensor) const {
    const int sum = std::max(1, group.size() - 1);
    const int residual = expectations.composition().residual ? 1 : 0;
    return tolerance(family.dtype, tensor == Tensor::output         ? sum
                                   : tensor == Tensor::residual_out ? sum + residual
                                                                    : sum + residual + 1);
  }

  StreamHandle stream() const noexcept { return scratch->stream; }

  Call call_of(const VerifyRequest& request) const {
    Call call = tensors->call(request.tokens);
    apply(request, call);
    return call;
  }

  /// Everything that comes before the first wait for a peer: a rank may fail here (its memory may be too small), and
  /// where ranks share a device, this may wait for the whole of it.
  Outcome prepare(const Subject& subject, const VerifyRequest& request) {
    Tensors& set = tensors_for(request);
    Expectation& expectation = expectations.of(request, subject.rounded_legs);
    if (!expectation.fault.empty()) return {Severity::wrong, expectation.fault};
    set.load(expectation.mine, request.tokens, stream());
    set.poison(request.tokens, stream());
    if (on_device && is_exact(subject, request)) expectations.keep_on_device(expectation);
    group.device().synchronize(stream());
    if (subject.prepare) subject.prepare(call_of(request), stream());
    return {};
  }

  Outcome run(const Subject& subject, const VerifyRequest& request) {
    Tensors& set = *tensors;
    Expectation& expectation = expectations.of(request, subject.rounded_legs);
    const std::int64_t tokens = request.tokens;
    const Call call = call_of(request);
    for (int i = 0; i < (request.in_place ? 1 : request.calls); ++i) subject.enqueue(call, stream());
    group.device().synchronize(stream());
    group.check();
    if (subject.check) subject.check();

    const bool exact = is_exact(subject, request);
    const Tensors* const sets[] = {&set};
    const Equal equal = equal_on_device(sets, exact ? &expectation : nullptr, request);
    Outcome outcome =
        exact ? compare_exactly(set, expectation, request, equal) : compare_tolerantly(set, expectation, request);
    return outcome.ok() ? check_guards(set, tokens, equal) : outcome;
  }

  static bool is_exact(const Subject& subject, const VerifyRequest& request) noexcept {
    return is_known_exactly(subject.numerics) || request.content == Content::integers;
  }

  bool written(Tensor tensor, const VerifyRequest& request) const {
    const std::vector<Tensor> outputs = outputs_of(expectations.pattern());
    return std::find(outputs.begin(), outputs.end(), tensor) != outputs.end() && !request.without.has(tensor);
  }

  static VerifyRequest request_of(const TimedWork& work) {
    VerifyRequest request;
    request.tokens = work.tokens;
    request.seed = work.seed;
    request.without = work.without;
    request.content = is_known_exactly(work.subject.numerics) ? Content::mixed : Content::integers;
    return request;
  }

  Call call_of(const Tensors& set, const VerifyRequest& request) const {
    Call call = set.call(request.tokens);
    apply(request, call);
    return call;
  }

  /// Like prepare(), of tensors that are not this verifier's.
  Outcome prepare_timed(const TimedWork& work) {
    const VerifyRequest request = request_of(work);
    Expectation& expectation = expectations.of(request, work.subject.rounded_legs);
    if (!expectation.fault.empty()) return {Severity::wrong, expectation.fault};
    Tensors& first = *work.sets.front();
    first.load(expectation.mine, work.tokens, stream());
    first.poison(work.tokens, stream());
    for (const auto& set : work.sets.subspan(1)) set->copy_from(first, stream());
    if (work.subject.import_input) work.subject.import_input(call_of(first, request), stream());
    if (on_device) expectations.keep_on_device(expectation);
    group.device().synchronize(stream());
    return {};
  }

  Outcome run_timed(const TimedWork& work) {
    const VerifyRequest request = request_of(work);
    const Expectation& expectation = expectations.of(request, work.subject.rounded_legs);
    work.launch(stream());
    group.device().synchronize(stream());
    group.check();
    if (work.subject.check) work.subject.check();
    std::vector<const Tensors*> sets;
    for (const auto& set : work.sets) {
      sets.push_back(set.get());
      if (work.subject.export_output) work.subject.export_output(call_of(*set, request), stream());
    }
    const Equal equal = equal_on_device(sets, &expectation, request);
    for (const Tensors* const set : sets) {
      Outcome outcome = compare_exactly(*set, expectation, request, equal);
      if (outcome.ok()) outcome = check_guards(*set, work.tokens, equal);
      if (!outcome.ok()) return outcome;
    }
    return {};
  }

  /// Where ranges of device memory begin that hold what they must.
  using Equal = std::set<const void*>;

  /// What the device vouches for: of the outputs, if there is an expectation to the bit, and of the guard regions.
  Equal equal_on_device(std::span<const Tensors* const> sets, const Expectation* expectation,
                        const VerifyRequest& request) {
    if (!on_device) return {};
    std::vector<ComparedRange> ranges;
    for (const Tensors* const set : sets) {
      if (expectation != nullptr) {
        for (const auto& [tensor, tile] : expectation->on_device) {
          if (!written(tensor, request)) continue;
          ranges.push_back({static_cast<const unsigned char*>(set->at(tensor)),
                            static_cast<const unsigned char*>(tile.data()),
                            written_bytes(*expectation, tensor, request), tile.bytes()});
        }
      }
      const std::vector<ComparedRange> guards = set->guards(request.tokens, scratch->guard);
      ranges.insert(ranges.end(), guards.begin(), guards.end());
    }
    const std::vector<std::uint64_t> counts = on_device->equal_bytes(ranges, stream());
    Equal equal;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] == ranges[i].bytes) equal.insert(ranges[i].found);
    }
    return equal;
  }

  static std::size_t written_bytes(const Expectation& expectation, Tensor tensor, const VerifyRequest& request) {
    const std::size_t row = expectation.tiles.at(tensor).size() / static_cast<std::size_t>(expectation.rows);
    return static_cast<std::size_t>(request.tokens) * row;
  }

  Outcome check_guards(const Tensors& set, std::int64_t tokens, const Equal& equal) {
    const std::vector<ComparedRange> guards = set.guards(tokens, scratch->guard);
    if (std::all_of(guards.begin(), guards.end(), [&](const auto& guard) { return equal.count(guard.found) != 0; })) {
      return {};
    }
    std::string overwritten = set.check_guards(tokens, host, stream());
    return overwritten.empty() ? Outcome{} : Outcome{Severity::wrong, std::move(overwritten)};
  }

  /// On the host, what the device does not vouch for: it counts NaNs of other payloads as different, and has no words.
  Outcome compare_exactly(const Tensors& set, const Expectation& expectation, const VerifyRequest& request,
                          const Equal& equal) {
    for (const auto& [tensor, tile] : expectation.tiles) {
      if (!written(tensor, request) || equal.count(set.at(tensor)) != 0) continue;
      const bool quantised = tensor == Tensor::quant_out;
      const std::size_t row = tile.size() / static_cast<std::size_t>(expectation.rows);
      ExactComparison comparison(tile, quantised ? std::nullopt : std::optional(family.dtype),
                                 quantised ? row : static_cast<std::size_t>(family.hidden));
      set.read(tensor, 0, written_bytes(expectation, tensor, request), host, stream(),
               [&](std::size_t offset, std::span<const unsigned char> piece) { comparison.visit(offset, piece); });
      const std::string difference = comparison.verdict();
      if (!difference.empty()) return wrong(tensor, difference);
    }
    if (!written(Tensor::scale_out, request)) return {};
    return compare_scale_array(set, expectations.scales(expectation, request, request.tokens), request.tokens);
  }

  Outcome compare_scale_array(const Tensors& set, const Bytes& expected, std::int64_t tokens) {
    const Bytes found = set.read(Tensor::scale_out, 0, expected.size(), host, stream());
    const std::optional<Quantisation>& how = expectations.composition().quantisation;
    const std::string difference = how                 ? compare_scales(found, expected, *how, family.hidden, tokens)
                                   : found == expected ? std::string()
                                                       : "differs from what the stand-alone kernel writes";
    return difference.empty() ? Outcome{} : wrong(Tensor::scale_out, difference);
  }

  Outcome compare_tolerantly(const Tensors& set, Expectation& expectation, const VerifyRequest& request) {
    for (const Tensor tensor : {Tensor::output, Tensor::residual_out, Tensor::norm_out}) {
      if (!written(tensor, request)) continue;
      const std::vector<double>& expected = expectations.in_double(expectation, tensor, request);
      if (expected.empty()) continue;  // a norm that has no reference
      TolerantComparison comparison(expected, family.dtype, family.hidden, allowed(tensor));
      const std::size_t bytes = static_cast<std::size_t>(request.tokens) * set.shapes().row_bytes();
      set.read(
          tensor, 0, bytes, host, stream(),
          [&](std::size_t offset, std::span<const unsigned char> piece) { comparison.visit(offset, piece); },
          1 + bytes / tolerant_bytes);
      const std::string difference = comparison.verdict();
      if (!difference.empty()) return wrong(tensor, difference);
    }
    if (!expectations.composition().quantisation || !written(expectations.quantised_tensor(), request)) return {};
    return compare_own_quantisation(set, expectation, request.tokens);
  }

  /// The subject's quantised rows beside what quantising its own unquantised rows gives.
  Outcome compare_own_quantisation(const Tensors& set, const Expectation& expectation, std::int64_t tokens) {
    const Quantisation& how = *expectations.composition().quantisation;
    const std::size_t row = set.shapes().row_bytes();
    const std::size_t quantised_row = quantised_bytes(how, family.hidden, 1);
    const Bytes scales =
        written(Tensor::scale_out, {})
            ? set.read(Tensor::scale_out, 0, scale_array_bytes(how, family.hidden, tokens), host, stream())
            : Bytes();
    Bytes expected_scales = scales;
    const auto check = [&](std::int64_t first, std::int64_t last) -> Outcome {
      const auto begin = static_cast<std::size_t>(first), end = static_cast<std::size_t>(last);
      const Bytes rows = set.read(expectations.quantised_tensor(), begin * row, end * row, host, stream());
      const QuantisedRows expected = quantise(rows, family.dtype, family.hidden, how, expectation.mine.scale);
      place_scales(expected, how, family.hidden, tokens, first, expected_scales);
      ExactComparison comparison(expected.values, std::nullopt, quantised_row);
      comparison.visit(0, set.read(Tensor::quant_out, begin * quantised_row, end * quantised_row, host, stream()));
      const std::string difference = comparison.verdict();
      return difference.empty() ? Outcome{}
                                : wrong(Tensor::quant_out, fmt::format("from token {}: {}", first, difference));
    };
    const std::int64_t head = std::min(tokens, requantised_rows);
    Outcome outcome = check(0, head);
    if (outcome.ok() && tokens > head) outcome = check(std::max(head, tokens - requantised_rows), tokens);
    if (!outcome.ok() || scales.empty()) return outcome;
    clear_pads(how, family.hidden, tokens, expected_scales);
    const std::string difference = compare_scales(scales, expected_scales, how, family.hidden, tokens);
    return difference.empty() ? Outcome{} : wrong(Tensor::scale_out, difference);
  }
};

Verifier::Verifier(Group& group, const ProblemFamily& family)
    : Verifier(group, family, make_device_comparison(group)) {}
Verifier::Verifier(Group& group, const ProblemFamily& family, std::unique_ptr<DeviceComparison> comparison)
    : impl_(std::make_unique<Impl>(group, family, std::move(comparison))) {}
Verifier::~Verifier() = default;
StreamHandle Verifier::stream() const noexcept { return impl_->stream(); }

Verification Verifier::verify(const Subject& subject, const VerifyRequest& request) {
  Outcome outcome = together(impl_->group, impl_->stream(), [&] { return impl_->prepare(subject, request); });
  if (outcome.ok()) outcome = together(impl_->group, impl_->stream(), [&] { return impl_->run(subject, request); });
  return {status_of(outcome.severity), outcome.reason};
}

Verification Verifier::verify_timed(const TimedWork& work) {
  Outcome outcome = together(impl_->group, impl_->stream(), [&] { return impl_->prepare_timed(work); });
  if (outcome.ok()) outcome = together(impl_->group, impl_->stream(), [&] { return impl_->run_timed(work); });
  return {status_of(outcome.severity), outcome.reason};
}

Verification Verifier::verify_before_timing(const Subject& subject, std::int64_t tokens) {
  VerifyRequest request;
  request.tokens = tokens;
  request.calls = 2;
  if (!is_known_exactly(subject.numerics)) {
    request.content = Content::integers;
    Verification verification = verify(subject, request);
    if (!verification.ok()) return verification;
    request.content = Content::random;
    return verify(subject, request);
  }
  Verification verification = verify(subject, request);
  if (!verification.ok() || subject.numerics != Numerics::fp8_transport) return verification;
  request.content = Content::random;
  verification = verify(subject, request);
  if (!verification.ok()) return verification;
  // What the subject wrote is what is expected, to the bit: its error is known without looking again.
  verification.relative_error = impl_->expectations.sum_error(request, subject.rounded_legs);
  if (verification.relative_error <= fp8_tolerance(subject.rounded_legs)) return verification;
  return {TrialStatus::wrong, fmt::format("the relative L2 error is {:.3g}, expected at most {:.3g}",
                                          verification.relative_error, fp8_tolerance(subject.rounded_legs))};
}

}  // namespace arbiter
