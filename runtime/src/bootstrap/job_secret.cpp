#include "bootstrap/job_secret.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "arbiter/error.hpp"
#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/trust.hpp"
#include "arbiter/generator/whole_files.hpp"

namespace arbiter {
namespace {

constexpr std::size_t shortest = 16;
constexpr off_t largest_file = 4096;

[[noreturn]] void refuse(const std::string& why) {
  throw InvalidArgument("ARBITER_JOB_SECRET: " + why +
                        "; make one with: (umask 077; openssl rand -hex 32 > FILE), and set "
                        "ARBITER_JOB_SECRET=file:///path/of/FILE on all ranks");
}

std::string read_secret(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0) refuse("'" + path + "' cannot be read: " + std::strerror(errno));
  if (!S_ISREG(info.st_mode) || info.st_size > largest_file) refuse("'" + path + "' is no file with a line of text");
  std::string why = distrust(info);
  if (why.empty() && (info.st_mode & (S_IRGRP | S_IROTH)) != 0) why = "others may read it";
  if (!why.empty()) refuse("'" + path + "': " + why);
  std::string secret(static_cast<std::size_t>(info.st_size), '\0');
  if (!read_all(file.get(), secret)) refuse("'" + path + "' cannot be read: " + std::strerror(errno));
  return secret;
}

}  // namespace

std::string job_secret() {
  const char* value = std::getenv("ARBITER_JOB_SECRET");
  if (value == nullptr || *value == '\0') return "";
  std::string secret = value;
  constexpr std::string_view file = "file://";
  if (secret.starts_with(file)) secret = read_secret(secret.substr(file.size()));
  while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r')) secret.pop_back();
  if (secret.size() < shortest) {
    refuse(fmt::format("it has {} characters, expected at least {} that nobody can guess", secret.size(), shortest));
  }
  return secret;
}

}  // namespace arbiter
