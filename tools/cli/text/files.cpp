#include "text/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string_view>
#include <system_error>

#include "arbiter/db/database.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/whole_files.hpp"

namespace arbiter::cli {
namespace {

std::string why() { return std::generic_category().message(errno); }

/// An output may be a new name or replace an ordinary file: never a link, a device, a folder or a database.
void refuse_what_must_not_be_replaced(const std::string& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(file, error);
  if (status.type() == fs::file_type::not_found) return;
  if (fs::is_symlink(status)) {
    throw Error("'" + file + "' is a link, expected a file or a new name: name what it points to, or remove it");
  }
  if (fs::is_directory(status)) throw Error("'" + file + "' is a directory, expected a file or a new name");
  if (!fs::is_regular_file(status)) {
    throw Error("'" + file + "' is not a regular file: to write into it, use --output - and redirect standard output");
  }
  std::array<char, 16> start{};
  std::ifstream in(file, std::ios::binary);
  if (!in) throw Error("'" + file + "' would be replaced, but what it holds cannot be read. Choose another name");
  in.read(start.data(), start.size());
  if (is_sqlite({start.data(), static_cast<std::size_t>(in.gcount())})) {
    throw Error("'" + file + "' is a database, which the output would destroy. Choose another name for the output");
  }
}

}  // namespace

void write_output(const std::string& file, const std::string& text) {
  if (file.empty() || file == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return;
  }
  refuse_what_must_not_be_replaced(file);
  const std::string unfinished = fmt::format("{}.tmp{}", file, ::getpid());
  std::error_code error;
  // Neither a file nor a link that already has this name is written through.
  const int descriptor = ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (descriptor < 0) throw Error("'" + file + "' cannot be written: '" + unfinished + "': " + why());
  const bool written = write_all(descriptor, text);
  const std::string reason = written ? "" : why();
  if (::close(descriptor) != 0 || !written) {
    const std::string closing = written ? why() : reason;
    std::filesystem::remove(unfinished, error);
    throw Error("'" + file + "' cannot be written: " + closing);
  }
  std::filesystem::rename(unfinished, file, error);
  if (error) {
    const std::string renaming = error.message();
    std::filesystem::remove(unfinished, error);
    throw Error("'" + file + "' cannot be written: " + renaming);
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
