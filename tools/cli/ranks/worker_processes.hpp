// Worker processes: one per GPU, this same program with the same arguments and --worker.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "commands/command.hpp"
#include "ranks/signals.hpp"

namespace arbiter::cli {

/// How a set of workers ended, when it did not end well.
enum class WorkersOutcome : std::uint8_t { succeeded, failed, died };

struct WorkersReport {
  WorkersOutcome outcome{};
  std::string result;      ///< what rank 0 returned
  std::string message;     ///< of the rank that failed first; names the rank
  bool usage = false;      ///< the failure was wrong usage
  bool cancelled = false;  ///< they were asked to stop, and did
};

struct WorkersOptions {
  int world = 1;             ///< ranks
  bool threads = false;      ///< one worker that has all ranks as threads, instead of one worker per rank
  int restarts = 0;          ///< how often they were started again
  std::int64_t started = 0;  ///< of the command, seconds since the epoch
  std::optional<std::chrono::system_clock::time_point> deadline;  ///< when their share of the budget is spent
  bool cancellable = false;                                       ///< the first Ctrl-C asks them to come to an end
  std::string on_interrupt;
  std::chrono::milliseconds grace = std::chrono::seconds(3);  ///< for the others to end by themselves when one failed
};

/// Starts the workers, waits for all, and forwards nothing: rank 0 shares this process's terminal. When one fails,
/// the others are stopped. SIGINT and SIGTERM stop all workers and then this process, after printing `on_interrupt`;
/// if the workers are `cancellable`, the first one asks them to come to an end. They start with SIGTERM blocked: they
/// wait for it. One that somebody stopped (SIGSTOP) is told to go on, and ended if it is stopped again and again.
WorkersReport run_workers(Arguments command_line, const WorkersOptions& options, const SignalWatch& signals);

/// In a worker: where its result and its error go, and what its parent knows.
struct WorkerPlace {
  std::filesystem::path directory;
  int rank = 0;
  int restarts = 0;
  std::int64_t started = 0;
  std::optional<std::chrono::system_clock::time_point> deadline;
};
/// Throws InvalidArgument when --worker was given by hand.
WorkerPlace worker_place();

/// How a worker ends; neither returns. `died` asks for a restart: the device is lost for this process.
[[noreturn]] void end_worker(const WorkerPlace& place, const std::string& result);
[[noreturn]] void fail_worker(const WorkerPlace& place, const std::string& message, bool usage, bool died,
                              bool echo_of_another);

}  // namespace arbiter::cli
