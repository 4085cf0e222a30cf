// From measurements to decisions. Pure: the same measurements give the same decisions on every rank and machine.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/db/records.hpp"
#include "arbiter/tuner/statistics.hpp"

namespace arbiter {

/// A verified candidate with its samples, at one size.
struct Measured {
  Candidate candidate;
  int blocks = 0;  ///< thread blocks it occupies at this size; 0 for nccl
  Summary summary;
  KernelUse use{};  ///< of its kernels
};

struct ChoiceRules {
  double gain = 0.02;         ///< smaller differences do not count as faster
  double largest_tie = 0.05;  ///< a larger difference is never a tie, however wide the intervals are
  double precision = 0.01;    ///< a near tie is sampled until the intervals are narrower than this, of the median
};

/// Is `fast` faster than `slow` beyond noise? The intervals lie apart and the gain exceeds `gain`, or the gain exceeds
/// `largest_tie`.
bool beats(const Summary& fast, const Summary& slow, const ChoiceRules&);

struct Choice {
  std::size_t index = 0;  ///< into the measurements
  std::string reason;     ///< one sentence for people
  bool close = false;     ///< more samples could decide otherwise: another is slower by a gain that counts, or nearly,
                          ///< but the intervals overlap
};

/// Which of them need more samples before anything can be said: those within `largest_tie` of the fastest, and the
/// fastest itself, while the interval of one of these is not narrower than `precision`. Empty, or at least two.
std::vector<std::size_t> near_ties(std::span<const Summary>, const ChoiceRules& = {});

/// With intervals narrower than that: who may or may not be slower than the fastest by `gain`, as far as the intervals
/// tell, and would be chosen if it is not; and the fastest. Noise must not decide that either. Empty, or at least two.
std::vector<std::size_t> doubtful(std::span<const Measured>, const std::optional<Candidate>& incumbent,
                                  const ChoiceRules& = {});

/// How many samples a finalist gets for a near tie. `tie` 0: none but the first.
struct SampleLimits {
  int step = 30;      ///< taken at first, and in every round of near_ties()
  int tie = 150;      ///< at most, of near_ties()
  int verdict = 720;  ///< at most, of doubtful(): twice as many in each round
};
/// Who is sampled next, together, and how often. Nobody: it is settled, or will not be.
struct NextSamples {
  std::vector<std::size_t> which;
  int samples = 0;
};
NextSamples next_samples(std::span<const Measured>, const std::optional<Candidate>& incumbent, const SampleLimits&,
                         const ChoiceRules& = {});

/// The lowest median wins if its interval lies apart from every other's and it gains more than `gain`. Otherwise, among
/// the candidates that it does not beat so, in a fixed order in which no noise has a say: the incumbent, then the
/// stricter numerics class, then fewer blocks, then the name. Empty for no measurements.
std::optional<Choice> choose(std::span<const Measured>, const std::optional<Candidate>& incumbent,
                             const ChoiceRules& = {});

/// The token counts that are measured: powers of two and the midpoints between them (1, 2, 3, 4, 6, 8, 12, 16, ...)
/// below `max_tokens`, and `max_tokens` itself. Throws InvalidArgument unless max_tokens >= 1.
std::vector<std::int64_t> token_grid(std::int64_t max_tokens);

/// Where one winner ends between two measured sizes with different winners: the last token count that still belongs to
/// the smaller one, floor(sqrt(below * above)). No time is interpolated to find it.
std::int64_t boundary(std::int64_t below, std::int64_t above);

/// First and last token count.
struct TokenRange {
  std::int64_t first = 0, last = 0;
  bool operator==(const TokenRange&) const = default;
};

/// For which sizes each of the measured ones, ascending, speaks. Up to the boundary with its neighbour, but never for
/// sizes that are more than four times smaller or larger: there nothing is known. None speaks for a size above the
/// largest, where algorithms that send everything to everybody become slow without a warning.
std::vector<TokenRange> reaches(std::span<const std::int64_t> measured);

/// What was measured at one size.
struct SizeResult {
  std::int64_t tokens = 0;
  std::vector<Measured> candidates;
};

/// Who won at one measured size.
struct SizeWinner {
  std::int64_t tokens = 0;
  const SizeResult* size = nullptr;  ///< into the results given
  Choice choice;
  const Measured& measured() const { return size->candidates[choice.index]; }
};

/// The winner of every size with measurements, ascending. The incumbents are those of decide(), which builds on this.
std::vector<SizeWinner> winners(const ProblemFamily&, int world, std::span<const SizeResult> sizes,
                                std::span<const Decision> previous, const ChoiceRules& = {});

/// Decisions for the sizes that the measured ones speak for (reaches()); empty if nothing was measured. The same
/// measurements give the same intervals, whatever was asked for. `sizes` in any order. The incumbent at a size is the
/// candidate of the decision in `previous` (same family and world) that covers it, if it was measured again. What won
/// at other sizes has no say: a coin that fell at one of them would decide the next ones too.
std::vector<Decision> decide(const ProblemFamily&, int world, std::span<const SizeResult> sizes,
                             std::span<const Decision> previous, const ChoiceRules& = {});

/// The candidate that these decisions have for a size.
std::optional<Candidate> previous_candidate(std::span<const Decision> previous, const ProblemFamily&, int world,
                                            std::int64_t tokens);

/// Decisions that belong to this family and world.
bool belongs(const Decision&, const ProblemFamily&, int world) noexcept;

}  // namespace arbiter
