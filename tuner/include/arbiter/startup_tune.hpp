// A bounded tune when an engine starts, for what no database has an answer to: the third rule of `auto`.
//
// The runtime cannot call the tuner, which lies above it; so a host program hands it over, and prepare() calls it:
//
//   CommunicatorOptions options;
//   options.variables.startup_tune = std::chrono::seconds(2);
//   options.startup_tuner = startup_tuner();
//   Communicator communicator(bootstrap, device, options);
//
// or calls it before it makes its communicator, with more to say about what is measured and where it is kept:
//
//   StartupTuneOptions startup{.families = families, .budget = std::chrono::seconds(10)};
//   CommunicatorOptions options;
//   options.decisions = tune_at_startup(bootstrap, device, startup).decisions;
//   Communicator communicator(bootstrap, device, options);
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"

namespace arbiter {

struct CandidateSource;  // private to Arbiter: arbiter/tuner/tune.hpp
class ProgressSink;      // private to Arbiter: arbiter/tuner/progress.hpp

struct StartupTuneOptions {
  std::vector<ProblemFamily> families;
  std::chrono::milliseconds budget = std::chrono::seconds(10);  ///< for all of it, kernel compilation included; > 0
  /// Work database that keeps what is measured, on rank 0; empty: it is forgotten with the process.
  std::filesystem::path database = {};
  /// Those of the communicator to come: its decisions, or its database, say what need not be tuned.
  CommunicatorOptions communicator = {};
  std::shared_ptr<const CandidateSource> source = nullptr;          ///< null: the catalogue and the runtime
  std::function<std::chrono::steady_clock::time_point()> now = {};  ///< rank 0's clock; empty: the usual one
};

struct StartupTuneResult {
  /// For CommunicatorOptions::decisions: what was there, and what was found. Equal on all ranks; never null.
  std::shared_ptr<const std::vector<DecisionSet>> decisions;
  std::vector<ProblemFamily> tuned;    ///< those that had no decision
  std::vector<std::string> notes;      ///< one sentence each: a database that cannot be used, what the tune had to say
  std::chrono::milliseconds spent{0};  ///< on rank 0; equal on all ranks
};

/// Collective. Tunes the families that have no usable decision, neither for their hidden size up to max_tokens nor for
/// another hidden size, which `auto` would take. The rest of the start does not depend on it: a database that cannot be
/// read or written becomes a note (what is found serves this process then, and is forgotten with it), and what could
/// not be measured in time is left to the heuristic. What was begun is finished, so the budget may be exceeded by one
/// candidate at one size. Candidates run in
/// this process: one that hangs passes its deadline and is left out, but one that faults takes the device with it.
/// Throws InvalidArgument for a budget or families that cannot be, DeviceError when a device is lost.
StartupTuneResult tune_at_startup(const std::shared_ptr<Bootstrap>&, const std::shared_ptr<Device>&,
                                  const StartupTuneOptions&, ProgressSink* = nullptr);

/// For CommunicatorOptions::startup_tuner. With numerics `strict` only candidates of that class are measured.
/// `settings` says from which candidates, and by which clock; everything else in it is the communicator's to say.
StartupTuner startup_tuner(StartupTuneOptions settings = {});

}  // namespace arbiter
