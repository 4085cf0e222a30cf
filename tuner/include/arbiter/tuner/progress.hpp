// What a long run tells whoever watches it. Nothing in the tuner prints.
#pragma once

#include <cstddef>
#include <string>

namespace arbiter {

struct Progress {
  std::string doing;      ///< the problem or case at hand, as Problem::name() spells it
  std::string candidate;  ///< the candidate that is being measured; empty between candidates
  std::size_t done = 0;   ///< problems or cases finished
  std::size_t total = 0;
  std::string best;  ///< name of the best candidate of this problem so far; empty at first
  double best_us = 0;
  double elapsed_s = 0;
  double left_s = 0;  ///< estimated; 0 while unknown
};

/// Called on every rank, on the rank's thread, a few times a second at most per problem or trial. Should return fast:
/// all ranks wait for the slowest.
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  virtual void update(const Progress&) = 0;
};

}  // namespace arbiter
