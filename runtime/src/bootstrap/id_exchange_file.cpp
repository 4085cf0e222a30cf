// Ranks of one host meet in a private folder beside the path of the rendezvous. It is made by whoever comes first and
// removed by whoever leaves last.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/folder.hpp"
#include "arbiter/generator/joined.hpp"
#include "arbiter/generator/whole_files.hpp"
#include "bootstrap/id_exchange.hpp"
#include "environment/process_identity.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds pause{5};
// Content of both kinds of file: magic, then `words`, then, in the answer, the id.
constexpr std::string_view magic = "arbiter rendezvous 2\n";
constexpr std::size_t word_length = 32;

std::string greeting_of(int rank) { return fmt::format("rank{}", rank); }
constexpr const char* answer_name = "id";

/// The folder, opened anew for each operation: a run that ends at this moment may remove an empty one.
class MeetingPlace {
 public:
  explicit MeetingPlace(const IdExchange& exchange) {
    std::array<char, 32> job{};
    std::snprintf(job.data(), job.size(), "%016llx", static_cast<unsigned long long>(job_number(exchange.job)));
    path_ =
        fmt::format("{}.{}.{}", exchange.rendezvous.substr(std::string("file://").size()), job.data(), exchange.size);
    open();  // now, where a refusal has no files to remove
  }
  MeetingPlace(const MeetingPlace&) = delete;
  MeetingPlace& operator=(const MeetingPlace&) = delete;
  ~MeetingPlace() {
    for (const std::string& name : mine_) remove(name);
    if (const FileDescriptor parent = parent_folder())
      unlinkat(parent.get(), path_.filename().c_str(), AT_REMOVEDIR);  // unless others still are in it
  }

