#include "ranks/self_process.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "arbiter/error.hpp"

extern char** environ;

namespace arbiter::cli {
namespace {

const std::chrono::steady_clock::time_point start_of_process = std::chrono::steady_clock::now();

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

std::chrono::steady_clock::time_point process_start() noexcept { return start_of_process; }

std::string run_self(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& variables) {
  std::vector<std::string> words{"arbiter"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!variables.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Unavailable(std::string("no pipe could be made: ") + std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t process = -1;
  const int error =
      posix_spawn(&process, "/proc/self/exe", &actions, nullptr, pointers(words).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string output;
  char buffer[4096];
  while (error == 0) {
    const ssize_t got = read(ends[0], buffer, sizeof buffer);
    if (got > 0) output.append(buffer, static_cast<std::size_t>(got));
    if (got == 0 || (got < 0 && errno != EINTR)) break;
  }
  close(ends[0]);
  if (error != 0) throw Unavailable(std::string("this program could not be started again: ") + std::strerror(error));
  int status = 0;
  waitpid(process, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw Error("the process started for this measurement failed; its own message is above");
  }
  return output;
}

}  // namespace arbiter::cli
