// The `arbiter` command line: finds the command and turns exceptions into messages and exit codes.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/error.hpp"
#include "commands/command.hpp"
#include "options/options.hpp"
#include "text/json.hpp"
#include "text/print.hpp"

namespace arbiter::cli {
namespace {

void print_overview() {
  print("arbiter %s: the fastest correct allreduce for the GPUs in front of it\n\nusage: arbiter <command> ...\n\n",
        std::string(version()).c_str());
  for (const Command& command : commands()) {
    print("  %-10s %s\n", std::string(command.name).c_str(), std::string(command.summary).c_str());
  }
  print(
      "\nEvery command explains itself: arbiter <command> --help\n"
      "Start with: arbiter doctor && arbiter tune && arbiter show\n"
      "Exit status: 0 success, 1 failure, 2 wrong usage.\n");
}

int run(const Command& command, Arguments arguments) {
  Options options = command.options();
  return options.parse(arguments) ? command.run(options) : exit_success;
}

int dispatch(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    print_overview();
    return exit_usage;
  }
  const std::string& first = arguments.front();
  if (first == "--help" || first == "-h" || (first == "help" && arguments.size() == 1)) {
    print_overview();
    return exit_success;
  }
  if (first == "--version") {
    print("arbiter %s\n", std::string(version()).c_str());
    return exit_success;
  }
  if (first == "help") return run(find_command(arguments[1]), std::vector<std::string>{"--help"});
  return run(find_command(first), std::span(arguments).subspan(1));
}

/// Programs that asked for JSON get JSON: arguments behind "--" are another program's.
bool wants_json(const std::vector<std::string>& arguments) {
  const auto end = std::find(arguments.begin(), arguments.end(), "--");
  return std::find(arguments.begin(), end, "--json") != end;
}

void print_error_as_json(int code, const std::string& message) {
  print_json([&](llvm::json::OStream& json) {
    json.attribute("schema", json_schema);
    json.attributeObject("error", [&] {
      write_text(json, "kind", code == exit_usage ? "usage" : "failure");
      write_text(json, "message", message);
      json.attribute("exit_status", code);
    });
  });
}

int complain(int code, const std::string& message, const std::string& command) {
  std::fflush(stdout);
  print_error("arbiter: %s\n", message.c_str());
  if (code == exit_usage) print_error("see: arbiter %s--help\n", command.c_str());
  return code;
}

}  // namespace
}  // namespace arbiter::cli

int main(int count, char** values) {
  using namespace arbiter::cli;
  const std::vector<std::string> arguments(values + (count > 0 ? 1 : 0), values + count);
  const std::string command = arguments.empty() || arguments.front().starts_with('-') ? "" : arguments.front() + " ";
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of the write
  const auto fail = [&](int code, const std::string& message, const std::string& see) {
    if (wants_json(arguments)) print_error_as_json(code, message);
    return complain(code, message, see);
  };
  try {
    const int code = dispatch(arguments);
    // What does not fit the buffer is written at once, and only the stream remembers that this failed.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return complain(exit_failure, "standard output could not be written", command);
    return code;
  } catch (const UnknownCommand& error) {
    return fail(exit_usage, error.what(), "");
  } catch (const UsageError& error) {
    return fail(exit_usage, error.what(), command);
  } catch (const arbiter::InvalidArgument& error) {
    return fail(exit_usage, error.what(), command);
  } catch (const std::exception& error) {
    return fail(exit_failure, error.what(), command);
  }
}
