// templates/args.h for the host side. That file is pasted into kernel sources, so it has no include guard of its own.
#pragma once

#include "args.h"
