// What the C interface needs of a layer above it: whoever links the library gives it (tuner/c).
#pragma once

#include "arbiter/communicator.hpp"

namespace arbiter::c {

/// For CommunicatorOptions::startup_tuner.
StartupTuner startup_tuner();

}  // namespace arbiter::c
