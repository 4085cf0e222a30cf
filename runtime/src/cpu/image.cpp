#include "cpu/image.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <string_view>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "arbiter/generator/whole_files.hpp"

namespace arbiter {
namespace {

/// The loader takes a library for one that it has when the path is the same, and numbers of descriptors come again: the
/// path spells a random number, as "//" and "/." in front of the part that says something.
std::string unlike_any_other(const std::string& folder, const std::string& rest) {
  std::random_device random;
  std::string path = folder;
  for (int word = 0; word < 2; ++word) {
    const unsigned number = random();
    for (unsigned bit = 0; bit < 32; ++bit) path += (number >> bit & 1U) != 0 ? "/." : "//";
  }
  return path + rest;
}

void* open_library(int descriptor, const std::string& name = "") {
  const std::string path = unlike_any_other("/proc/self", fmt::format("/fd/{}{}", descriptor, name));
  return ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

std::string reason_of_the_loader() {
  const char* reason = ::dlerror();
  return reason != nullptr ? reason : "unknown reason";
}

/// From memory that has no name in any folder, so that nobody can swap it. Null if this machine does not run code from
/// there (vm.memfd_noexec) or has no room.
void* open_from_memory(std::string_view contents) {
  const FileDescriptor file(::memfd_create("arbiter-kernel", MFD_CLOEXEC));
  return file && write_all(file.get(), contents) ? open_library(file.get()) : nullptr;
}

/// Through the descriptor of a private folder, whatever its name leads to by then.
void* open_from_folder(std::string_view contents) {
  const TemporaryFolder folder;
  const FileDescriptor file(
      ::openat(folder.descriptor(), "kernel.so", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file || !write_all(file.get(), contents)) {
    throw Unavailable("cannot write a kernel image below " + folder.path().string() + ": " + std::strerror(errno) +
                      "; set TMPDIR to a folder with more space");
  }
  return open_library(folder.descriptor(), "/kernel.so");
}

}  // namespace

CpuImage::CpuImage(const CompiledKernel& compiled, int rank, bool run_from_memory) {
  if (compiled.target != "cpu") {
    throw InvalidArgument("an image for '" + compiled.target +
                          "' cannot run on the CPU device; compile the kernel for target 'cpu'");
  }
  if (rank < 0) throw InvalidArgument(fmt::format("a kernel cannot be loaded for rank {}", rank));
  if (!std::string_view(compiled.image)
           .starts_with("\x7f"
                        "ELF")) {
    throw CompileError("the kernel image is not a shared object; remove it from the kernel cache and compile it again");
  }
  if (run_from_memory) handle_ = open_from_memory(compiled.image);
  if (handle_ == nullptr) handle_ = open_from_folder(compiled.image);
  if (handle_ == nullptr) {
    throw CompileError("cannot load a kernel image: " + reason_of_the_loader() +
                       "; if the folder does not allow execution, set TMPDIR to one that does");
  }
  const std::string entry = fmt::format("arbiter_kernel_rank{}", rank);
  entry_ = reinterpret_cast<void (*)(const void*)>(::dlsym(handle_, entry.c_str()));
  current_slot_ = reinterpret_cast<arbiter_thread** (*)()>(::dlsym(handle_, "arbiter_current_slot"));
  if (entry_ == nullptr || current_slot_ == nullptr) {
    ::dlclose(handle_);
    throw CompileError("the kernel image has no '" + std::string(entry_ == nullptr ? entry : "arbiter_current_slot") +
                       "'; it was compiled for fewer ranks or is not a kernel of this version");
  }
}

CpuImage::~CpuImage() { ::dlclose(handle_); }

}  // namespace arbiter
