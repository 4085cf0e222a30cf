#include "compile/process.hpp"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <system_error>
#include <thread>

#include "arbiter/error.hpp"
#include "arbiter/generator/search_path.hpp"
#include "text/quote.hpp"

extern char** environ;

namespace arbiter {
namespace {

namespace fs = std::filesystem;

// Owns the two descriptions of what posix_spawn should do.
class SpawnPlan {
 public:
  explicit SpawnPlan(const fs::path& folder) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    posix_spawn_file_actions_addchdir_np(&actions_, folder.c_str());
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    // A file, not a pipe: nothing has to be read while the program runs, and a grandchild cannot hold the reader up.
    posix_spawn_file_actions_addopen(&actions_, STDOUT_FILENO, "output.log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions_, STDOUT_FILENO, STDERR_FILENO);
    // An own process group, so that a time-out reaches the compiler's children too; and default signal handling,
    // whatever the host program blocked or ignored.
    sigset_t none;
    sigemptyset(&none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setflags(&attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes_, 0);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  pid_t start(const std::vector<std::string>& arguments, const fs::path& folder) {
    std::vector<char*> pointers;
    for (const std::string& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
    pointers.push_back(nullptr);
    // Compilers put what they assemble and link into TMPDIR, where others may be able to swap it.
    std::string place = "TMPDIR=" + folder.string();
    std::vector<char*> variables;
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
      if (!std::string_view(*variable).starts_with("TMPDIR=")) variables.push_back(*variable);
    variables.push_back(place.data());
    variables.push_back(nullptr);
    pid_t pid = 0;
    const int error = posix_spawn(&pid, pointers[0], &actions_, &attributes_, pointers.data(), variables.data());
    if (error != 0) throw Unavailable("could not start " + quote(arguments[0]) + ": " + std::strerror(error));
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

// waitpid with a deadline. Polls, because a library must not touch the process's SIGCHLD handling.
std::optional<int> wait_for(pid_t pid, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::chrono::microseconds pause(500);
  for (;;) {
    int status = 0;
    const pid_t done = waitpid(pid, &status, WNOHANG);
    if (done == pid) return status;
    if (done < 0 && errno != EINTR) return 0;  // the host program reaps all children: only the output can tell now
    if (std::chrono::steady_clock::now() > deadline) return std::nullopt;
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(10000));
  }
}

std::string read_output(const fs::path& file) {
  constexpr std::size_t max_bytes = std::size_t{1} << 20;
  std::string text(max_bytes, '\0');
  std::ifstream stream(file, std::ios::binary);
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(stream.gcount(), 0)));
  return text;
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments, const fs::path& folder,
                          std::chrono::milliseconds limit) {
  const pid_t pid = SpawnPlan(folder).start(arguments, folder);
  ProcessResult result;
  std::optional<int> status = wait_for(pid, limit);
  if (!status) {
    result.timed_out = true;
    kill(-pid, SIGKILL);
    status = wait_for(pid, std::chrono::seconds(10));
  }
  if (!status)
    result.exit_code = 128 + SIGKILL;
  else
    result.exit_code = WIFEXITED(*status) ? WEXITSTATUS(*status) : 128 + WTERMSIG(*status);
  result.output = read_output(folder / "output.log");
  return result;
}

std::optional<std::string> find_program(const std::string& name) {
  const auto runnable = [](const fs::path& path) {
    std::error_code error;
    return fs::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
  };
  if (name.empty()) return std::nullopt;
  if (name.find('/') != std::string::npos) {
    if (!runnable(name)) return std::nullopt;
    return fs::absolute(name).string();
  }
  const char* variable = std::getenv("PATH");
  for (const std::string& folder : split_search_path(variable == nullptr ? "/usr/local/bin:/usr/bin:/bin" : variable)) {
    const fs::path path = fs::path(folder) / name;
    if (runnable(path)) return fs::absolute(path).string();
  }
  return std::nullopt;
}

}  // namespace arbiter
