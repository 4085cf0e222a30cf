// libarbiter has the tuner in it: the C interface gets it from here, because it lies below the tuner.
#include "startup_tuner.hpp"

#include "arbiter/startup_tune.hpp"

namespace arbiter::c {

StartupTuner startup_tuner() { return arbiter::startup_tuner(); }

}  // namespace arbiter::c
