// templates/host/executor.h is also rendered into kernels and so has no guard of its own.
#pragma once

#include "host/executor.h"
