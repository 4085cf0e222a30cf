// Ranks that exchange host data through NCCL, connected here or by the host program.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "arbiter/bootstrap.hpp"
#include "nccl/library.hpp"

namespace arbiter {

struct NcclBootstrapSetup {
  std::shared_ptr<const NcclLibrary> library;
  int ordinal = 0;
  std::string name;
  std::chrono::milliseconds deadline{};
};

/// Connects `size` ranks that have the same id. Collective.
std::unique_ptr<Bootstrap> make_nccl_bootstrap(NcclBootstrapSetup, const NcclId&, int rank, int size);

}  // namespace arbiter
