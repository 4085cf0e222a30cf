#include "compile/jobs.hpp"

#include <fmt/format.h>
#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/generator/whole_files.hpp"
#include "ranks/result_text.hpp"

namespace arbiter::cli {
namespace {

/// Compiles one task after another in this process.
class Workshop {
 public:
  explicit Workshop(const CacheOptions& options) : cache_(options) {}

  CompileOutcome compile(const CompileTask& task) {
    CompileOutcome outcome;
    outcome.task = task;
    const Compiler& with = compiler(task.target);
    const auto start = std::chrono::steady_clock::now();
    try {
      const Dialect dialect = task.target == "cpu" ? Dialect::host : Dialect::cuda;
      const int rank = std::min(task.rank, task.variant.world - 1);  // a stand-alone kernel has rank 0 only
      const Source source = render_kernel(Catalogue::builtin(), task.variant, rank, dialect);
      const std::uint64_t misses = cache_.statistics().misses;
      const CompiledKernel kernel = cache_.get(source, with, fmt::format("{} rank={}", task.variant.full_name(), rank));
      outcome.cached = cache_.statistics().misses == misses;
      outcome.image_bytes = kernel.image.size();
      outcome.resources = kernel.resources;
    } catch (const Error& error) {
      outcome.error = error.what();
    }
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    outcome.milliseconds = elapsed.count();
    return outcome;
  }

 private:
  const Compiler& compiler(const std::string& target) {
    std::unique_ptr<Compiler>& entry = compilers_[target];
    if (!entry) entry = make_compiler(target);
    return *entry;
  }

  KernelCache cache_;
  std::map<std::string, std::unique_ptr<Compiler>> compilers_;
};

std::string line_of(std::size_t index, const CompileOutcome& outcome) {
  llvm::json::Object object{
      {"index", static_cast<std::int64_t>(index)},    {"cached", outcome.cached},
      {"milliseconds", outcome.milliseconds},         {"image_bytes", static_cast<std::int64_t>(outcome.image_bytes)},
      {"registers", outcome.resources.registers},     {"shared_bytes", outcome.resources.shared_bytes},
      {"spill_bytes", outcome.resources.spill_bytes}, {"stack_bytes", outcome.resources.stack_bytes},
      {"error", llvm::json::fixUTF8(outcome.error)}};
  std::string line;
  llvm::raw_string_ostream stream(line);
  stream << llvm::json::Value(std::move(object)) << '\n';
  return stream.str();
}

/// The inverse of line_of. Returns the index.
std::size_t read_line(const std::string& line, CompileOutcome& outcome) {
  const llvm::json::Object object = parse_document(line);
  const auto integer = [&](const char* key) { return object.getInteger(key).value_or(0); };
  outcome.cached = object.getBoolean("cached").value_or(false);
  outcome.milliseconds = object.getNumber("milliseconds").value_or(0);
  outcome.image_bytes = static_cast<std::size_t>(integer("image_bytes"));
  outcome.resources.registers = static_cast<int>(integer("registers"));
  outcome.resources.shared_bytes = static_cast<int>(integer("shared_bytes"));
  outcome.resources.spill_bytes = static_cast<int>(integer("spill_bytes"));
  outcome.resources.stack_bytes = static_cast<int>(integer("stack_bytes"));
  outcome.error = object.getString("error").value_or("").str();
  return static_cast<std::size_t>(integer("index"));
}

void send_line(int pipe, const std::string& line) {
  if (!write_all(pipe, line)) _exit(1);
}

struct Job {
  pid_t process = -1;
  int pipe = -1;
  std::string unread;
};

/// A process that compiles every task whose index is `first` modulo `step`, and writes a line about each.
Job start_job(const std::vector<CompileTask>& tasks, const CacheOptions& options, std::size_t first, std::size_t step) {
  int ends[2];
  if (pipe(ends) != 0) throw Unavailable(std::string("no pipe could be made: ") + std::strerror(errno));
  Job job;
  job.process = fork();
  if (job.process < 0) throw Unavailable(std::string("no process could be started: ") + std::strerror(errno));
  if (job.process == 0) {
    close(ends[0]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int code = 0;
    try {
      Workshop workshop(options);
      for (std::size_t index = first; index < tasks.size(); index += step) {
        send_line(ends[1], line_of(index, workshop.compile(tasks[index])));
      }
    } catch (const std::exception& error) {
      CompileOutcome failure;
      failure.error = error.what();
      send_line(ends[1], line_of(tasks.size(), failure));
      code = 1;
    }
    _exit(code);
  }
  close(ends[1]);
  job.pipe = ends[0];
  return job;
}

}  // namespace

std::vector<CompileOutcome> compile_all(const std::vector<CompileTask>& tasks, const CacheOptions& cache, int jobs,
                                        const std::function<void(const CompileOutcome&, std::size_t)>& done) {
  std::vector<CompileOutcome> outcomes(tasks.size());
  const std::size_t processes = std::min(tasks.size(), static_cast<std::size_t>(jobs));
  if (processes <= 1) {
    Workshop workshop(cache);
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      outcomes[i] = workshop.compile(tasks[i]);
      done(outcomes[i], i + 1);
    }
    return outcomes;
  }

  std::vector<Job> running;
  for (std::size_t i = 0; i < processes; ++i) running.push_back(start_job(tasks, cache, i, processes));
  std::string failure;
  std::size_t finished = 0;
  const auto take_lines = [&](Job& job) {
    for (std::size_t end = job.unread.find('\n'); end != std::string::npos; end = job.unread.find('\n')) {
      CompileOutcome outcome;
      const std::size_t index = read_line(job.unread.substr(0, end), outcome);
      job.unread.erase(0, end + 1);
      if (index >= tasks.size()) {
        failure = outcome.error;
        continue;
      }
      outcome.task = tasks[index];
      outcomes[index] = std::move(outcome);
      done(outcomes[index], ++finished);
    }
  };
  while (!running.empty()) {
    std::vector<pollfd> polled;
    for (const Job& job : running) polled.push_back({job.pipe, POLLIN, 0});
    poll(polled.data(), polled.size(), -1);
    for (std::size_t i = running.size(); i-- > 0;) {
      if (polled[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t got = read(running[i].pipe, buffer, sizeof buffer);
      if (got > 0) {
        running[i].unread.append(buffer, static_cast<std::size_t>(got));
        take_lines(running[i]);
      } else if (got == 0 || errno != EINTR) {
        close(running[i].pipe);
        int status = 0;
        waitpid(running[i].process, &status, 0);
        if (WIFSIGNALED(status) && failure.empty()) {
          failure = fmt::format("a compiling process ended by signal {}", WTERMSIG(status));
        }
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  if (!failure.empty()) throw Unavailable(failure);
  return outcomes;
}

}  // namespace arbiter::cli
