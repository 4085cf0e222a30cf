#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/compile.hpp"
#include "compile/compile_log.hpp"
#include "compile/nvrtc_library.hpp"
#include "compile/ptxas_log.hpp"

namespace arbiter {
namespace {

constexpr const char* file_name = "arbiter_kernel.cu";

// Options besides the target. Products and sums are not contracted, so that the CPU device gives the same bits;
// kernels call fma where they want it. The last one makes ptxas report registers and spills in the log.
constexpr std::array<const char*, 4> options{"--std=c++17", "-default-device", "--fmad=false", "--ptxas-options=-v"};

void check_target(const std::string& target) {
  const bool real = target.starts_with("sm_");
  std::string_view number(target);
  if (real)
    number.remove_prefix(3);
  else if (target.starts_with("compute_"))
    number.remove_prefix(8);
  else
    number = {};
  if (!number.empty() && (number.back() == 'a' || number.back() == 'f')) number.remove_suffix(1);
  const bool digits = number.size() >= 2 && number.size() <= 3 &&
                      std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits)
    throw InvalidArgument("'" + target +
                          "' is not a target; expected for example sm_80, sm_90a, sm_100a or compute_90");
}

class Program {
 public:
  Program(const NvrtcLibrary& nvrtc, const std::string& text) : nvrtc_(nvrtc) {
    const nvrtcResult result = nvrtc_.create(&program_, text.c_str(), file_name, 0, nullptr, nullptr);
    if (result != NVRTC_SUCCESS)
      throw CompileError(std::string("NVRTC could not take the source: ") + nvrtc_.error_string(result));
  }
  ~Program() { nvrtc_.destroy(&program_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  nvrtcResult compile(const std::vector<const char*>& arguments) {
    return nvrtc_.compile(program_, static_cast<int>(arguments.size()), arguments.data());
  }
  std::string log() const { return read(nvrtc_.log_size, nvrtc_.log); }
  std::string cubin() const { return read(nvrtc_.cubin_size, nvrtc_.cubin); }
  std::string ptx() const { return read(nvrtc_.ptx_size, nvrtc_.ptx); }

 private:
  template <typename Size, typename Get>
  std::string read(Size size_of, Get get) const {
    std::size_t size = 0;
    nvrtcResult result = size_of(program_, &size);
    std::string bytes(size, '\0');
    if (result == NVRTC_SUCCESS && size > 0) result = get(program_, bytes.data());
    if (result != NVRTC_SUCCESS)
      throw CompileError(std::string("NVRTC kept its output: ") + nvrtc_.error_string(result));
    return bytes;
  }

  const NvrtcLibrary& nvrtc_;
  nvrtcProgram program_ = nullptr;
};

class NvrtcCompiler final : public Compiler {
 public:
  NvrtcCompiler(NvrtcLibrary nvrtc, std::string target) : nvrtc_(std::move(nvrtc)), target_(std::move(target)) {}

  CompiledKernel compile(const Source& source) const override {
    Program program(nvrtc_, source.text);
    const std::string architecture = "--gpu-architecture=" + target_;
    std::vector<const char*> arguments(options.begin(), options.end());
    arguments.push_back(architecture.c_str());
    const nvrtcResult result = program.compile(arguments);
    if (result != NVRTC_SUCCESS)
      throw CompileError("NVRTC " + nvrtc_.version_text() + " for " + target_ + ": " + nvrtc_.error_string(result) +
                         "\n" + explain_log(program.log(), file_name, source.text));
    CompiledKernel kernel;
    kernel.entry = source.entry;
    kernel.target = target_;
    kernel.image = target_.starts_with("sm_") ? program.cubin() : program.ptx();
    kernel.resources = parse_ptxas_log(program.log(), source.entry);
    if (kernel.image.empty()) throw CompileError("NVRTC produced an empty image for " + target_);
    return kernel;
  }

  std::string identity() const override {
    std::vector<std::string> sorted(options.begin(), options.end());
    std::sort(sorted.begin(), sorted.end());
    std::string text = "nvrtc " + nvrtc_.version_text() + " " + target_;
    for (const std::string& option : sorted) text.append(" ").append(option);
    return text;
  }

 private:
  NvrtcLibrary nvrtc_;
  std::string target_;
};

}  // namespace

std::unique_ptr<Compiler> make_nvrtc_compiler(std::string target) {
  check_target(target);
  return std::make_unique<NvrtcCompiler>(open_nvrtc(), std::move(target));
}

std::string nvrtc_target(int compute_capability) {
  const std::vector<int> supported = open_nvrtc().supported();
  if (supported.empty()) throw Unavailable("NVRTC does not say for which architectures it compiles");
  if (compute_capability < supported.front())
    throw Unsupported(fmt::format("compute capability {} is older than anything this NVRTC compiles for ({})",
                                  compute_capability, supported.front()));
  if (std::binary_search(supported.begin(), supported.end(), compute_capability)) {
    // The "a" variants exist from 90 on; kernels use what only they have.
    return fmt::format("sm_{}{}", compute_capability, (compute_capability >= 90 ? "a" : ""));
  }
  const auto above = std::upper_bound(supported.begin(), supported.end(), compute_capability);
  return fmt::format("compute_{}", *(above - 1));
}

std::string nvrtc_version() noexcept {
  try {
    return open_nvrtc().version_text();
  } catch (const std::exception& error) {
    try {
      const std::string reason = error.what();
      return "(" + reason.substr(0, reason.find('\n')) + ")";
    } catch (...) {
      return "(none)";
    }
  }
}

}  // namespace arbiter
