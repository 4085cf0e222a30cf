#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "arbiter/generator/whole_files.hpp"
#include "compile/compile_log.hpp"
#include "compile/process.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

constexpr const char* source_name = "arbiter_kernel.cpp";
constexpr const char* image_name = "arbiter_kernel.so";
constexpr std::chrono::seconds compile_limit(300);

// -Og: a third less to compile than -O1, and what runs is the scheduler, not the kernel.
// -ffp-contract=off: products and sums are not contracted, as on the GPU. -w: kernels are written for another compiler.
constexpr std::array<const char*, 8> host_options{
    "-std=c++17", "-Og", "-fPIC", "-shared", "-ffp-contract=off", "-fno-exceptions", "-fno-rtti", "-w"};

std::vector<std::string> split_words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

class HostCompiler final : public Compiler {
 public:
  /// `command`: the compiler and, perhaps, arguments ("ccache g++").
  explicit HostCompiler(std::vector<std::string> command) : command_(std::move(command)) {
    const TemporaryFolder folder;
    std::vector<std::string> arguments = command_;
    arguments.emplace_back("--version");
    const ProcessResult result = run_process(arguments, folder.path(), std::chrono::seconds(30));
    if (result.timed_out || result.exit_code != 0)
      throw Unavailable(
          fmt::format("{} does not tell its version (exit code {})", quote(command_[0]), result.exit_code));
    version_ = first_line(result.output);
  }

  CompiledKernel compile(const Source& source) const override {
    const TemporaryFolder folder;
    write(folder.path() / source_name, source.text);
    std::vector<std::string> arguments = command_;
    arguments.insert(arguments.end(), host_options.begin(), host_options.end());
    arguments.insert(arguments.end(), {"-o", image_name, source_name});
    const ProcessResult result = run_process(arguments, folder.path(), compile_limit);
    if (result.timed_out)
      throw CompileError(fmt::format("{} did not finish within {} s", quote(command_[0]), compile_limit.count()));
    if (result.exit_code != 0)
      throw CompileError(fmt::format("{}: exit code {}\n{}", version_, result.exit_code,
                                     explain_log(result.output, source_name, source.text)));
    CompiledKernel kernel;
    kernel.entry = source.entry;
    kernel.target = "cpu";
    kernel.image = read(folder.path() / image_name);
    return kernel;
  }

  std::string identity() const override {
    std::string text = "host cpu " + version_;
    for (std::size_t i = 1; i < command_.size(); ++i) text.append(" ").append(command_[i]);
    for (const char* option : host_options) text.append(" ").append(option);
    return text;
  }

 private:
  static void write(const std::filesystem::path& path, const std::string& text) {
    const FileDescriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file || !write_all(file.get(), text))
      throw Unavailable(fmt::format("could not write {}: {}", quote(path.string()), std::strerror(errno)));
  }

  static std::string read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    if (bytes.empty()) throw CompileError("the compiler reported success, but wrote no " + quote(path.string()));
    return bytes;
  }

  std::vector<std::string> command_;
  std::string version_;
};

}  // namespace

std::unique_ptr<Compiler> make_compiler(const std::string& target) {
  return target == "cpu" ? make_host_compiler() : make_nvrtc_compiler(target);
}

std::unique_ptr<Compiler> make_host_compiler() {
  if (const char* cxx = std::getenv("CXX"); cxx != nullptr) {
    std::vector<std::string> command = split_words(cxx);
    if (!command.empty()) {
      const std::optional<std::string> program = find_program(command[0]);
      if (!program) throw Unavailable("CXX=" + quote(cxx) + " names no program; unset it, or set it to a C++ compiler");
      command[0] = *program;
      return std::make_unique<HostCompiler>(std::move(command));
    }
  }
  for (const char* name : {"c++", "g++", "clang++"})
    if (const std::optional<std::string> program = find_program(name))
      return std::make_unique<HostCompiler>(std::vector<std::string>{*program});
  throw Unavailable(
      "no C++ compiler was found (tried c++, g++ and clang++ in PATH): the CPU device needs one; install "
      "g++, or set CXX");
}

}  // namespace arbiter
