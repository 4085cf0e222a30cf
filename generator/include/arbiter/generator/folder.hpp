// Folders and files that nobody but the user and root can have made or can change, and work inside them by descriptor:
// a name that somebody swaps for a link in the meantime leads nowhere.
#pragma once

#include <sys/stat.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/generator/file_descriptor.hpp"
#include "arbiter/generator/trust.hpp"

namespace arbiter {

/// Folder `name` of `parent`, never through a link. Invalid, with errno, if it is not there or is no folder.
FileDescriptor open_folder(const FileDescriptor& parent, const std::string& name);

/// The folder of this path. Its last component may be a link of the user's or root's.
struct FolderResult {
  FileDescriptor folder;
  std::string untrusted;  ///< why it is not used although it is there
};
FolderResult open_trusted_folder(const std::filesystem::path&);
FolderResult open_trusted_folder(const FileDescriptor& parent, const std::string& name);

/// Make a folder for the user alone, whatever the umask; it may be there already. False, with errno, on failure.
bool make_private_folder(const FileDescriptor& parent, const std::string& name);
bool make_private_folders(const std::filesystem::path&);

/// A new private folder with a name of 16 hexadecimal digits. Empty, with errno, on failure.
std::string make_unique_folder(const FileDescriptor& parent);
/// Whether `name` is `digits` lower-case hexadecimal digits: the shape of every name that is ever deleted.
bool is_hexadecimal(std::string_view name, std::size_t digits) noexcept;
std::vector<std::string> names_in(const FileDescriptor& folder);

/// The content of a regular file that is to be trusted and has at most 1 GiB; never waits, follows no link.
std::optional<std::string> read_trusted_file(const FileDescriptor& folder, const std::string& name);
/// Write and sync a new file for the user alone. False, with errno, on failure.
bool write_new_file(const FileDescriptor& folder, const std::string& name, std::string_view bytes);

/// Remove `name` and, if it is a folder, what of `contents` is in it. Anything else in it keeps the folder.
void remove_known(const FileDescriptor& parent, const std::string& name, std::initializer_list<const char*> contents);

}  // namespace arbiter
