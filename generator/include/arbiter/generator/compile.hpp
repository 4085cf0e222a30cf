// Compilers: from a source to a loadable image.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/generator/render.hpp"

namespace arbiter {

/// What the compiler said about a kernel; -1 where it said nothing (PTX, the CPU device).
struct KernelResources {
  int registers = -1;     ///< per thread
  int shared_bytes = -1;  ///< static, per block
  int spill_bytes = -1;   ///< stores + loads
  int stack_bytes = -1;
  bool operator==(const KernelResources&) const = default;
};

struct CompiledKernel {
  std::string image;  ///< cubin, PTX or shared object
  std::string entry;
  std::string target;  ///< "sm_90a", "compute_90" (PTX) or "cpu"
  KernelResources resources;
};

class Compiler {
 public:
  virtual ~Compiler() = default;
  /// Throws CompileError with the compiler's log and the numbered source lines it complains about.
  virtual CompiledKernel compile(const Source&) const = 0;
  /// Everything besides the source that changes the image: compiler version, target, options without paths.
  virtual std::string identity() const = 0;
};

/// NVRTC, opened with dlopen at first use. Targets: "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_103a",
/// "sm_120a", and "compute_XX" for PTX. Throws Unavailable if there is no NVRTC; the message says where it looked.
std::unique_ptr<Compiler> make_nvrtc_compiler(std::string target);

/// The NVRTC target for a compute capability (major * 10 + minor): 90 -> "sm_90a"; one that this NVRTC does not
/// know gives "compute_<newest>" (PTX).
std::string nvrtc_target(int compute_capability);

/// "13.0", or a reason in brackets when there is no NVRTC. Never throws.
std::string nvrtc_version() noexcept;

/// The system C++ compiler ($CXX, c++, g++, clang++) producing a shared object. Throws Unavailable if there is none.
std::unique_ptr<Compiler> make_host_compiler();

/// The host's for the target "cpu", NVRTC for every other.
std::unique_ptr<Compiler> make_compiler(const std::string& target);

}  // namespace arbiter
