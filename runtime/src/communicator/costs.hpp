// What an algorithm is expected to cost where nothing was measured: latency + bytes, from what the catalogue says of
// the algorithm and what is known of machines of this kind.
#pragma once

#include <cstdint>

#include "arbiter/db/records.hpp"
#include "arbiter/generator/variant.hpp"

namespace arbiter {

/// What the built-in choice knows of a machine.
struct MachineFigures {
  double launch_us = 0;        ///< a call that exchanges nothing
  double step_us = 0;          ///< from a store until a peer has acted on it
  double bytes_per_us = 0;     ///< that reach one GPU through all its links
  double vectors_at_once = 0;  ///< 16-byte vectors, one a thread, that all SMs hold at a time
  double vector_us = 0;        ///< for each vector that a block handles in an iteration, and each time that it does
  double rounding_us = 0;      ///< for each time that a value is rounded to 8 bits and read again
  double iteration_us = 0;     ///< for each further iteration and each step that it cannot hide
  bool operator==(const MachineFigures&) const = default;
};

/// How often all SMs together have to start anew for a message of `bytes`; 1 where everything fits at once.
double iterations_of(const AlgorithmEntry&, const Variant&, const Pattern&, std::int64_t bytes, const MachineFigures&);

/// Measured for Hopper behind an NVLink switch (docs/tuning.md); other links are scaled by their nominal bandwidth.
MachineFigures machine_figures(const Environment&);

/// Microseconds of one call with a message of `bytes`. Good enough to order algorithms, not to promise a time.
double expected_us(const AlgorithmEntry&, const Variant&, const Pattern&, std::int64_t bytes, const MachineFigures&);

}  // namespace arbiter
