#include "arbiter/tuner/verify.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "arbiter/error.hpp"
#include "compare.hpp"
#include "outcome.hpp"
#include "reference.hpp"
#include "standalone.hpp"
#include "stream.hpp"
#include "tensors.hpp"

namespace arbiter {

using namespace tuning;

namespace {

constexpr std::size_t host_buffer_bytes = 2 << 20;
constexpr std::uint64_t residual_salt = 0x7e51d0a1ULL;
/// Tolerance is checked in double on the host: beyond this many bytes only on some pieces of a message.
constexpr std::size_t tolerant_bytes = 8 << 20;

/// Everything that the expected result depends on besides the family.
using ReferenceKey = std::tuple<Content, std::uint64_t, float, float>;

struct Reference {
  std::vector<Bytes> inputs;  ///< tiles of all ranks
  Bytes residual;             ///< equal on all ranks, as in a tensor-parallel layer
  Bytes gamma;
  std::map<Slot, Bytes> exact;
  std::map<Slot, std::vector<double>> in_double;  ///< filled when a tolerant comparison first asks
};

}  // namespace

Subject subject_of(RunnableCandidate& candidate) {
  return {candidate.record().name,
          candidate.record().numerics,
          [&candidate](const Call& call, StreamHandle stream) { candidate.enqueue(call, stream); },
          {}};
}

struct Verifier::Impl {
  Impl(Group& the_group, const ProblemFamily& the_family)
      : group(the_group),
        family(the_family),
        pattern(group.catalogue().pattern(family.pattern)),
        rows(tile_rows(family.hidden, family.dtype)),
        stream(group.device()),
        host(group.device(), host_buffer_bytes) {
    if (pattern.rows) standalone = load_standalone(group, family);
  }

  Group& group;
  ProblemFamily family;
  Pattern pattern;
  std::int64_t rows;  ///< of a tile
  Stream stream;
  HostBuffer host;
  std::unique_ptr<RunnableCandidate> standalone;
  std::map<ReferenceKey, Reference> references;
  std::optional<Tensors> tensors;
  Placement placement;
  std::int64_t capacity = 0;  ///< tokens

  Tensors& tensors_for(const VerifyRequest& request) {
    const Placement wanted{request.in_place, request.shift_vectors};
    if (!tensors || capacity < request.tokens || !(placement == wanted)) {
      tensors.reset();  // first release, then allocate: the old ones may be large
      capacity = std::max(request.tokens, rows);
      placement = wanted;
      tensors.emplace(group.device(), pattern, family.dtype, family.hidden, capacity, wanted);
    }
    return *tensors;
  }

  Reference& reference_for(const VerifyRequest& request) {
    const ReferenceKey key{request.content, request.seed, request.epsilon, request.weight_bias};
    if (const auto found = references.find(key); found != references.end()) return found->second;
    if (references.size() >= 8) references.clear();
    Reference reference;
    for (int rank = 0; rank < group.size(); ++rank) {
      reference.inputs.push_back(make_tile(request.content, family.dtype, rows, family.hidden, rank, request.seed));
    }
    reference.residual = make_tile(Content::random, family.dtype, rows, family.hidden, 0, request.seed ^ residual_salt);
    reference.gamma = make_gamma(family.dtype, family.hidden, request.seed);
    Bytes sum = sum_in_rank_order(reference.inputs, family.dtype);
    if (standalone) {
      apply_epilogue(sum, request, reference);
    } else {
      reference.exact.emplace(Slot::output, std::move(sum));
    }
    return references.emplace(key, std::move(reference)).first->second;
  }

  /// The sum of a tile through the stand-alone kernel: what a fused kernel must reproduce bit for bit.
  void apply_epilogue(const Bytes& sum, const VerifyRequest& request, Reference& reference) {
    Tensors tile(group.device(), pattern, family.dtype, family.hidden, rows);
    tile.poison(rows, stream);
    tile.fill(Slot::input, sum, rows, stream);
    tile.fill(Slot::residual_in, reference.residual, rows, stream);
    tile.fill_row(Slot::gamma, reference.gamma, stream);
    Call call = tile.call(rows);
    call.epsilon = request.epsilon;
    call.weight_bias = request.weight_bias;
    standalone->enqueue(call, stream);
    for (const Slot slot : outputs_of(pattern)) {
      Bytes bytes(sum.size());
      tile.read(slot, rows, host, stream, [&](std::size_t offset, std::span<const unsigned char> piece) {
        std::copy(piece.begin(), piece.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset));
      });
      reference.exact.emplace(slot, std::move(bytes));
    }
  }

