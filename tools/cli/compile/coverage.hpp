// Which kernels to compile so that every variant, and every pair of choices that could trouble a compiler, is seen.
// The whole product of the catalogue is millions of kernels; this is a few hundred.
#pragma once

#include <string>
#include <vector>

#include "arbiter/generator/catalogue.hpp"
#include "compile/jobs.hpp"

namespace arbiter::cli {

/// Tasks such that, over the given targets: every algorithm meets every target, and with every combination of its
/// parameters one target of every family (8x, 90, 10x, 120), where its requirements allow; every prologue, norm and
/// quantisation meets every algorithm, dtype, target and each other; every algorithm meets every dtype, world size and
/// hidden size in use. No kernel twice. A pure function of its arguments, in a fixed order.
std::vector<CompileTask> covering_tasks(const Catalogue&, const std::vector<std::string>& targets);

}  // namespace arbiter::cli
