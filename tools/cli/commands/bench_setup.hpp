// What `arbiter bench` measures on.
#pragma once

#include <filesystem>
#include <memory>

#include "arbiter/communicator.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "arbiter/startup_tune.hpp"
#include "ranks/session.hpp"

namespace arbiter::cli {

/// What every rank does the same way: a group to measure on and a communicator that decides as a program's would.
struct BenchSetup {
  EnvironmentVariables variables;
  std::shared_ptr<KernelCache> cache;
  std::filesystem::path database;  ///< empty: there is none
  bool nccl = false;

  std::unique_ptr<Group> group(const RankContext& context) const {
    GroupOptions options;
    options.variables = variables;
    options.nccl = nccl;
    options.cache = cache;
    return make_group(context.bootstrap, context.device, options);
  }

  CommunicatorOptions communicator_options() const {
    CommunicatorOptions options;
    options.variables = variables;
    options.variables.db = database.string();
    options.nccl = nccl;
    options.cache = cache;
    options.startup_tuner = startup_tuner();
    return options;
  }
  Communicator communicator(const RankContext& context) const {
    return {context.bootstrap, context.device, communicator_options()};
  }
};

}  // namespace arbiter::cli
