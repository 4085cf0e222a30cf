// Starts the `arbiter` program and collects what it says.
#pragma once

#include <llvm/Support/JSON.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace arbiter::testing {

struct Outcome {
  int exit_code = -1;  ///< 128 + signal if it was killed
  std::string out;
  std::string err;
};

/// The program's path.
std::string arbiter_program();

std::string read_text(const std::string& file_name);

/// Variables are added to (or, when empty, removed from) the environment. ARBITER_* of the caller are not inherited.
Outcome run_arbiter(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& variables = {});

/// The same for another program, found along PATH. Exit code 127 if there is none.
Outcome run_program(const std::string& program, const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& variables = {});

/// Fails the test, and returns null, if `text` is not one JSON object.
llvm::json::Value parse_object(const std::string& text);

/// The member, which must exist and have that type; fails the test otherwise. `path` like "rows[0].results.auto".
const llvm::json::Value* member(const llvm::json::Value& value, const std::string& path);

/// Fails the test for each key that is missing.
void expect_keys(const llvm::json::Value* object, const std::vector<std::string>& keys);

/// A directory of its own, removed with everything in it.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::filesystem::path& path() const noexcept { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace arbiter::testing
