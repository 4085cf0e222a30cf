// arbiter run: a program that speaks NCCL, with Arbiter's allreduce.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "arbiter/error.hpp"
#include "commands/command.hpp"
#include "options/options.hpp"
#include "ranks/nccl_tuner_plugin.hpp"
#include "text/json.hpp"
#include "text/print.hpp"

namespace arbiter::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* file = "libarbiter-nccl.so";
constexpr int most_words = 100'000;

using Variables = std::vector<std::pair<std::string, std::string>>;

fs::path library() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  fs::path found = find_own_library(program, file);
  if (!found.empty()) return found;
  throw Unavailable(fmt::format("{} was not found beside {} or in ../lib; install it there", file, program.string()));
}

std::string existing_file(const Options& options, const std::string& option) {
  std::error_code error;
  const fs::path path = fs::absolute(options.text(option), error);
  if (!fs::is_regular_file(path, error)) {
    throw UsageError(fmt::format("--{} '{}': expected a file that exists", option, options.text(option)));
  }
  return path.string();
}

Variables variables(const Options& options) {
  Variables set;
  const std::string path = library().string();
  const char* preloaded = std::getenv("LD_PRELOAD");
  set.emplace_back("LD_PRELOAD", preloaded == nullptr || *preloaded == '\0' ? path : path + ":" + preloaded);
  // vLLM opens NCCL by this path, beside the one that PyTorch is linked to.
  if (std::getenv("VLLM_NCCL_SO_PATH") == nullptr) set.emplace_back("VLLM_NCCL_SO_PATH", path);
  if (options.has("db")) set.emplace_back("ARBITER_DB", existing_file(options, "db"));
  if (options.has("nccl")) set.emplace_back("ARBITER_NCCL_LIBRARY", existing_file(options, "nccl"));
  if (options.has("verify")) {
    set.emplace_back("ARBITER_NCCL", fmt::format("verify:{}", options.integer("verify", 1, 1'000'000'000, 1)));
  }
  return set;
}

}  // namespace

Options run_options() {
  Options options(
      "run",
      "Starts a program with Arbiter's allreduce in place of NCCL's, by preloading libarbiter-nccl.so, and\n"
      "says on stderr what it set. Everything that Arbiter does not take stays NCCL's; see docs/nccl.md.",
      "arbiter run -- torchrun --nproc-per-node 4 serve.py\n"
      "arbiter run --verify 100 --db h200-snapshot.db -- python serve.py");
  options.words("-- COMMAND", "COMMAND: the program and its arguments. Everything behind -- is passed on as it is.",
                most_words);
  options.value("db", "FILE", "snapshot with decisions (ARBITER_DB)");
  options.value("nccl", "FILE", "the NCCL behind it, if it is not to be found by itself (ARBITER_NCCL_LIBRARY)");
  options.value("verify", "N", "compare every N-th allreduce with NCCL's (ARBITER_NCCL=verify:N)");
  options.flag("json", "print what would be set, and start nothing; see docs/cli.md");
  return options;
}

int run_run(const Options& options) {
  const Variables set = variables(options);
  if (options.has("json")) {
    print_json([&](llvm::json::OStream& json) {
      json.attribute("schema", json_schema);
      json.attributeObject("variables", [&] {
        for (const auto& [name, value] : set) write_text(json, name, value);
      });
    });
    return exit_success;
  }
  if (options.words().empty()) throw UsageError("no COMMAND: name the program to start, behind --");
  offer_nccl_tuner_plugin();
  for (const auto& [name, value] : set) {
    print_error("%s", fmt::format("arbiter run: {}={}\n", name, value).c_str());
    ::setenv(name.c_str(), value.c_str(), 1);
  }
  std::vector<char*> arguments;
  std::vector<std::string> words = options.words();
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::signal(SIGXFSZ, SIG_DFL);  // as main() found it
  ::execvp(arguments.front(), arguments.data());
  throw Unavailable(fmt::format("'{}' could not be started: {}", words.front(), std::strerror(errno)));
}

}  // namespace arbiter::cli