  const std::vector<double>& in_double(Reference& reference, Slot slot, const VerifyRequest& request) {
    if (reference.in_double.empty()) {
      std::vector<double> sum = sum_in_double(reference.inputs, family.dtype);
      if (pattern.rows) {
        std::vector<double> added = sum;
        const std::vector<double> residual = tuning::in_double(reference.residual, family.dtype);
        for (std::size_t i = 0; i < added.size(); ++i) added[i] += residual[i];
        reference.in_double.emplace(Slot::norm_out,
                                    normalised(Composition::Norm::rmsnorm, added, family.hidden,
                                               {reference.gamma, family.dtype, static_cast<double>(request.epsilon),
                                                static_cast<double>(request.weight_bias)}));
        reference.in_double.emplace(Slot::residual_out, std::move(added));
      }
      reference.in_double.emplace(Slot::output, std::move(sum));
    }
    return reference.in_double.at(slot);
  }

  /// Roundings on the way to `slot`: one per addition for an unknown order, then residual, then norm.
  double allowed(Slot slot) const {
    const int sum = std::max(1, group.size() - 1);
    return tolerance(family.dtype, slot == Slot::output ? sum : slot == Slot::residual_out ? sum + 1 : sum + 2);
  }

  Outcome run(const Subject& subject, const VerifyRequest& request) {
    Tensors& set = tensors_for(request);
    Reference& reference = reference_for(request);
    const std::int64_t tokens = request.tokens;
    set.fill(Slot::input, reference.inputs[static_cast<std::size_t>(group.rank())], tokens, stream);
    if (set.at(Slot::residual_in) != nullptr) set.fill(Slot::residual_in, reference.residual, tokens, stream);
    set.fill_row(Slot::gamma, reference.gamma, stream);
    set.poison(tokens, stream);
    Call call = set.call(tokens);
    call.epsilon = request.epsilon;
    call.weight_bias = request.weight_bias;
    // Ranks may share a device: what prepares a call can wait for the whole device, so none may wait for a peer yet.
    group.device().synchronize(stream);
    group.bootstrap().barrier();
    for (int i = 0; i < (request.in_place ? 1 : request.calls); ++i) subject.enqueue(call, stream);
    group.device().synchronize(stream);
    group.check();
    if (subject.check) subject.check();

    const bool exact = subject.numerics == Numerics::rank_order_fp32 || request.content == Content::integers;
    for (const Slot slot : outputs_of(pattern)) {
      const std::string difference = exact ? compare_exactly(set, slot, reference.exact.at(slot), tokens)
                                           : compare_tolerantly(set, slot, in_double(reference, slot, request), tokens);
      if (!difference.empty()) return {Severity::wrong, std::string(to_string(slot)) + ": " + difference};
    }
    std::string guards = set.check_guards(tokens, host, stream);
    if (!guards.empty()) return {Severity::wrong, std::move(guards)};
    return {};
  }

  std::string compare_exactly(const Tensors& set, Slot slot, const Bytes& expected, std::int64_t tokens) {
    ExactComparison comparison(expected, family.dtype, family.hidden);
    set.read(slot, tokens, host, stream,
             [&](std::size_t offset, std::span<const unsigned char> piece) { comparison.visit(offset, piece); });
    return comparison.verdict();
  }

  std::string compare_tolerantly(const Tensors& set, Slot slot, const std::vector<double>& expected,
                                 std::int64_t tokens) {
    TolerantComparison comparison(expected, family.dtype, family.hidden, allowed(slot));
    const std::size_t bytes = static_cast<std::size_t>(tokens) * set.row_bytes();
    set.read(
        slot, tokens, host, stream,
        [&](std::size_t offset, std::span<const unsigned char> piece) { comparison.visit(offset, piece); },
        1 + bytes / tolerant_bytes);
    return comparison.verdict();
  }
};

Verifier::Verifier(Group& group, const ProblemFamily& family) : impl_(std::make_unique<Impl>(group, family)) {}
Verifier::~Verifier() = default;
StreamHandle Verifier::stream() const noexcept { return impl_->stream; }

Verification Verifier::verify(const Subject& subject, const VerifyRequest& request) {
  const Outcome outcome = together(impl_->group, impl_->stream, [&] { return impl_->run(subject, request); });
  return {status_of(outcome.severity), outcome.reason};
}

Verification Verifier::verify_before_timing(const Subject& subject, std::int64_t tokens) {
  VerifyRequest request;
  request.tokens = tokens;
  request.calls = 2;
  if (subject.numerics == Numerics::rank_order_fp32) return verify(subject, request);
  request.content = Content::integers;
  Verification verification = verify(subject, request);
  if (!verification.ok()) return verification;
  request.content = Content::random;
  return verify(subject, request);
}

}  // namespace arbiter
