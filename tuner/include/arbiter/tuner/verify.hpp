// Is a candidate's result what it must be? Asked before it is timed, always: these kernels fail wrong and fast.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter {

namespace tuning {
class DeviceComparison;
class Tensors;
}  // namespace tuning

/// Something that performs calls on this rank: a candidate, or a communicator. `enqueue` only launches: a rank that
/// fails there leaves its peers waiting until their deadline, or until they hear that it gave up.
struct Subject {
  std::string name;
  Numerics numerics = Numerics::rank_order_fp32;
  std::function<void(const Call&, StreamHandle)> enqueue;
  /// After the stream has been waited for: throws Poisoned if the subject's own deadline passed. May be empty: the
  /// group is asked in any case.
  std::function<void()> check = {};
  /// Before any rank enqueues the call: captures it, say. Where ranks share a device this may wait for all of it. What
  /// it throws on one rank is the verdict of all. May be empty.
  std::function<void(const Call&, StreamHandle)> prepare = {};
  /// For a subject that does not work on the call's own input and output (registered windows): brings the input to
  /// where it reads, and its result to the call's output. Only around verify_timed(). May be empty.
  std::function<void(const Call&, StreamHandle)> import_input = {}, export_output = {};
  int rounded_legs = 0;  ///< of class fp8_transport: how often a value is rounded to 8 bits on its way
};

/// Does the host know every bit of what this class returns, whatever the inputs are?
constexpr bool is_known_exactly(Numerics numerics) noexcept {
  return numerics == Numerics::rank_order_fp32 || numerics == Numerics::fp8_transport;
}

/// What is about to be timed, or has been: a captured graph or a burst of calls, on tensors of its own.
struct TimedWork {
  const Subject& subject;
  std::span<const std::unique_ptr<tuning::Tensors>> sets;  ///< of one layout; every one of them is written
  std::int64_t tokens = 1;
  TensorSet without;                         ///< optional outputs that the calls leave out
  std::uint64_t seed = 2;                    ///< of the new inputs
  std::function<void(StreamHandle)> launch;  ///< replays the graph or issues the burst; waits for nothing
};

/// The subject refers to the candidate, which must outlive it.
Subject subject_of(RunnableCandidate&);

/// What the inputs hold. All are pure functions of seed, rank and place, so that every rank knows every rank's.
enum class Content : std::uint8_t {
  integers,  ///< -8..8: every sum is exact in every dtype, order and numerics class
  random,    ///< uniform in [-1, 1)
  mixed,     ///< 16-byte vectors of integers, of random values, and of values that upset kernels, in turn: -0,
             ///< subnormals, sentinel words
  special,   ///< mixed; every third row also has the largest finite value (on one rank only), infinities and NaNs of
             ///< many payloads (not every row: a norm over them would leave nothing to compare)
  extremes,  ///< rows of zeros, rows with one huge value, rows of tiny values, and ordinary rows, in turn
  cancellation,  ///< 2^24 (2^11 in fp16), 1, -2^24, 1 by rank: the sum depends on its order
};

/// The shape of a mixture-of-experts input, where the pattern has one.
struct MoeShape {
  int experts = 4;           ///< of moe_reduce
  int top_k = 4;             ///< of moe_finalize
  bool shared = true;        ///< with the optional shared input
  bool weights_fp32 = true;  ///< weights in fp32, or in the activation dtype
  bool operator==(const MoeShape&) const = default;
};

struct VerifyRequest {
  std::int64_t tokens = 1;
  Content content = Content::mixed;
  std::uint64_t seed = 1;
  bool in_place = false;          ///< output is input; residual_out is residual_in
  std::size_t shift_vectors = 0;  ///< tensors start this many 16-byte vectors (< 32) behind a 512-byte boundary
  float epsilon = 1e-6F;
  float weight_bias = 0.0F;
  bool gamma_fp32 = false;
  MoeShape moe;
  TensorSet without;  ///< optional outputs that the call leaves out
  /// Calls issued back to back; the last result is checked. 1 when in place: a sum must not be summed again.
  int calls = 1;
};

/// What a pattern writes only if it is asked to.
TensorSet optional_outputs(const Pattern&);

struct Verification {
  TrialStatus status = TrialStatus::done;  ///< done, wrong or failed; the worst over the ranks
  std::string reason;                      ///< which rank, what was expected and what was found; empty if done
  /// Relative L2 error of a sum of values in [-1, 1) against float64; 0 unless verify_before_timing() asked it of class
  /// fp8_transport.
  double relative_error = 0;
  bool ok() const noexcept { return status == TrialStatus::done; }
};

/// Verifies subjects of one family. Outputs are poisoned first, and regions before and behind each must stay untouched.
/// The expected result:
/// - numerics class rank_order_fp32: bit for bit what the unfused sequence writes. Every rank's contribution, the sum
/// in
///   fp32 from +0 in rank order (rounded once, with the sentinel word replaced by 0), the residual's sum and every
///   quantised value and scale are computed on the host; a norm is what the stand-alone kernel returns for that input,
///   which must itself be near a norm in float64;
/// - numerics class fp8_transport: bit for bit the same, with every contribution rounded to FP8 as it crosses a link,
///   and with two legs the sum too;
/// - other classes: the same bits for content `integers`; otherwise a relative L2 error against float64 of at most
///   2^-8 (bf16), 2^-11 (fp16), 2^-22 (fp32) per rounding step, every element near its place, never NaN; and quantised
///   values and scales bit for bit those of the norm (or sum) that the subject itself wrote.
/// NaNs of any payload are equal. Pads of scales must be 0. Collective: every rank makes the same calls, on one thread
/// each.
class Verifier {
 public:
  /// Collective: loads the stand-alone kernel of a fused pattern. Throws on every rank: Unsupported if there is none,
  /// Unavailable if a rank has no memory for it.
  /// The group must outlive the verifier. family.hidden is a positive multiple of the 16-byte vector.
  Verifier(Group&, const ProblemFamily& family);
  /// The same with the given comparison on the device; null: the host compares everything.
  Verifier(Group&, const ProblemFamily& family, std::unique_ptr<tuning::DeviceComparison>);
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  /// Collective. The group's workspace must be large enough. A rank that cannot prepare its tensors (no memory), or a
  /// deadline that passes, makes the verdict `failed` on every rank and the group recovers. Throws DeviceError on every
  /// rank if a device is lost.
  Verification verify(const Subject&, const VerifyRequest&);

  /// What the tuner asks before it times: `mixed` for the class rank_order_fp32, `integers` and `random` for others;
  /// every output is asked for. Timing verifies the call as it is timed, which leaves out what nobody needs.
  Verification verify_before_timing(const Subject&, std::int64_t tokens);

  /// Collective. The very thing that is timed: fills all sets with new inputs, poisons their outputs, launches once and
  /// compares all that every set then holds, with what verify() expects of contents `mixed` (rank_order_fp32) or
  /// `integers` (other classes). The sets keep those inputs. Failures as in verify().
  Verification verify_timed(const TimedWork&);

  StreamHandle stream() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace arbiter
