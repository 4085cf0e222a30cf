// A variant: an algorithm with every compile-time parameter fixed. One CUDA source, one kernel per rank.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "arbiter/vocabulary.hpp"

namespace arbiter {

/// Everything that is a constant in the rendered source, except the rank.
struct Variant {
  Backend backend{};
  std::string algorithm;
  std::string pattern;
  Dtype dtype{};
  int world = 0;   ///< ranks; 1 for the stand-alone kernel
  int hidden = 0;  ///< elements of a row; 0 for flat patterns, where it is not a constant
  std::map<std::string, int, std::less<>> parameters;  ///< compile-time axes only

  /// "trtllm/oneshot_push:cluster=1,early_trigger=1,threads=256,vectors=1": parameters in alphabetical order, so that
  /// stored names survive a catalogue that lists its axes in another order.
  std::string name() const;
  /// name() and the rest: pattern, dtype, world, hidden. Unique; used for cache listings and error messages.
  std::string full_name() const;
  int parameter(std::string_view axis) const;  ///< throws InvalidArgument if absent
  auto operator<=>(const Variant&) const = default;
};

/// What limits enumeration on one device.
struct TargetLimits {
  int sm = 0;                             ///< 80, 86, 89, 90, 100, 103, 120; 0 for the CPU device
  int max_threads = 1024;                 ///< per block
  std::vector<std::string> capabilities;  ///< proven here: "multicast"
  bool exhaustive = false;                ///< what the catalogue prunes is enumerated too
};

/// A combination the catalogue names that cannot be built here, or that it prunes, and why.
struct Excluded {
  Variant variant;
  std::string reason;
  bool pruned = false;  ///< it can be built: an exhaustive enumeration has it
};

struct Enumeration {
  std::vector<Variant> variants;  ///< in catalogue order: a pure function of the arguments, equal on all ranks
  std::vector<Excluded> excluded;
};

/// All variants of one (pattern, dtype, world, hidden) on a target. `hidden` in elements; for flat patterns it is
/// ignored and the variants have 0. Pass backend automatic for all backends.
/// An algorithm that cannot run here at all (world size, capability) is excluded once, without parameters.
/// Throws InvalidArgument for an unknown pattern, a world size outside 2..max_world, or, for patterns that work on
/// rows, a hidden size that is not a positive multiple of the 16-byte vector.
Enumeration enumerate(const Catalogue&, std::string_view pattern, Dtype, int world, int hidden, const TargetLimits&,
                      Backend backend = Backend::automatic);

/// The stand-alone kernels of a pattern (world 1).
Enumeration enumerate_standalone(const Catalogue&, std::string_view pattern, Dtype, int hidden, const TargetLimits&);

/// Why `variant` cannot be built for `limits`; empty if it can, pruned or not. A variant the catalogue does not
/// describe (it came from an older database, say) has a reason too.
std::optional<std::string> unavailable(const Catalogue&, const Variant&, const TargetLimits&);

}  // namespace arbiter
