#include "cache/store.hpp"

#include <fcntl.h>
#include <llvm/Support/JSON.h>
#include <llvm/Support/raw_ostream.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "arbiter/error.hpp"
#include "arbiter/generator/digest.hpp"
#include "text/json_reader.hpp"
#include "text/quote.hpp"

namespace arbiter {
namespace {

namespace fs = std::filesystem;

constexpr int format = 1;

bool is_key(const std::string& name) {
  return name.size() == 64 &&
         std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

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
  if (node["format"].integer() != format) node["format"].fail("expected " + std::to_string(format));
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

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : value_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  bool valid() const noexcept { return value_ >= 0; }
  int get() const noexcept { return value_; }

 private:
  int value_;
};

// Nothing if the file cannot be read completely or is larger than any entry could be.
std::optional<std::string> read_file(const fs::path& path) {
  constexpr off_t max_bytes = off_t{1} << 30;
  const Descriptor file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  struct stat info {};
  if (!file.valid() || fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > max_bytes)
    return std::nullopt;
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count = read(file.get(), bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

std::string system_error(const fs::path& path) { return quote(path.string()) + ": " + std::strerror(errno); }

std::optional<std::string> write_file(const fs::path& path, std::string_view bytes) {
  const Descriptor file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (!file.valid()) return system_error(path);
  while (!bytes.empty()) {
    const ssize_t count = write(file.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path);
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  if (fsync(file.get()) != 0) return system_error(path);
  return std::nullopt;
}

// Some filesystems cannot sync folders; the entry is verified on load anyway.
void sync_folder(const fs::path& path) {
  const Descriptor folder(path, O_RDONLY | O_DIRECTORY);
  if (folder.valid()) (void)fsync(folder.get());
}

std::optional<fs::path> make_unique_folder(const fs::path& parent) {
  std::string pattern = (parent / "XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) return std::nullopt;
  return fs::path(pattern);
}

}  // namespace

CacheStore::CacheStore(const fs::path& directory) : root_(directory / ("v" + std::to_string(format))) {}

fs::path CacheStore::entry(const std::string& key) const { return root_ / "entries" / key; }
fs::path CacheStore::lock_file(const std::string& key) const { return root_ / "locks" / key; }

std::optional<std::string> CacheStore::prepare() const {
  for (const char* folder : {"entries", "locks", "temporary"}) {
    std::error_code error;
    fs::create_directories(root_ / folder, error);
    if (error) return quote((root_ / folder).string()) + ": " + error.message();
    if (access((root_ / folder).c_str(), W_OK | X_OK) != 0) return system_error(root_ / folder);
  }
  return std::nullopt;
}

CacheStore::Loaded CacheStore::load(const std::string& key, Purpose purpose) const {
  const fs::path folder = entry(key);
  std::error_code error;
  if (!fs::exists(fs::symlink_status(folder, error))) return {};
  const std::optional<std::string> text = read_file(folder / "manifest.json");
  std::optional<std::string> image = read_file(folder / "image");
  if (!text || !image) {
    // Removed between the two looks: a miss like any other.
    if (!fs::exists(fs::symlink_status(folder, error))) return {};
    return {std::nullopt, "its files cannot be read"};
  }
  try {
    Manifest manifest = read_manifest(*text, key);
    if (image->size() != manifest.image_bytes)
      return {std::nullopt, "the image has " + std::to_string(image->size()) + " bytes instead of " +
                                std::to_string(manifest.image_bytes)};
    manifest.kernel.image = std::move(*image);
    if (digest(key, manifest.name, manifest.kernel) != manifest.sha256)
      return {std::nullopt, "its contents do not match their hash"};
    if (purpose == Purpose::use)  // may fail: then the entry only looks older
      utimensat(AT_FDCWD, (folder / "manifest.json").c_str(), nullptr, 0);
    return {std::move(manifest.kernel), ""};
  } catch (const CompileError& broken) {
    return {std::nullopt, std::string("its manifest is broken: ") + broken.what()};
  }
}

std::optional<std::string> CacheStore::store(const std::string& key, const std::string& name,
                                             const CompiledKernel& kernel) const {
  const std::optional<fs::path> folder = make_unique_folder(root_ / "temporary");
  if (!folder) return system_error(root_ / "temporary");
  std::error_code error;
  // mkdtemp gives 0700; a cache may be shared by the users of a group.
  fs::permissions(*folder, fs::status(root_ / "entries", error).permissions(), error);
  std::optional<std::string> failure = write_file(*folder / "image", kernel.image);
  if (!failure)
    failure = write_file(*folder / "manifest.json", manifest_text(key, name.empty() ? "unnamed" : name, kernel));
  if (!failure) {
    sync_folder(*folder);
    // Renaming is atomic, and fails when the target is a folder with something in it: then another process was faster.
    if (rename(folder->c_str(), entry(key).c_str()) == 0) {
      sync_folder(root_ / "entries");
      return std::nullopt;
    }
    if (errno != ENOTEMPTY && errno != EEXIST) failure = system_error(entry(key));
  }
  fs::remove_all(*folder, error);
  return failure;
}

void CacheStore::remove(const std::string& key) const {
  // Moved away first, so that no reader finds half an entry.
  std::error_code error;
  const std::optional<fs::path> folder = make_unique_folder(root_ / "temporary");
  if (!folder) {
    fs::remove_all(entry(key), error);
    return;
  }
  fs::rename(entry(key), *folder / key, error);
  fs::remove_all(*folder, error);
}

std::vector<std::string> CacheStore::keys() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(root_ / "entries", error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<CacheEntry> CacheStore::list() const {
  std::vector<CacheEntry> entries;
  for (const std::string& key : keys()) {
    CacheEntry listed;
    listed.key = key;
    for (const char* file : {"manifest.json", "image"}) {
      struct stat info {};
      if (lstat((entry(key) / file).c_str(), &info) != 0) continue;
      listed.bytes += static_cast<std::uint64_t>(info.st_size);
      listed.last_used = std::max<std::int64_t>(listed.last_used, info.st_mtim.tv_sec);
    }
    try {
      const std::optional<std::string> text = read_file(entry(key) / "manifest.json");
      if (text && is_key(key)) {
        Manifest manifest = read_manifest(*text, key);
        listed.name = std::move(manifest.name);
        listed.target = std::move(manifest.kernel.target);
      }
    } catch (const CompileError&) {
      // Listed by its key alone; verify() removes it.
    }
    entries.push_back(std::move(listed));
  }
  return entries;
}

void CacheStore::shrink(std::uint64_t max_bytes, const std::string& keep) const {
  struct Used {
    std::string key;
    std::uint64_t bytes;
    timespec last;
  };
  std::vector<Used> entries;
  std::uint64_t total = 0;
  for (const std::string& key : keys()) {  // without reading the manifests: this runs after every compile
    struct stat manifest {
    }, image{};
    if (lstat((entry(key) / "manifest.json").c_str(), &manifest) != 0) manifest = {};
    if (lstat((entry(key) / "image").c_str(), &image) != 0) image = {};
    const auto bytes = static_cast<std::uint64_t>(manifest.st_size + image.st_size);
    total += bytes;
    entries.push_back({key, bytes, manifest.st_mtim});
  }
  std::sort(entries.begin(), entries.end(), [](const Used& a, const Used& b) {
    return a.last.tv_sec != b.last.tv_sec ? a.last.tv_sec < b.last.tv_sec : a.last.tv_nsec < b.last.tv_nsec;
  });
  for (const Used& oldest : entries) {
    if (total <= max_bytes) return;
    if (oldest.key == keep) continue;
    remove(oldest.key);
    total -= oldest.bytes;
  }
}

void CacheStore::sweep() const {
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator it(root_ / "temporary", error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const auto written = fs::last_write_time(it->path(), ignored);
    if (!ignored && now - written > std::chrono::hours(1)) fs::remove_all(it->path(), ignored);
  }
}

}  // namespace arbiter
