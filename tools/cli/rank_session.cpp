#include "rank_session.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <set>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/vocabulary.hpp"
#include "names.hpp"
#include "numbers.hpp"
#include "signals.hpp"
#include "text.hpp"
#include "worker_processes.hpp"

namespace arbiter::cli {
namespace {

constexpr int signal_wait_ms = 50;

std::vector<int> default_worlds(int gpus) {
  std::set<int> worlds{std::min(gpus, max_world)};
  for (int world = 2; world <= std::min(gpus, max_world); world *= 2) worlds.insert(world);
  return {worlds.begin(), worlds.end()};
}

/// Throws unless every world size fits the GPUs that were named or found.
void check_gpus(const SessionOptions& session, int visible) {
  for (const int gpu : session.gpus) {
    if (gpu >= visible) {
      throw UsageError("--gpus: GPU " + std::to_string(gpu) + " is not visible here; there " +
                       (visible == 1 ? "is" : "are") + " " + plural(static_cast<std::size_t>(visible), "GPU") +
                       ", numbered from 0 (CUDA_VISIBLE_DEVICES decides)");
    }
  }
  if (!session.in_process && std::set<int>(session.gpus.begin(), session.gpus.end()).size() != session.gpus.size()) {
    throw UsageError("--gpus names a GPU twice; ranks that share a GPU must be threads: add --in-process");
  }
  for (const int world : session.worlds) {
    if (static_cast<std::size_t>(world) > session.gpus.size()) {
      throw UsageError(std::to_string(world) + " ranks need " + std::to_string(world) + " GPUs, but there are " +
                       std::to_string(session.gpus.size()) + "; lower --world or name more with --gpus");
    }
  }
}

void read_cuda_ranks(const Options& options, SessionOptions& session, int visible) {
  if (visible == 0) {
    throw Unavailable("--device cuda: no GPU is visible here; see: arbiter doctor. Without one, use --device cpu");
  }
  if (options.has("gpus")) {
    session.gpus = parse_integer_ranges(options.text("gpus"), "gpus", 0, 1023);
  } else {
    for (int gpu = 0; gpu < visible; ++gpu) session.gpus.push_back(gpu);
  }
}

}  // namespace

void declare_rank_options(Options& options) {
  options.value("device", "NAME", "cuda or cpu (default: cuda where there is a GPU)")
      .choices(device_names())
      .value("gpus", "LIST", "GPUs to use, in rank order: 0-3 or 0,2,1 (default: all)")
      .list("world", "N", "numbers of ranks, one after another: 2,4 (default: 2, 4, 8, ... and all GPUs)")
      .list("ranks", "N", "the same, as one says it of the CPU device (default there: 2)")
      .flag("in-process", "ranks are threads of this process, on GPUs too; they may share GPUs: --gpus 0,1,0,1")
      .value("seed", "N", "order in which the CPU device runs its threads (default: 0)")
      .internal("worker");
}

std::string command_text(const std::string& command, Arguments arguments) {
  std::string text = "arbiter " + command;
  for (const std::string& argument : arguments) {
    const bool plain = !argument.empty() && argument.find_first_of(" \t\n'\"\\$`*?&|;<>()") == std::string::npos;
    text += plain ? " " + argument : " '" + argument + "'";
  }
  return text;
}

SessionOptions read_rank_options(const Options& options, const std::string& command, Arguments arguments) {
  SessionOptions session;
  session.signals = std::make_shared<SignalWatch>();
  session.arguments.push_back(command);
  session.arguments.insert(session.arguments.end(), arguments.begin(), arguments.end());
  session.worker = options.has("worker");
  session.in_process = options.has("in-process");
  session.seed = static_cast<std::uint64_t>(options.integer("seed", 0, INT64_MAX, 0));
  if (options.has("world") && options.has("ranks")) throw UsageError("--world and --ranks mean the same; give one");
  session.worlds = options.integers(options.has("ranks") ? "ranks" : "world", 1, max_world, {});

  constexpr std::string_view devices[] = {"cuda", "cpu"};
  const std::string device = options.text("device");
  if (!device.empty() && device != "cuda" && device != "cpu") {
    throw UsageError(unknown_name_message("device", device, devices));
  }
  const int visible = device == "cpu" ? 0 : cuda_device_count();
  session.device = device == "cuda" || (device.empty() && visible > 0) ? DeviceKind::cuda : DeviceKind::cpu;
  if (session.device == DeviceKind::cpu) {
    if (options.has("gpus")) throw UsageError("--gpus needs --device cuda, and a GPU");
    session.in_process = true;
    if (session.worlds.empty()) session.worlds = {2};
    session.shares = session.worlds.size();
    return session;
  }
  read_cuda_ranks(options, session, visible);
  const LauncherVariables launcher = session.in_process ? LauncherVariables{} : read_launcher_variables();
  if (session.worker) {
    if (session.worlds.empty()) session.worlds = default_worlds(static_cast<int>(session.gpus.size()));
    session.shares = session.worlds.size();
    session.worlds = {launcher.size};
    return session;
  }
  if (!launcher.launcher.empty()) {
    if (session.worlds.empty()) session.worlds = {launcher.size};
    if (session.worlds != std::vector<int>{launcher.size}) {
      throw UsageError(launcher.launcher + " started " + plural(static_cast<std::size_t>(launcher.size), "rank") +
                       ", and those are used as they are; for other numbers of ranks, start it again with as many " +
                       "(results of several tunes may go to one database)");
    }
    session.shares = session.worlds.size();
    return session;
  }
  if (session.worlds.empty()) session.worlds = default_worlds(static_cast<int>(session.gpus.size()));
  check_gpus(session, visible);
  session.shares = session.worlds.size();
  return session;
}

namespace {

/// An error that only says that another rank failed is less interesting than that rank's own.
void rethrow_first(const std::vector<std::exception_ptr>& errors) {
  std::exception_ptr echo;
  for (const std::exception_ptr& error : errors) {
    if (!error) continue;
    try {
      std::rethrow_exception(error);
    } catch (const Poisoned&) {
      if (!echo) echo = error;
    }
  }
  if (echo) std::rethrow_exception(echo);
}

std::shared_ptr<Device> make_device(const SessionOptions& session, int rank) {
  if (session.device == DeviceKind::cpu) {
    CpuDeviceOptions cpu;
    cpu.seed = session.seed;
    return make_cpu_device(rank, cpu);
  }
  return make_cuda_device(session.gpus[static_cast<std::size_t>(rank) % session.gpus.size()]);
}

/// Waits for signals until `running` is 0. The first Ctrl-C asks the ranks to stop if they listen; the next ends all.
void watch(const SessionOptions& session, const std::atomic<int>& running, std::atomic<bool>& cancel) {
  while (running > 0) {
    const int signal = session.signals->wait(signal_wait_ms);
    if (signal != SIGINT && signal != SIGTERM) continue;
    if (!session.cancellable || cancel.exchange(true)) end_interrupted(signal, session.on_interrupt);
    std::fprintf(stderr, "\nstopping after the measurement at hand; press Ctrl-C again to stop at once\n");
  }
}

std::string run_threads(const SessionOptions& session, int world, const RankBody& body, std::atomic<bool>& cancel) {
  auto bootstraps = make_in_process_bootstraps(world);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world));
  std::string result;
  std::atomic<int> running{world};
  std::vector<std::thread> threads;
  const auto run_rank = [&](int rank, std::shared_ptr<Bootstrap> bootstrap) {
    try {
      RankContext context{std::move(bootstrap), make_device(session, rank), 0, &cancel};
      context.device->activate();
      std::string mine = body(context);
      if (rank == 0) result = std::move(mine);
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
    }
    --running;
  };
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back(run_rank, rank,
                         std::shared_ptr<Bootstrap>(std::move(bootstraps[static_cast<std::size_t>(rank)])));
  }
  watch(session, running, cancel);
  for (std::thread& thread : threads) thread.join();
  rethrow_first(errors);
  return result;
}

