// A trial that is done, as choosing takes it.
#pragma once

#include "arbiter/tuner/choose.hpp"
#include "oracle/seed.hpp"

namespace arbiter::tuning {

/// The same samples have the same interval wherever they are summarised.
inline Measured measured_of(const Trial& trial) {
  return {trial.candidate, trial.blocks, summarise(trial.samples_us, seed_of(trial.problem, 0)), trial.use};
}

}  // namespace arbiter::tuning
