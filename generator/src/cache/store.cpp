#include "cache/store.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "text/json_reader.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

constexpr int format = 1;
constexpr const char* version_folder = "v1";

bool is_key(const std::string& name) { return is_hexadecimal(name, 64); }

// Over everything that a load hands out, so that a manifest cannot be changed unnoticed either.
std::string digest(const std::string& key, const std::string& name, const CompiledKernel& kernel) {
  std::string bytes;
  const KernelResources& resources = kernel.resources;
  for (const std::string& field : {key, name, kernel.entry, kernel.target}) append_field(bytes, field);
  for (const int number : {resources.registers, resources.shared_bytes, resources.spill_bytes, resources.stack_bytes})
    append_field(bytes, std::to_string(number));
  append_field(bytes, kernel.image);
  return sha256_hex(bytes);
}

std::string manifest_text(const std::string& key, const std::string& name, const CompiledKernel& kernel) {
  const KernelResources& resources = kernel.resources;
  const llvm::json::Value manifest = llvm::json::Object{{"format", format},
                                                        {"key", key},
                                                        {"name", llvm::json::fixUTF8(name)},
                                                        {"entry", kernel.entry},
                                                        {"target", kernel.target},
                                                        {"registers", resources.registers},
                                                        {"shared_bytes", resources.shared_bytes},
                                                        {"spill_bytes", resources.spill_bytes},
                                                        {"stack_bytes", resources.stack_bytes},
                                                        {"image_bytes", static_cast<std::int64_t>(kernel.image.size())},
                                                        {"sha256", digest(key, llvm::json::fixUTF8(name), kernel)}};
  std::string text;
  llvm::raw_string_ostream stream(text);
  stream << llvm::formatv("{0:2}", manifest) << "\n";
  return text;
}

struct Manifest {
  std::string name;
  std::string sha256;
  std::size_t image_bytes = 0;
  CompiledKernel kernel;  ///< without the image
};

Manifest read_manifest(std::string_view text, const std::string& key) {
  const llvm::json::Value document = parse_json(text, "the manifest");
  const JsonNode node(document, "");
  node.require_keys({"format", "key", "name", "entry", "target", "registers", "shared_bytes", "spill_bytes",
                     "stack_bytes", "image_bytes", "sha256"},
                    {});
  if (node["format"].integer() != format) node["format"].fail(fmt::format("expected {}", format));
  if (node["key"].text() != key) node["key"].fail("it belongs to another entry");
  Manifest manifest;
  manifest.name = node["name"].text();
  manifest.sha256 = node["sha256"].text();
  const int bytes = node["image_bytes"].integer();
  if (bytes < 0) node["image_bytes"].fail("it is negative");
  manifest.image_bytes = static_cast<std::size_t>(bytes);
  manifest.kernel.entry = node["entry"].text();
  manifest.kernel.target = node["target"].text();
  manifest.kernel.resources = {node["registers"].integer(), node["shared_bytes"].integer(),
                               node["spill_bytes"].integer(), node["stack_bytes"].integer()};
  return manifest;
}

std::string system_error(const std::string& path) { return quote(path) + ": " + std::strerror(errno); }

void remove_entry(const FileDescriptor& parent, const std::string& name) {
  remove_known(parent, name, {"manifest.json", "image"});
}

}  // namespace

CacheStore::CacheStore(fs::path directory) : directory_(std::move(directory)) {}

FolderResult CacheStore::root() const {
  FolderResult top = open_trusted_folder(directory_);
  if (!top.folder) return top;
  return open_trusted_folder(top.folder, version_folder);
}

FolderResult CacheStore::open(const char* name) const {
  FolderResult opened = root();
  if (!opened.folder) return opened;
  return open_trusted_folder(opened.folder, name);
}

std::optional<std::string> CacheStore::distrusted() const {
  std::string why = open("entries").untrusted;
  if (why.empty()) return std::nullopt;
  return why;
}

