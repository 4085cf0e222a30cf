// Hand-written kernels for the CPU device: C++ text against templates/host/executor.h, compiled by the system compiler.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "arbiter/generator/compile.hpp"

namespace arbiter::test {

/// `body` defines template <int rank> void kernel(const Arguments*), with `self` as the current thread; the image has
/// entries for ranks 0 to 7.
inline CompiledKernel compile_host_kernel(const std::string& body) {
  std::string folder = (std::filesystem::temp_directory_path() / "arbiter-test-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  {
    std::ofstream source(folder + "/kernel.cpp");
    source << "#include \"host/executor.h\"\n"
              "static __thread arbiter_thread* self;\n"
              "extern \"C\" arbiter_thread** arbiter_current_slot() { return &self; }\n"
              "inline unsigned read_flag(const unsigned* p, int order = 2) {\n"
              "  if (self->load_symmetric == nullptr) return __atomic_load_n(p, __ATOMIC_ACQUIRE);\n"
              "  unsigned v;\n"
              "  self->load_symmetric(self, p, &v, 1, order);\n"
              "  return v;\n"
              "}\n"
              "inline void barrier() { self->block_barrier(self); }\n"
              "inline void yield() { self->yield(self); }\n"
              "inline unsigned thread() { return self->thread_index; }\n"
              "inline unsigned block() { return self->block_index; }\n"
              "inline void put(unsigned* to, unsigned value, int release = 1) {\n"
              "  self->store_symmetric(self, to, &value, 1, release);\n"
              "}\n"
           << body << "\n";
    for (int r = 0; r < 8; ++r) {
      source << "extern \"C\" void arbiter_kernel_rank" << r << "(const void* a) { kernel<" << r
             << ">(static_cast<const Arguments*>(a)); }\n";
    }
  }
  const char* compiler = std::getenv("CXX");
  const std::string command = std::string(compiler != nullptr ? compiler : "c++") +
                              " -std=c++17 -O2 -fPIC -shared -I " ARBITER_TEMPLATES " " + folder + "/kernel.cpp -o " +
                              folder + "/kernel.so";
  if (std::system(command.c_str()) != 0) throw std::runtime_error("the test kernel does not compile:\n" + body);
  std::ifstream image(folder + "/kernel.so", std::ios::binary);
  CompiledKernel compiled;
  compiled.image.assign(std::istreambuf_iterator<char>(image), {});
  compiled.entry = "arbiter_kernel_rank";
  compiled.target = "cpu";
  std::filesystem::remove_all(folder);
  return compiled;
}

}  // namespace arbiter::test
