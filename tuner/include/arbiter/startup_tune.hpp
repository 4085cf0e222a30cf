// A bounded tune when an engine starts, for what no database has an answer to: the third rule of `auto`.
//
// The runtime cannot call the tuner, which lies above it; so the host program does, before it makes its communicator:
//
//   StartupTuneOptions startup{.families = families, .budget = std::chrono::seconds(10)};
//   CommunicatorOptions options;
//   options.decisions = tune_at_startup(bootstrap, device, startup).decisions;
//   Communicator communicator(bootstrap, device, options);
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"

namespace arbiter {

struct CandidateSource;  // private to Arbiter: arbiter/tuner/tune.hpp
class ProgressSink;      // private to Arbiter: arbiter/tuner/progress.hpp

struct StartupTuneOptions {
  std::vector<ProblemFamily> families;
  std::chrono::milliseconds budget = std::chrono::seconds(10);  ///< for the tune, kernel compilation included; > 0
  /// Work database that keeps what is measured, on rank 0; empty: it is forgotten with the process.
  std::filesystem::path database = {};
  /// Those of the communicator to come: its decisions, or its database, say what need not be tuned.
  CommunicatorOptions communicator = {};
  std::shared_ptr<const CandidateSource> source = nullptr;  ///< null: the catalogue and the runtime
};

struct StartupTuneResult {
  /// For CommunicatorOptions::decisions: what was there, and what was found. Equal on all ranks; never null.
  std::shared_ptr<const std::vector<DecisionSet>> decisions;
  std::vector<ProblemFamily> tuned;  ///< those that had no decision
  std::vector<std::string> notes;    ///< one sentence each: a database that cannot be used, what the tune had to say
};

/// Collective. Tunes the families that have no usable decision, neither for their hidden size up to max_tokens nor for
/// another hidden size, which `auto` would take. The rest of the start does not depend on it: a database that cannot be
/// read or written becomes a note, and what could not be measured in time is left to the heuristic. Candidates run in
/// this process: one that hangs passes its deadline and is left out, but one that faults takes the device with it.
/// Throws InvalidArgument for a budget or families that cannot be, DeviceError when a device is lost.
StartupTuneResult tune_at_startup(const std::shared_ptr<Bootstrap>&, const std::shared_ptr<Device>&,
                                  const StartupTuneOptions&, ProgressSink* = nullptr);

}  // namespace arbiter
