#include "run_arbiter.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

extern char** environ;

namespace arbiter::testing {
namespace {

std::vector<std::string> environment_with(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> result;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    const std::string name = text.substr(0, text.find('='));
    if (!variables.contains(name) && !name.starts_with("ARBITER_")) result.push_back(text);
  }
  for (const auto& [name, value] : variables) {
    if (!value.empty()) result.push_back(name + "=" + value);
  }
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> list;
  for (std::string& text : texts) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

std::string arbiter_program() { return ARBITER_BINARY; }

std::string read_text(const std::string& file_name) {
  std::ifstream file(file_name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Outcome run_arbiter(const std::vector<std::string>& arguments, const std::map<std::string, std::string>& variables) {
  return run_program(arbiter_program(), arguments, variables);
}

Outcome run_program(const std::string& program, const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& variables) {
  const ScratchDirectory scratch;
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment = environment_with(variables);
  const std::vector<char*> word_pointers = pointers(words);
  const std::vector<char*> variable_pointers = pointers(environment);
  const std::string out = scratch.file("out");
  const std::string err = scratch.file("err");
  const pid_t process = fork();
  if (process == 0) {
    const auto redirect = [](const std::string& name, int to) {
      const int file = open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      if (file < 0 || dup2(file, to) < 0) _exit(126);
    };
    redirect(out, STDOUT_FILENO);
    redirect(err, STDERR_FILENO);
    execvpe(word_pointers[0], word_pointers.data(), variable_pointers.data());
    _exit(127);
  }
  int status = 0;
  if (process < 0 || waitpid(process, &status, 0) != process) throw std::runtime_error("the program did not start");
  Outcome outcome;
  outcome.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  outcome.out = read_text(out);
  outcome.err = read_text(err);
  return outcome;
}

llvm::json::Value parse_object(const std::string& text) {
  auto parsed = llvm::json::parse(text);
  if (!parsed) {
    ADD_FAILURE() << "not JSON: " << llvm::toString(parsed.takeError()) << "\n" << text.substr(0, 500);
    return nullptr;
  }
  EXPECT_NE(parsed->getAsObject(), nullptr) << "not an object: " << text.substr(0, 200);
  return std::move(*parsed);
}

const llvm::json::Value* member(const llvm::json::Value& value, const std::string& path) {
  const llvm::json::Value* at = &value;
  for (std::size_t start = 0; start < path.size();) {
    const std::size_t end = std::min(path.find_first_of(".[", start + 1), path.size());
    std::string step = path.substr(start, end - start);
    start = end;
    if (step.front() == '[') {
      const auto* array = at->getAsArray();
      const auto index = static_cast<std::size_t>(std::atoi(step.c_str() + 1));
      at = array != nullptr && index < array->size() ? &(*array)[index] : nullptr;
    } else {
      if (step.front() == '.') step.erase(0, 1);
      const auto* object = at->getAsObject();
      at = object != nullptr ? object->get(step) : nullptr;
    }
    if (at == nullptr) {
      ADD_FAILURE() << "no '" << path << "'";
      return nullptr;
    }
  }
  return at;
}

void expect_keys(const llvm::json::Value* object, const std::vector<std::string>& keys) {
  ASSERT_NE(object, nullptr);
  const auto* members = object->getAsObject();
  ASSERT_NE(members, nullptr);
  for (const std::string& key : keys) EXPECT_NE(members->get(key), nullptr) << "no key '" << key << "'";
}

ScratchDirectory::ScratchDirectory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "arbiter-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
  path_ = pattern;
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace arbiter::testing