/// This process is one rank among those that a launcher started.
std::string run_launched(const SessionOptions& session, const LauncherVariables& launcher, int restarts,
                         const RankBody& body, std::atomic<bool>& cancel) {
  auto device = make_device(session, launcher.local_rank);
  device->activate();
  RankContext context{make_launcher_bootstrap(launcher), std::move(device), restarts, &cancel};
  return body(context);
}

[[noreturn]] void run_worker(const SessionOptions& session, const RankBody& body) {
  const WorkerPlace place = worker_place();
  const LauncherVariables launcher = read_launcher_variables();
  std::atomic<bool> cancel{false};
  prctl(PR_SET_NAME, ("arbiter rank " + std::to_string(place.rank)).c_str());
  std::thread([&] {
    for (;;) {  // the parent asks a worker to stop with SIGTERM
      if (session.signals->wait(signal_wait_ms) != SIGTERM) continue;
      if (!session.cancellable) std::_Exit(128 + SIGTERM);
      cancel = true;
    }
  }).detach();  // a worker ends by _Exit, with this thread in it
  try {
    end_worker(place, run_launched(session, launcher, place.restarts, body, cancel));
  } catch (const Poisoned& error) {
    fail_worker(place, error.what(), false, false, true);
  } catch (const InvalidArgument& error) {
    fail_worker(place, error.what(), true, false, false);
  } catch (const UsageError& error) {
    fail_worker(place, error.what(), true, false, false);
  } catch (const DeviceError& error) {
    fail_worker(place, error.what(), false, true, false);
  } catch (const std::exception& error) {
    fail_worker(place, error.what(), false, false, false);
  }
}

std::string run_processes(const SessionOptions& session, int world, bool& cancelled) {
  for (int restarts = 0;; ++restarts) {
    WorkersReport report =
        run_workers(session.arguments, world, restarts, session.cancellable, session.on_interrupt, *session.signals);
    cancelled = report.cancelled;
    if (report.outcome == WorkersOutcome::succeeded) return std::move(report.result);
    if (report.usage) throw InvalidArgument(report.message);
    if (report.outcome == WorkersOutcome::failed || report.cancelled || restarts >= session.most_restarts) {
      throw DeviceError(report.message);
    }
    std::fprintf(stderr, "%s\nstarting the workers again and going on behind that candidate\n", report.message.c_str());
  }
}

}  // namespace

SessionResult run_session(const SessionOptions& session, const RankBody& body) {
  if (session.worker) run_worker(session, body);
  SessionResult result;
  result.printer = true;
  std::atomic<bool> cancel{false};
  const LauncherVariables launcher = session.in_process ? LauncherVariables{} : read_launcher_variables();
  for (const int world : session.worlds) {
    if (cancel) break;
    if (session.in_process) {
      result.results.push_back(run_threads(session, world, body, cancel));
    } else if (launcher.launcher.empty()) {
      bool cancelled = false;
      result.results.push_back(run_processes(session, world, cancelled));
      cancel = cancelled;
    } else {
      result.printer = launcher.rank == 0;
      result.results.push_back(run_launched(session, launcher, 0, body, cancel));
    }
  }
  return result;
}

}  // namespace arbiter::cli
