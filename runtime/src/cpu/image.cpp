#include "cpu/image.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

/// A file that exists only while the image is being opened. The loader recognises a library by its path and inode and
/// hands out the same handle again, so every image needs a file of its own, even if two images are equal.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view contents) {
    std::error_code error;
    std::filesystem::path folder = std::filesystem::temp_directory_path(error);
    if (error) folder = "/tmp";
    const std::string pattern = (folder / ("arbiter-" + std::to_string(::getpid()) + "-XXXXXX.so")).string();
    path_.assign(pattern.begin(), pattern.end());
    path_.push_back('\0');
    const int descriptor = ::mkostemps(path_.data(), 3, O_CLOEXEC);
    if (descriptor < 0) {
      throw Unavailable("cannot create '" + pattern + "' for a kernel image: " + std::strerror(errno) +
                        "; set TMPDIR to a folder that can be written");
    }
    const int failed = write_all(descriptor, contents);
    ::close(descriptor);
    if (failed != 0) {
      ::unlink(path_.data());
      throw Unavailable("cannot write a kernel image to '" + path() + "': " + std::strerror(failed) +
                        "; set TMPDIR to a folder with more space");
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { ::unlink(path_.data()); }
  std::string path() const { return path_.data(); }

 private:
  static int write_all(int descriptor, std::string_view contents) noexcept {
    while (!contents.empty()) {
      const ssize_t written = ::write(descriptor, contents.data(), contents.size());
      if (written < 0 && errno != EINTR) return errno;
      if (written > 0) contents.remove_prefix(static_cast<std::size_t>(written));
    }
    return 0;
  }
  std::vector<char> path_;
};

}  // namespace

CpuImage::CpuImage(const CompiledKernel& compiled, int rank) {
  if (compiled.target != "cpu") {
    throw InvalidArgument("an image for '" + compiled.target +
                          "' cannot run on the CPU device; compile the kernel for target 'cpu'");
  }
  if (rank < 0) throw InvalidArgument("a kernel cannot be loaded for rank " + std::to_string(rank));
  if (!std::string_view(compiled.image)
           .starts_with("\x7f"
                        "ELF")) {
    throw CompileError("the kernel image is not a shared object; remove it from the kernel cache and compile it again");
  }
  const TemporaryFile file(compiled.image);
  handle_ = ::dlopen(file.path().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_ == nullptr) {
    const char* reason = ::dlerror();
    throw CompileError(std::string("cannot load a kernel image: ") + (reason != nullptr ? reason : "unknown reason") +
                       "; if the folder does not allow execution, set TMPDIR to one that does");
  }
  const std::string entry = "arbiter_kernel_rank" + std::to_string(rank);
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
