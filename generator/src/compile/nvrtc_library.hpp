// NVRTC, opened at run time: the program starts without it and says where it looked.
#pragma once

#include <fmt/format.h>
#include <nvrtc.h>

#include <memory>
#include <string>
#include <vector>

namespace arbiter {

/// The functions of NVRTC that are used. The library stays open until the process ends.
struct NvrtcLibrary {
  std::string path;  ///< what was opened
  int major = 0;
  int minor = 0;
  decltype(&nvrtcVersion) version = nullptr;
  decltype(&nvrtcGetErrorString) error_string = nullptr;
  decltype(&nvrtcGetNumSupportedArchs) number_of_architectures = nullptr;
  decltype(&nvrtcGetSupportedArchs) architectures = nullptr;
  decltype(&nvrtcCreateProgram) create = nullptr;
  decltype(&nvrtcDestroyProgram) destroy = nullptr;
  decltype(&nvrtcCompileProgram) compile = nullptr;
  decltype(&nvrtcGetCUBINSize) cubin_size = nullptr;
  decltype(&nvrtcGetCUBIN) cubin = nullptr;
  decltype(&nvrtcGetPTXSize) ptx_size = nullptr;
  decltype(&nvrtcGetPTX) ptx = nullptr;
  decltype(&nvrtcGetProgramLogSize) log_size = nullptr;
  decltype(&nvrtcGetProgramLog) log = nullptr;

  std::string version_text() const { return fmt::format("{}.{}", major, minor); }
  /// Compute capabilities (major * 10 + minor) it compiles for, ascending.
  std::vector<int> supported() const;
};

/// Open NVRTC: one that is already in the process, then the loader's search path, the toolkit this program was built
/// with, $CUDA_HOME, $CUDA_PATH, /usr/local/cuda, and the CUDA wheels of Python environments.
/// `candidates` overrides the search. Throws Unavailable naming every place that was tried.
NvrtcLibrary open_nvrtc();
NvrtcLibrary open_nvrtc(const std::vector<std::string>& candidates);

/// What open_nvrtc() tries, in order: file names (left to the loader) and paths.
std::vector<std::string> nvrtc_candidates();

}  // namespace arbiter
