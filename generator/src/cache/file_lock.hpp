// A lock between threads and processes of one machine, held on a file.
#pragma once

#include <chrono>
#include <filesystem>

#include "arbiter/generator/folder.hpp"

namespace arbiter {

/// flock() on a file that exists only while somebody holds or wants the lock. The kernel releases it when its holder
/// dies, however it dies; that is why this is no lock file with an owner written into it. Follows no link.
class FileLock {
 public:
  enum class State { held, timed_out, impossible };  ///< impossible: the file cannot be created or locked

  FileLock(const std::filesystem::path& file, std::chrono::milliseconds limit);
  FileLock(FileDescriptor folder, std::string name, std::chrono::milliseconds limit);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;
  State state() const noexcept { return state_; }

 private:
  State try_once();

  FileDescriptor folder_;
  std::string name_;
  FileDescriptor file_;
  State state_ = State::impossible;
};

}  // namespace arbiter