std::optional<std::string> CacheStore::prepare() const {
  if (!make_private_folders(directory_)) return system_error(directory_.string());
  const auto problem = [&](const FolderResult& result, const std::string& path) -> std::string {
    return result.untrusted.empty() ? system_error(path) : result.untrusted;
  };
  const FolderResult top = open_trusted_folder(directory_);
  if (!top.folder) return problem(top, directory_.string());
  const fs::path path = directory_ / version_folder;
  if (!make_private_folder(top.folder, version_folder)) return system_error(path.string());
  const FolderResult root_folder = open_trusted_folder(top.folder, version_folder);
  if (!root_folder.folder) return problem(root_folder, path.string());
  for (const char* name : {"entries", "locks", "temporary"}) {
    if (!make_private_folder(root_folder.folder, name)) return system_error((path / name).string());
    const FolderResult folder = open_trusted_folder(root_folder.folder, name);
    if (!folder.folder) return problem(folder, (path / name).string());
    if (faccessat(folder.folder.get(), ".", W_OK | X_OK, 0) != 0) return system_error((path / name).string());
  }
  return std::nullopt;
}

CacheStore::Loaded CacheStore::load(const std::string& key, Purpose purpose) const {
  const FileDescriptor entries = open("entries").folder;
  struct stat info {};
  const auto is_there = [&] { return fstatat(entries.get(), key.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0; };
  if (!entries || !is_there()) return {};
  FolderResult entry = open_trusted_folder(entries, key);
  if (!entry.untrusted.empty()) return {std::nullopt, entry.untrusted};
  std::optional<std::string> text, image;
  if (entry.folder) {
    text = read_trusted_file(entry.folder, "manifest.json");
    image = read_trusted_file(entry.folder, "image");
  }
  if (!text || !image) {
    // Removed between the two looks: a miss like any other.
    if (!is_there()) return {};
    return {std::nullopt, "its files cannot be read, or belong to or can be changed by others"};
  }
  try {
    Manifest manifest = read_manifest(*text, key);
    if (image->size() != manifest.image_bytes)
      return {std::nullopt, fmt::format("the image has {} bytes instead of {}", image->size(), manifest.image_bytes)};
    manifest.kernel.image = std::move(*image);
    if (digest(key, manifest.name, manifest.kernel) != manifest.sha256)
      return {std::nullopt, "its contents do not match their hash"};
    if (purpose == Purpose::use)  // may fail: then the entry only looks older
      utimensat(entry.folder.get(), "manifest.json", nullptr, AT_SYMLINK_NOFOLLOW);
    return {std::move(manifest.kernel), ""};
  } catch (const CompileError& broken) {
    return {std::nullopt, std::string("its manifest is broken: ") + broken.what()};
  }
}

std::optional<std::string> CacheStore::store(const std::string& key, const std::string& name,
                                             const CompiledKernel& kernel) const {
  const FileDescriptor entries = open("entries").folder, temporary = open("temporary").folder;
  const std::string place = (directory_ / version_folder).string();
  if (!entries || !temporary) return quote(place) + " is no longer the folder that it was";
  const std::string unique = make_unique_folder(temporary);
  if (unique.empty()) return system_error(place + "/temporary");
  const FileDescriptor folder = open_folder(temporary, unique);
  std::optional<std::string> failure;
  if (!folder || !write_new_file(folder, "image", kernel.image) ||
      !write_new_file(folder, "manifest.json", manifest_text(key, name.empty() ? "unnamed" : name, kernel))) {
    failure = system_error(place + "/temporary/" + unique);
  } else {
    // Some filesystems cannot sync folders; the entry is verified on load anyway.
    (void)fsync(folder.get());
    // Renaming is atomic, and fails when the target is a folder with something in it: then another process was faster.
    if (renameat(temporary.get(), unique.c_str(), entries.get(), key.c_str()) == 0) {
      (void)fsync(entries.get());
      return std::nullopt;
    }
    if (errno != ENOTEMPTY && errno != EEXIST) failure = system_error(place + "/entries/" + key);
  }
  remove_entry(temporary, unique);
  return failure;
}

void CacheStore::remove(const std::string& key) const {
  const FileDescriptor entries = open("entries").folder, temporary = open("temporary").folder;
  if (!entries || !is_key(key)) return;
  // Moved away first, so that no reader finds half an entry.
  const std::string unique = temporary ? make_unique_folder(temporary) : "";
  if (unique.empty()) {
    remove_entry(entries, key);
    return;
  }
  // Onto the empty folder that reserves the name, which a file or a link cannot replace.
  if (renameat(entries.get(), key.c_str(), temporary.get(), unique.c_str()) != 0) remove_entry(entries, key);
  remove_entry(temporary, unique);
}

std::vector<std::string> CacheStore::keys() const {
  std::vector<std::string> names = names_in(open("entries").folder);
  std::erase_if(names, [](const std::string& name) { return !is_key(name); });
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<CacheEntry> CacheStore::list() const {
  std::vector<CacheEntry> listing;
  const FileDescriptor entries = open("entries").folder;
  for (const std::string& key : keys()) {
    CacheEntry listed;
    listed.key = key;
    const FileDescriptor folder = open_folder(entries, key);
    for (const char* file : {"manifest.json", "image"}) {
      struct stat info {};
      if (fstatat(folder.get(), file, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
      listed.bytes += static_cast<std::uint64_t>(info.st_size);
      listed.last_used = std::max<std::int64_t>(listed.last_used, info.st_mtim.tv_sec);
    }
    try {
      if (const std::optional<std::string> text = read_trusted_file(folder, "manifest.json")) {
        Manifest manifest = read_manifest(*text, key);
        listed.name = std::move(manifest.name);
        listed.target = std::move(manifest.kernel.target);
      }
    } catch (const CompileError&) {
      // Listed by its key alone; verify() removes it.
    }
    listing.push_back(std::move(listed));
  }
  return listing;
}

void CacheStore::shrink(std::uint64_t max_bytes, const std::string& keep) const {
  struct Used {
    std::string key;
    std::uint64_t bytes;
    timespec last;
  };
  std::vector<Used> used;
  std::uint64_t total = 0;
  const FileDescriptor entries = open("entries").folder;
  for (const std::string& key : keys()) {  // without reading the manifests: this runs after every compile
    struct stat manifest {
    }, image{};
    const FileDescriptor folder = open_folder(entries, key);
    if (fstatat(folder.get(), "manifest.json", &manifest, AT_SYMLINK_NOFOLLOW) != 0) manifest = {};
    if (fstatat(folder.get(), "image", &image, AT_SYMLINK_NOFOLLOW) != 0) image = {};
    const auto bytes = static_cast<std::uint64_t>(manifest.st_size + image.st_size);
    total += bytes;
    used.push_back({key, bytes, manifest.st_mtim});
  }
  std::sort(used.begin(), used.end(), [](const Used& a, const Used& b) {
    return a.last.tv_sec != b.last.tv_sec ? a.last.tv_sec < b.last.tv_sec : a.last.tv_nsec < b.last.tv_nsec;
  });
  for (const Used& oldest : used) {
    if (total <= max_bytes) return;
    if (oldest.key == keep) continue;
    remove(oldest.key);
    total -= oldest.bytes;
  }
}

void CacheStore::sweep() const {
  const FileDescriptor temporary = open("temporary").folder;
  const std::time_t hour_ago = std::time(nullptr) - 3600;
  for (const std::string& name : names_in(temporary)) {
    struct stat info {};
    if (!is_hexadecimal(name, 16) || fstatat(temporary.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (info.st_uid == geteuid() && info.st_mtim.tv_sec < hour_ago) remove_entry(temporary, name);
  }
}

FileLock CacheStore::lock(const std::string& key, std::chrono::milliseconds limit) const {
  return {open("locks").folder, key, limit};
}

}  // namespace arbiter
