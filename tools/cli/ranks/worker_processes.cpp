#include "ranks/worker_processes.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "ranks/signals.hpp"
#include "text/numbers.hpp"
#include "text/print.hpp"

extern char** environ;

namespace arbiter::cli {
namespace {

constexpr int exit_device_lost = 75;  // between workers and their parent only
constexpr int most_continued = 4;
constexpr std::size_t needed_room = 64 << 10;

struct Worker {
  pid_t process = -1;
  bool running = false;
  int status = 0;
  bool stopped = false;       ///< by a signal; it does not run, and does not end
  bool seen_stopped = false;  ///< when this process last looked, which then ran itself
  int continued = 0;
};

std::filesystem::path file_of(const std::filesystem::path& directory, const char* what, int rank) {
  return directory / (fmt::format("{}-{}", what, rank));
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// False if it is not all there.
bool write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  return !file.fail();
}

/// Workers meet in `folder`, and say there what became of them: without room for that, they fail for no reason that
/// anybody would hear of.
void require_room(const std::filesystem::path& folder) {
  const std::filesystem::path probe = folder / "room";
  errno = 0;
  const bool written = write_file(probe, std::string(needed_room, '.'));
  const int error = errno;
  std::error_code ignored;
  std::filesystem::remove(probe, ignored);
  if (written) return;
  throw Unavailable("there is no room for the workers' files in '" + folder.parent_path().string() +
                    "': " + (error != 0 ? std::strerror(error) : "nothing can be written") +
                    ". Make room, or set TMPDIR to another folder.");
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

/// Everything is prepared before fork(), so that the child only makes system calls.
pid_t start(Arguments command_line, const std::filesystem::path& directory, int rank, const WorkersOptions& options,
            const sigset_t& mask) {
  std::vector<std::string> arguments{"arbiter"};
  arguments.insert(arguments.end(), command_line.begin(), command_line.end());
  arguments.emplace_back("--worker");
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::strncmp(*variable, "ARBITER_WORKER_", 15) != 0) variables.emplace_back(*variable);
  }
  variables.push_back(fmt::format("ARBITER_WORKER_RANK={}", rank));
  variables.push_back(fmt::format("ARBITER_WORKER_SIZE={}", options.world));
  variables.push_back("ARBITER_WORKER_RENDEZVOUS=file://" + (directory / "rendezvous").string());
  variables.push_back("ARBITER_WORKER_DIRECTORY=" + directory.string());
  variables.push_back(fmt::format("ARBITER_WORKER_RESTARTS={}", options.restarts));
  variables.push_back(fmt::format("ARBITER_WORKER_STARTED={}", options.started));
  if (options.deadline) {
    const auto since = std::chrono::duration_cast<std::chrono::milliseconds>(options.deadline->time_since_epoch());
    variables.push_back(fmt::format("ARBITER_WORKER_DEADLINE={}", since.count()));
  }
  const std::vector<char*> argument_pointers = pointers(arguments);
  const std::vector<char*> variable_pointers = pointers(variables);
  const std::string log = file_of(directory, "log", rank).string();
  const pid_t parent = getpid();
  sigset_t worker_mask = mask;
  sigaddset(&worker_mask, SIGTERM);

  const pid_t process = fork();
  if (process < 0) throw Unavailable(std::string("no worker process could be started: ") + std::strerror(errno));
  if (process > 0) return process;
  // Ctrl-C reaches the whole process group; the workers leave it to their parent to stop them in order.
  std::signal(SIGINT, SIG_IGN);
  sigprocmask(SIG_SETMASK, &worker_mask, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  if (rank != 0) {
    const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file >= 0) {
      dup2(file, STDOUT_FILENO);
      dup2(file, STDERR_FILENO);
    }
  }
  execve("/proc/self/exe", argument_pointers.data(), variable_pointers.data());
  _exit(127);
}

void reap(std::vector<Worker>& workers) {
  for (Worker& worker : workers) {
    int status = 0;
    if (!worker.running || waitpid(worker.process, &status, WNOHANG | WUNTRACED | WCONTINUED) != worker.process) {
      continue;
    }
    if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
      worker.stopped = WIFSTOPPED(status);
      worker.seen_stopped = false;
      continue;
    }
    worker.running = false;
    worker.status = status;
  }
}

