#include "ranks/session.hpp"
#include "ranks/launcher_restarts.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <set>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/vocabulary.hpp"
#include "options/names.hpp"
#include "ranks/nccl_tuner_plugin.hpp"
#include "ranks/self_process.hpp"
#include "ranks/signals.hpp"
#include "ranks/worker_processes.hpp"
#include "text/numbers.hpp"
#include "text/print.hpp"
#include "text/text.hpp"

namespace arbiter::cli {
namespace {

constexpr int signal_wait_ms = 50;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<int> default_worlds(int gpus) {
  std::set<int> worlds{std::min(gpus, max_world)};
  for (int world = 2; world <= std::min(gpus, max_world); world *= 2) worlds.insert(world);
  return {worlds.begin(), worlds.end()};
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

void check_gpus(const SessionOptions& session, int visible) {
  for (const int gpu : session.gpus) {
    if (gpu >= visible) {
      throw UsageError(
          fmt::format("--gpus: GPU {} is not visible here; there {} {}, numbered from 0 (CUDA_VISIBLE_DEVICES decides)",
                      gpu, (visible == 1 ? "is" : "are"), plural(static_cast<std::size_t>(visible), "GPU")));
    }
  }
  if (!session.in_process && std::set<int>(session.gpus.begin(), session.gpus.end()).size() != session.gpus.size()) {
    throw UsageError("--gpus names a GPU twice; ranks that share a GPU must be threads: add --in-process");
  }
  for (const int world : session.worlds) {
    if (static_cast<std::size_t>(world) > session.gpus.size()) {
      throw UsageError(fmt::format("{} ranks need {} GPUs, but there are {}; lower --world or name more with --gpus",
                                   world, world, session.gpus.size()));
    }
  }
}

void choose_worlds(SessionOptions& session, const LauncherVariables& launcher, int visible) {
  session.launched = launcher.several();
  if (!session.launched) {
    if (session.worlds.empty()) session.worlds = default_worlds(static_cast<int>(session.gpus.size()));
    check_gpus(session, visible);
    return;
  }
  if (session.worlds.empty()) session.worlds = {launcher.size};
  if (session.worlds != std::vector<int>{launcher.size}) {
    throw UsageError(launcher.launcher + " started " + plural(static_cast<std::size_t>(launcher.size), "rank") +
                     ", and those are used as they are; for other numbers of ranks, start it again with as many " +
                     "(results of several tunes may go to one database)");
  }
}

void declare_rank_options(Options& options) {
  options.value("device", "NAME", "cuda or cpu (default: cuda where there is a GPU)")
      .choices(device_names())
      .value("gpus", "LIST", "GPUs to use, in rank order: 0-3 or 0,2,1 (default: all)")
      .list("world", "N", "numbers of ranks, one after another: 2,4 (default: 2, 4, 8, ... and all GPUs)")
      .list("tp", "N", "the same, as engines call it")
      .list("ranks", "N", "the same, as one says it of the CPU device (default there: 2)")
      .flag("in-process", "ranks are threads of this process, on GPUs too; they may share GPUs: --gpus 0,1,0,1")
      .value("seed", "N", "order in which the CPU device runs its threads (default: 0)")
      .internal("worker");
}

std::string command_text(const std::string& command, Arguments arguments) {
  std::string text = "arbiter " + command;
  for (const std::string& argument : arguments) {
    if (argument == "--worker") continue;  // a worker says what its user typed
    if (!argument.empty() && argument.find_first_of(" \t\n'\"\\$`*?&|;<>()#~!{}[]") == std::string::npos) {
      text += " " + argument;
      continue;
    }
    text += " '";
    for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += "'";
  }
  return text;
}

SessionOptions read_rank_options(const Options& options, const std::string& command, Arguments arguments) {
  offer_nccl_tuner_plugin();
  SessionOptions session;
  session.signals = std::make_shared<SignalWatch>();
  session.arguments.push_back(command);
  session.arguments.insert(session.arguments.end(), arguments.begin(), arguments.end());
  session.worker = options.has("worker");
  session.in_process = options.has("in-process");
  session.seed = static_cast<std::uint64_t>(options.integer("seed", 0, INT64_MAX, 0));
  std::string spelled = "world";
  int spellings = 0;
  for (const char* name : {"world", "ranks", "tp"}) {
    if (!options.has(name)) continue;
    spelled = name;
    ++spellings;
  }
  if (spellings > 1) throw UsageError("--world, --ranks and --tp mean the same; give one");
  session.worlds = options.integers(spelled, 1, max_world, {});

  constexpr std::string_view devices[] = {"cuda", "cpu"};
  const std::string device = options.text("device");
  if (!device.empty() && device != "cuda" && device != "cpu") {
    throw UsageError(unknown_name_message("device", device, devices));
  }
  const auto begin = std::chrono::steady_clock::now();
  const int visible = device == "cpu" ? 0 : cuda_device_count();
  if (device != "cpu") session.driver_s = seconds_since(begin);
  session.device = device == "cuda" || (device.empty() && visible > 0) ? DeviceKind::cuda : DeviceKind::cpu;
  if (session.device == DeviceKind::cpu) {
    if (options.has("gpus")) throw UsageError("--gpus needs --device cuda, and a GPU");
    session.in_process = true;
    if (session.worlds.empty()) session.worlds = {2};
    if (session.worker) session.worlds = {read_launcher_variables().size};
    return session;
  }
  read_cuda_ranks(options, session, visible);
  const LauncherVariables launcher = session.in_process ? LauncherVariables{} : read_launcher_variables();
  if (session.worker) {
    session.worlds = {launcher.size};
    return session;
  }
  choose_worlds(session, launcher, visible);
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

using Deadline = std::optional<std::chrono::system_clock::time_point>;

/// What is the same for all ranks of this process.
struct Place {
  int restarts = 0;
  std::int64_t started = 0;
  Deadline deadline;
  std::function<void(const std::string&)> give_up;
};

/// A fair share of the budget that is left for one of `worlds_left` numbers of ranks.
Deadline share_of(const SessionOptions& session, std::size_t worlds_left) {
  if (session.budget.count() <= 0) return std::nullopt;
  const auto elapsed =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - process_start());
  const auto left = std::max(session.budget - elapsed, std::chrono::milliseconds(0));
  return std::chrono::system_clock::now() + left / static_cast<int>(worlds_left);
}

/// Waits for signals until `running` is 0. The first Ctrl-C asks the ranks to stop if they listen; the next ends all.
void watch(const SessionOptions& session, const std::atomic<int>& running, std::atomic<bool>& cancel) {
  while (running > 0) {
    const int signal = session.signals->wait(signal_wait_ms);
    if (signal != SIGINT && signal != SIGTERM) continue;
    if (!session.cancellable || cancel.exchange(true)) end_interrupted(signal, session.on_interrupt);
    print_error("\nstopping after the measurement at hand; press Ctrl-C again to stop at once\n");
  }
}

RankContext context_of(const Place& place, std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                       const std::atomic<bool>& cancel) {
  return {std::move(bootstrap), std::move(device), place.restarts, &cancel,
          place.started,        place.deadline,    place.give_up,  {}};
}

std::string run_threads(const SessionOptions& session, int world, const Place& place, const RankBody& body,
                        std::atomic<bool>& cancel) {
  auto bootstraps = make_in_process_bootstraps(world);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world));
  std::string result;
  std::atomic<int> running{world};
  std::vector<std::thread> threads;
  const auto run_rank = [&](int rank, std::shared_ptr<Bootstrap> bootstrap) {
    try {
      const auto begin = std::chrono::steady_clock::now();
      RankContext context = context_of(place, std::move(bootstrap), make_device(session, rank), cancel);
      context.device->activate();
      context.start = {session.driver_s, seconds_since(begin), 0};
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
  if (!session.worker) watch(session, running, cancel);  // a worker has a thread for that
  for (std::thread& thread : threads) thread.join();
  rethrow_first(errors);
  return result;
}

/// This process is one rank among those that a launcher started.
std::string run_launched(const SessionOptions& session, const LauncherVariables& launcher, const Place& place,
                         const RankBody& body, std::atomic<bool>& cancel) {
  const auto begin = std::chrono::steady_clock::now();
  auto device = make_device(session, launcher.local_rank);
  device->activate();
  const double context_s = seconds_since(begin);
  const auto meet = std::chrono::steady_clock::now();
  RankContext context = context_of(place, make_launcher_bootstrap(launcher), std::move(device), cancel);
  context.start = {session.driver_s, context_s, seconds_since(meet)};
  return body(context);
}

[[noreturn]] void run_worker(const SessionOptions& session, const RankBody& body) {
  const WorkerPlace worker = worker_place();
  const LauncherVariables launcher = read_launcher_variables();
  const auto give_up = [&](const std::string& message) { fail_worker(worker, message, false, true, false); };
  const Place place{worker.restarts, worker.started, worker.deadline, give_up};
  std::atomic<bool> cancel{false};
  prctl(PR_SET_NAME, (fmt::format("arbiter rank {}", worker.rank)).c_str());
  std::thread([&] {
    for (;;) {  // the parent asks a worker to stop with SIGTERM
      if (session.signals->wait(signal_wait_ms) != SIGTERM) continue;
      if (!session.cancellable) std::_Exit(128 + SIGTERM);
      cancel = true;
    }
  }).detach();  // a worker ends by _Exit, with this thread in it
  try {
    end_worker(worker, session.device == DeviceKind::cpu ? run_threads(session, launcher.size, place, body, cancel)
                                                         : run_launched(session, launcher, place, body, cancel));
  } catch (const Poisoned& error) {
    fail_worker(worker, error.what(), false, false, true);
  } catch (const InvalidArgument& error) {
    fail_worker(worker, error.what(), true, false, false);
  } catch (const UsageError& error) {
    fail_worker(worker, error.what(), true, false, false);
  } catch (const DeviceError& error) {
    fail_worker(worker, error.what(), false, true, false);
  } catch (const std::exception& error) {
    fail_worker(worker, error.what(), false, false, false);
  }
}

std::string run_processes(const SessionOptions& session, WorkersOptions options, bool& cancelled) {
  for (;; ++options.restarts) {
    WorkersReport report = run_workers(session.arguments, options, *session.signals);
    cancelled = report.cancelled;
    if (report.outcome == WorkersOutcome::succeeded) return std::move(report.result);
    if (report.usage) throw InvalidArgument(report.message);
    if (report.outcome == WorkersOutcome::failed) throw Error(report.message);
    if (report.cancelled || options.restarts >= session.most_restarts) throw DeviceError(report.message);
    print_error("%s\nstarting the workers again and going on behind that candidate\n", report.message.c_str());
  }
}

/// Without a parent that could start this process again.
[[noreturn]] void end_stuck(const SessionOptions& session, const std::string& message) {
  print_error("\n%s\n%s\n", message.c_str(), session.on_interrupt.c_str());
  std::fflush(nullptr);
  std::_Exit(exit_failure);
}

}  // namespace

SessionResult run_session(const SessionOptions& session, const RankBody& body) {
  if (session.worker) run_worker(session, body);
  SessionResult result;
  result.printer = true;
  std::atomic<bool> cancel{false};
  const LauncherVariables launcher = session.launched ? read_launcher_variables() : LauncherVariables{};
  Place place;
  place.started = static_cast<std::int64_t>(std::time(nullptr));
  place.give_up = [&](const std::string& message) { end_stuck(session, message); };
  std::size_t left = session.worlds.size();
  for (const int world : session.worlds) {
    if (cancel) break;
    place.deadline = share_of(session, left--);
    if (session.isolated || (!session.in_process && !session.launched)) {
      bool cancelled = false;
      WorkersOptions options{
          world, session.isolated, 0, place.started, place.deadline, session.cancellable, session.on_interrupt};
      result.results.push_back(run_processes(session, std::move(options), cancelled));
      cancel = cancelled;
    } else if (session.in_process) {
      result.results.push_back(run_threads(session, world, place, body, cancel));
    } else {
      // Its agent is the living parent that saw a rank die, and the command is what the agent was started for.
      place.restarts = launcher_restarts();
      if (const std::int64_t agent = process_started(getppid()); place.restarts > 0 && agent > 0) place.started = agent;
      result.printer = launcher.rank == 0;
      result.results.push_back(run_launched(session, launcher, place, body, cancel));
    }
  }
  result.cancelled = cancel;
  return result;
}

}  // namespace arbiter::cli
