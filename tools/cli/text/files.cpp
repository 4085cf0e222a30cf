#include "text/files.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <system_error>

#include "arbiter/error.hpp"

namespace arbiter::cli {
namespace {

std::string why() { return std::generic_category().message(errno); }

}  // namespace

void write_output(const std::string& file, const std::string& text) {
  if (file.empty() || file == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return;
  }
  const std::string unfinished = file + ".tmp" + std::to_string(::getpid());
  std::error_code error;
  {
    errno = 0;
    std::ofstream out(unfinished, std::ios::binary);
    out << text;
    out.close();
    if (!out) {
      const std::string reason = why();
      std::filesystem::remove(unfinished, error);
      throw Error("'" + file + "' cannot be written: " + reason);
    }
  }
  std::filesystem::rename(unfinished, file, error);
  if (error) {
    const std::string reason = error.message();
    std::filesystem::remove(unfinished, error);
    throw Error("'" + file + "' cannot be written: " + reason);
  }
}

std::string read_input(const std::string& file) {
  if (file == "-") return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) throw Error("'" + file + "' is a directory, expected a file");
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error("'" + file + "' cannot be read: " + why());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

}  // namespace arbiter::cli