/// A worker that was stopped lets all others wait for ever. Somebody who suspends this job stops this process too: what
/// is stopped while this one runs on is continued, at the second look, and ended if that does not help.
void continue_stopped(std::vector<Worker>& workers) {
  for (std::size_t rank = 0; rank < workers.size(); ++rank) {
    Worker& worker = workers[rank];
    if (!worker.running || !worker.stopped) continue;
    if (!std::exchange(worker.seen_stopped, true)) continue;
    if (worker.continued == most_continued) {
      print_error("\nrank %zu is stopped by a signal again and again; it is ended\n", rank);
      kill(worker.process, SIGKILL);
    } else {
      if (worker.continued++ == 0) {
        print_error("\nrank %zu was stopped by a signal; it is told to go on\n", rank);
      }
      kill(worker.process, SIGCONT);
    }
    worker.seen_stopped = false;
  }
}

bool ended_well(const Worker& worker) { return WIFEXITED(worker.status) && WEXITSTATUS(worker.status) == 0; }

void stop_all(std::vector<Worker>& workers, std::chrono::milliseconds patience) {
  const auto until = std::chrono::steady_clock::now() + patience;
  const auto any_running = [&] {
    reap(workers);
    return std::any_of(workers.begin(), workers.end(), [](const Worker& worker) { return worker.running; });
  };
  while (any_running() && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (const Worker& worker : workers) {
    if (worker.running) kill(worker.process, SIGKILL);
  }
  while (any_running()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

/// What became of one worker that did not end well.
struct Failure {
  int rank = 0;
  std::string message;
  bool usage = false;
  bool died = false;
  bool echo = false;
};

Failure describe(const Worker& worker, const std::filesystem::path& directory, int rank) {
  Failure failure;
  failure.rank = rank;
  const std::string error = read_file(file_of(directory, "error", rank));
  if (!error.empty()) {
    failure.echo = error.front() == 'e';
    failure.message = error.substr(1);
    failure.usage = WIFEXITED(worker.status) && WEXITSTATUS(worker.status) == exit_usage;
    failure.died = WIFEXITED(worker.status) && WEXITSTATUS(worker.status) == exit_device_lost;
    return failure;
  }
  failure.died = true;
  failure.message = WIFSIGNALED(worker.status) ? fmt::format("ended by signal {} ({})", WTERMSIG(worker.status),
                                                             strsignal(WTERMSIG(worker.status)))
                                               : fmt::format("ended with exit status {}", WEXITSTATUS(worker.status));
  std::string log = read_file(file_of(directory, "log", rank));
  if (log.size() > 2000) log = "..." + log.substr(log.size() - 2000);
  if (!log.empty()) failure.message += "; its last words:\n" + log;
  return failure;
}

}  // namespace

WorkersReport run_workers(Arguments command_line, const WorkersOptions& options, const SignalWatch& signals) {
  const TemporaryFolder scratch;
  require_room(scratch.path());
  std::fflush(nullptr);
  WorkersReport report;
  const int processes = options.threads ? 1 : options.world;
  std::vector<Worker> workers(static_cast<std::size_t>(processes));
  for (int rank = 0; rank < processes; ++rank) {
    Worker& worker = workers[static_cast<std::size_t>(rank)];
    worker.process = start(command_line, scratch.path(), rank, options, signals.previous());
    worker.running = true;
  }
  for (;;) {
    const int signal = signals.wait(500);
    if ((signal == SIGINT || signal == SIGTERM) && options.cancellable && !report.cancelled) {
      report.cancelled = true;
      print_error("\nstopping after the measurement at hand; press Ctrl-C again to stop at once\n");
      for (const Worker& worker : workers) {
        if (worker.running) kill(worker.process, SIGTERM);
      }
    } else if (signal == SIGINT || signal == SIGTERM) {
      stop_all(workers, std::chrono::milliseconds(0));
      std::error_code ignored;
      std::filesystem::remove_all(scratch.path(), ignored);
      end_interrupted(signal, options.on_interrupt);
    }
    reap(workers);
    continue_stopped(workers);
    const auto ended = [](const Worker& worker) { return !worker.running; };
    const auto bad = [](const Worker& worker) { return !worker.running && !ended_well(worker); };
    if (std::all_of(workers.begin(), workers.end(), ended) || std::any_of(workers.begin(), workers.end(), bad)) break;
  }

  // Who has not ended by itself is given a moment to say what it saw. Those killed after that say nothing of interest.
  std::vector<bool> ended_alone;
  const auto before = std::chrono::steady_clock::now();
  for (;;) {
    reap(workers);
    const bool all = std::none_of(workers.begin(), workers.end(), [](const Worker& worker) { return worker.running; });
    if (all || std::chrono::steady_clock::now() - before >= options.grace) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (const Worker& worker : workers) ended_alone.push_back(!worker.running);
  stop_all(workers, std::chrono::milliseconds(0));

  std::vector<Failure> failures;
  for (int rank = 0; rank < processes; ++rank) {
    const auto index = static_cast<std::size_t>(rank);
    if (ended_alone[index] && !ended_well(workers[index])) {
      failures.push_back(describe(workers[index], scratch.path(), rank));
    }
  }
  if (failures.empty()) {
    report.outcome = WorkersOutcome::succeeded;
    report.result = read_file(file_of(scratch.path(), "result", 0));
    return report;
  }
  const auto root = std::find_if(failures.begin(), failures.end(), [](const Failure& f) { return !f.echo; });
  const Failure& first = root == failures.end() ? failures.front() : *root;
  report.outcome = first.died ? WorkersOutcome::died : WorkersOutcome::failed;
  report.usage = first.usage;
  if (!options.threads) {
    report.message = fmt::format("rank {} of {}: ", first.rank, options.world);
  } else if (first.died) {
    report.message = fmt::format("the process of all {} ranks: ", options.world);
  }
  report.message += first.message;
  return report;
}

WorkerPlace worker_place() {
  const char* directory = std::getenv("ARBITER_WORKER_DIRECTORY");
  const char* rank = std::getenv("ARBITER_WORKER_RANK");
  const char* restarts = std::getenv("ARBITER_WORKER_RESTARTS");
  if (directory == nullptr || rank == nullptr || restarts == nullptr) {
    throw InvalidArgument("--worker is how arbiter starts its own processes; it is not an option for people");
  }
  WorkerPlace place;
  place.directory = directory;
  place.rank = static_cast<int>(parse_integer(rank, "worker rank", 0, 1 << 16));
  place.restarts = static_cast<int>(parse_integer(restarts, "worker restarts", 0, 1 << 16));
  if (const char* started = std::getenv("ARBITER_WORKER_STARTED")) {
    place.started = parse_integer(started, "worker started", 0, INT64_MAX);
  }
  if (const char* deadline = std::getenv("ARBITER_WORKER_DEADLINE")) {
    place.deadline.emplace(std::chrono::milliseconds(parse_integer(deadline, "worker deadline", 0, INT64_MAX)));
  }
  return place;
}

void end_worker(const WorkerPlace& place, const std::string& result) {
  if (place.rank == 0 && !write_file(file_of(place.directory, "result", 0), result)) {
    fail_worker(place, "the result could not be handed over: no room in the temporary folder", false, false, false);
  }
  std::fflush(nullptr);
  std::_Exit(exit_success);
}

void fail_worker(const WorkerPlace& place, const std::string& message, bool usage, bool died, bool echo_of_another) {
  if (!write_file(file_of(place.directory, "error", place.rank), (echo_of_another ? "e" : "r") + message)) {
    print_error("\nrank %d: %s\n", place.rank, message.c_str());
  }
  std::fflush(nullptr);
  std::_Exit(usage ? exit_usage : died ? exit_device_lost : exit_failure);
}

}  // namespace arbiter::cli
