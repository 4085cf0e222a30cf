// Where things lie that nobody keeps: what a compiler writes, a copy of a database, what processes tell each other.
#pragma once

#include <filesystem>

namespace arbiter {

/// A new folder for the user alone below $TMPDIR, removed with everything in it. Where others may write to $TMPDIR and
/// move what is in it, /tmp or /var/tmp takes its place. Folders that killed processes of this user left behind are
/// removed on the way: a living owner holds an flock() on its own.
class TemporaryFolder {
 public:
  TemporaryFolder();  ///< throws Unavailable naming the place and the reason
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const noexcept { return path_; }
  /// The open folder: what is reached through it does not depend on any name.
  int descriptor() const noexcept { return descriptor_; }

  /// The folder in which a new one would be made: of the user or root, and such that others cannot move what is in it.
  /// Throws Unavailable.
  static std::filesystem::path place();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace arbiter
