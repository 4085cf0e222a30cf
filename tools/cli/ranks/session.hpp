// The ranks a command works with: threads on the CPU device, one worker process per GPU that this program starts
// itself, or the ranks that a launcher (torchrun, mpirun, srun) has already made. Commands only see `RankContext`.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/device.hpp"
#include "options/options.hpp"
#include "ranks/signals.hpp"

namespace arbiter::cli {

/// Where the time went before a command's body, in seconds; 0: nowhere.
struct StartTimes {
  double driver_s = 0;   ///< the first question to the CUDA driver
  double context_s = 0;  ///< making the device and its context current
  double meeting_s = 0;  ///< until all launched ranks can exchange data; with GPUs that is NCCL's first start, too
};

/// One rank while a command's body runs on it.
struct RankContext {
  std::shared_ptr<Bootstrap> bootstrap;
  std::shared_ptr<Device> device;
  int restarts = 0;                           ///< how often the workers were started again after one of them died
  const std::atomic<bool>* cancel = nullptr;  ///< becomes true when a person pressed Ctrl-C (if cancellable)
  std::int64_t started = 0;                   ///< when the command was started, seconds since the epoch
  /// When this number of ranks has spent its share of SessionOptions::budget; empty without one.
  std::optional<std::chrono::system_clock::time_point> deadline;
  /// Ends this process with this message, from any thread; workers are then started again.
  std::function<void(const std::string&)> give_up;
  StartTimes start = {};

  int rank() const noexcept { return bootstrap->rank(); }
  int size() const noexcept { return bootstrap->size(); }
  bool leader() const noexcept { return rank() == 0; }
};

/// Runs on every rank; what rank 0 returns is the result. It travels between processes, hence text (JSON).
using RankBody = std::function<std::string(RankContext&)>;

struct SessionOptions {
  DeviceKind device = DeviceKind::cpu;
  std::vector<int> gpus;                ///< CUDA ordinals, rank order; empty: the visible ones
  std::vector<int> worlds;              ///< numbers of ranks, one after another
  bool in_process = false;              ///< ranks are threads, on `cuda` too
  bool isolated = false;                ///< ranks that are threads (`cpu`) are those of a worker process
  bool launched = false;                ///< a launcher started this rank and the others: those are used
  bool worker = false;                  ///< this process is one of the workers
  std::uint64_t seed = 0;               ///< order of fibers on the CPU device
  std::vector<std::string> arguments;   ///< the command's name and what followed: what workers are started with
  int most_restarts = 0;                ///< how often dead workers may be started again before that is a failure
  bool cancellable = false;             ///< the body watches `cancel`: only a second Ctrl-C ends it at once
  std::chrono::milliseconds budget{0};  ///< for all numbers of ranks together, from the start of the command; 0: none
  /// In force from before CUDA starts threads of its own: one that does not block a signal would be ended by it.
  std::shared_ptr<const SignalWatch> signals;
  double driver_s = 0;       ///< as in StartTimes
  std::string on_interrupt;  ///< what to tell a person who pressed Ctrl-C
};

/// Declares --device, --gpus, --world (and --ranks), --in-process and --seed.
void declare_rank_options(Options& options);

/// Reads them. `command` is the command's name and `arguments` what followed it. Without --world: 2, 4, 8, ... and all
/// GPUs; 2 ranks on the CPU device; what the launcher says under a launcher. Throws UsageError for numbers that cannot
/// work here, Unavailable for --device cuda without a GPU.
SessionOptions read_rank_options(const Options& options, const std::string& command, Arguments arguments);

/// Fills in `worlds` and `launched`. A launcher that started one rank only leaves the ranks to us. Throws UsageError.
void choose_worlds(SessionOptions&, const LauncherVariables&, int visible);

/// Throws UsageError unless the GPUs that were named are among the `visible` ones, each once where ranks are processes,
/// and every number of ranks fits them.
void check_gpus(const SessionOptions&, int visible);

/// "arbiter <command> <arguments>" as a person would type it: quoted for a shell where needed, without the option that
/// makes a process a worker.
std::string command_text(const std::string& command, Arguments arguments);

struct SessionResult {
  bool printer = false;              ///< false on the ranks of a launcher that are not rank 0: print nothing
  bool cancelled = false;            ///< a person pressed Ctrl-C, and the body stopped early
  std::vector<std::string> results;  ///< rank 0's, one for each world size
};

/// Runs `body` for every world size. In a worker process it does not return.
/// Throws the first error that is not merely the echo of another rank's failure.
SessionResult run_session(const SessionOptions& session, const RankBody& body);

}  // namespace arbiter::cli