  /// Nothing if it is not there, is another's, no regular file, or has another length. Never waits.
  std::optional<std::string> read(const std::string& name, std::size_t length) const {
    const FileDescriptor folder = open();
    const FileDescriptor fd(openat(folder.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat info {};
    if (!fd || fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid()) return std::nullopt;
    if (info.st_size < 0 || static_cast<std::size_t>(info.st_size) != magic.size() + length) return std::nullopt;
    std::string text(magic.size() + length, '\0');
    if (!read_all(fd.get(), text) || !text.starts_with(magic)) return std::nullopt;
    return text.substr(magic.size());
  }

  /// Readers see nothing or everything: written beside, then renamed. Removed at the end.
  void write(const std::string& name, const std::string& content) {
    const std::string temporary = name + "." + random_token();
    FileDescriptor folder, fd;
    for (int attempt = 0; !fd && attempt < 100; ++attempt) {
      folder = open();
      fd = FileDescriptor(
          openat(folder.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
      if (!fd && errno != ENOENT) break;
    }
    const auto fail = [&](const char* what) {
      const std::string reason = std::strerror(errno);
      unlinkat(folder.get(), temporary.c_str(), 0);
      throw Unavailable(std::string("cannot ") + what + " '" + (path_ / temporary).string() +
                        "' for the ranks to meet: " + reason + "; the folder must be writable");
    };
    if (!fd) fail("create");
    if (!write_all(fd.get(), std::string(magic) + content)) fail("write");
    if (renameat(folder.get(), temporary.c_str(), folder.get(), name.c_str()) != 0) fail("rename");
    mine_.push_back(name);
  }

  bool has(const std::string& name) const {
    struct stat info {};
    return fstatat(open().get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  }
  void remove(const std::string& name) const noexcept {
    const FileDescriptor parent = parent_folder();
    if (const FileDescriptor folder = open_folder(parent, path_.filename())) unlinkat(folder.get(), name.c_str(), 0);
  }
  /// What is there under these names now is another's.
  void forget() { mine_.clear(); }

 private:
  FileDescriptor parent_folder() const noexcept {
    return FileDescriptor(::open(path_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }

  FileDescriptor open() const {
    const auto refuse = [](const std::filesystem::path& path, const std::string& why) {
      throw Unavailable("the ranks cannot meet in '" + path.string() + "': " + why +
                        "; expected a folder of yours or root's that only its owner may write to");
    };
    // Where others may rename and remove, a folder of the right owner proves nothing. A sticky one (/tmp) is good
    // enough to hold ours: there nobody touches it.
    FolderResult parent = open_trusted_folder(path_.parent_path());
    if (!parent.untrusted.empty()) refuse(path_.parent_path(), parent.untrusted);
    if (!parent.folder) refuse(path_.parent_path(), std::strerror(errno));
    for (int attempt = 0; attempt < 100; ++attempt) {
      if (!make_private_folder(parent.folder, path_.filename())) refuse(path_, std::strerror(errno));
      FolderResult folder = open_trusted_folder(parent.folder, path_.filename());
      if (!folder.untrusted.empty()) refuse(path_.parent_path(), folder.untrusted);
      if (folder.folder) return std::move(folder.folder);
      if (errno != ENOENT) break;
    }
    refuse(path_, std::strerror(errno));
    return {};
  }

  std::filesystem::path path_;
  std::vector<std::string> mine_;
};

std::string waited(const IdExchange& exchange) {
  return fmt::format(
      " within {} ms at {}; check that all ranks were started with the same world size and can reach the folder",
      exchange.deadline.count(), exchange.rendezvous);
}

void answer_all(const IdExchange& exchange, MeetingPlace& place, const NcclId& mine, Clock::time_point end) {
  const auto size = static_cast<std::size_t>(exchange.size);
  std::vector<std::string> words(size);     // the latest greeting of every rank
  std::vector<std::string> answered(size);  // what the answer on disk repeats
  std::vector<bool> done(size, false);
  done[0] = true;
  place.remove(answer_name);

  while (true) {
    bool changed = false;
    for (std::size_t rank = 1; rank < size; ++rank) {
      if (done[rank]) continue;
      const std::string greeting = greeting_of(static_cast<int>(rank));
      if (std::optional<std::string> word = place.read(greeting, word_length)) {
        // A greeting that an earlier run left behind is replaced when the rank of this run arrives.
        if (*word != words[rank]) changed = true;
        words[rank] = *word;
      } else if (!answered[rank].empty() && !place.has(greeting)) {
        done[rank] = true;  // it took its greeting back: it has the id
      }
    }
    if (std::find(done.begin(), done.end(), false) == done.end()) return;
    if (changed) {
      std::string content;
      for (std::size_t rank = 0; rank < size; ++rank) {
        content += words[rank].empty() ? std::string(word_length, '-') : words[rank];
      }
      content.append(mine.bytes.data(), mine.bytes.size());
      place.write(answer_name, content);
      answered = words;
    }
    if (exchange.time->now() >= end) {
      std::vector<std::size_t> missing;
      for (std::size_t rank = 1; rank < size; ++rank) {
        if (done[rank]) continue;
        missing.push_back(rank);
        place.remove(greeting_of(static_cast<int>(rank)));
      }
      throw Poisoned("rank 0 was not joined by rank(s) " + joined(missing, ", ") + waited(exchange));
    }
    exchange.time->wait({}, exchange.time->now() + pause);
  }
}

NcclId ask(const IdExchange& exchange, MeetingPlace& place, Clock::time_point end) {
  const std::string word = random_token(word_length / 2);
  const std::string greeting = greeting_of(exchange.rank);
  place.write(greeting, word);
  const std::size_t words_bytes = static_cast<std::size_t>(exchange.size) * word_length;
  while (true) {
    if (const std::optional<std::string> answer = place.read(answer_name, words_bytes + nccl_id_bytes);
        answer && answer->compare(static_cast<std::size_t>(exchange.rank) * word_length, word_length, word) == 0) {
      NcclId id;
      std::memcpy(id.bytes.data(), answer->data() + words_bytes, nccl_id_bytes);
      return id;
    }
    // Two processes with one rank overwrite each other's greeting; only one of them can be served.
    if (const std::optional<std::string> seen = place.read(greeting, word_length); seen && *seen != word) {
      place.forget();
      throw Disagreement(fmt::format("another process greets as rank {} at {}; every rank must be started once",
                                     exchange.rank, exchange.rendezvous));
    }
    if (exchange.time->now() >= end) {
      throw Poisoned(fmt::format("rank {} got no answer from rank 0{}", exchange.rank, waited(exchange)));
    }
    exchange.time->wait({}, exchange.time->now() + pause);
  }
}

}  // namespace

NcclId exchange_id_by_file(const IdExchange& exchange, const NcclId& mine) {
  if (exchange.rendezvous.size() <= std::string("file:///").size() || exchange.rendezvous[7] != '/' ||
      exchange.rendezvous.back() == '/') {
    throw InvalidArgument("'" + exchange.rendezvous + "' is no file; expected file:///absolute/path");
  }
  const Clock::time_point end = exchange.time->now() + exchange.deadline;
  MeetingPlace place(exchange);
  if (exchange.rank != 0) return ask(exchange, place, end);
  answer_all(exchange, place, mine, end);
  return mine;
}

}  // namespace arbiter
