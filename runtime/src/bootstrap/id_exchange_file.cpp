#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "arbiter/error.hpp"
#include "arbiter/generator/trust.hpp"
#include "bootstrap/id_exchange.hpp"
#include "environment/process_identity.hpp"
#include "memory/file_descriptor.hpp"

namespace arbiter {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds pause{5};
constexpr std::string_view magic = "arbiter rendezvous 1\n";
constexpr std::size_t word_length = 32;
constexpr std::size_t most_bytes = 1U << 20U;

// Content of both kinds of file: magic, then `words`, then, in the answer, the id.
std::optional<std::string> read_own_file(const std::string& path) {
  const FileDescriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info {};
  // In a folder that others may write to, somebody else's file is no message of ours.
  if (!fd || fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid()) return std::nullopt;
  if (info.st_size < 0 || static_cast<std::size_t>(info.st_size) > most_bytes) return std::nullopt;
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = read(fd.get(), text.data() + filled, text.size() - filled);
    if (got <= 0) return std::nullopt;
    filled += static_cast<std::size_t>(got);
  }
  if (!text.starts_with(magic)) return std::nullopt;
  return text.substr(magic.size());
}

// Readers see nothing or everything: written beside, then renamed.
void write_file(const std::string& path, const std::string& content) {
  const std::string temporary = path + "." + random_token();
  const auto fail = [&](const char* what) {
    const std::string reason = std::strerror(errno);
    unlink(temporary.c_str());
    throw Unavailable(std::string("cannot ") + what + " '" + temporary + "' for the ranks to meet: " + reason +
                      "; the folder must exist and be writable");
  };
  const FileDescriptor fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) fail("create");
  const std::string text = std::string(magic) + content;
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail("write");
  if (std::rename(temporary.c_str(), path.c_str()) != 0) fail("rename");
}

// Where others may rename and remove, a file of the right owner proves nothing. A sticky folder (/tmp) is good enough:
// there nobody touches what is ours.
void require_private_folder(const std::string& file) {
  const std::string folder = file.substr(0, file.rfind('/') + 1);
  struct stat info {};
  if (stat(folder.c_str(), &info) != 0) return;  // said when the first file is written
  const std::string why = distrust(info, true);
  if (why.empty()) return;
  throw Unavailable("the ranks cannot meet in '" + folder + "': " + why +
                    "; expected a folder of yours or root's that only its owner may write to");
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// Removes the files it was told about, whatever happens.
class Cleanup {
 public:
  Cleanup() = default;
  Cleanup(const Cleanup&) = delete;
  Cleanup& operator=(const Cleanup&) = delete;
  ~Cleanup() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }
  void add(std::string path) { paths_.push_back(std::move(path)); }
  void forget() { paths_.clear(); }

 private:
  std::vector<std::string> paths_;
};

struct Names {
  std::string base;
  explicit Names(const IdExchange& exchange) {
    std::array<char, 32> job{};
    std::snprintf(job.data(), job.size(), "%016llx", static_cast<unsigned long long>(job_number(exchange.job)));
    base = exchange.rendezvous.substr(std::string("file://").size()) + "." + job.data() + "." +
           std::to_string(exchange.size);
  }
  std::string greeting(int rank) const { return base + ".rank" + std::to_string(rank); }
  std::string answer() const { return base + ".id"; }
};

std::string waited(const IdExchange& exchange) {
  return " within " + std::to_string(exchange.deadline.count()) + " ms at " + exchange.rendezvous +
         "; check that all ranks were started with the same world size and can reach the folder";
}

void answer_all(const IdExchange& exchange, const Names& names, const NcclId& mine, Clock::time_point end) {
  const auto size = static_cast<std::size_t>(exchange.size);
  std::vector<std::string> words(size);     // the latest greeting of every rank
  std::vector<std::string> answered(size);  // what the answer on disk repeats
  std::vector<bool> done(size, false);
  done[0] = true;
  Cleanup cleanup;
  cleanup.add(names.answer());
  unlink(names.answer().c_str());

  while (true) {
    bool changed = false;
    for (std::size_t rank = 1; rank < size; ++rank) {
      if (done[rank]) continue;
      const std::string path = names.greeting(static_cast<int>(rank));
      if (std::optional<std::string> word = read_own_file(path); word && word->size() == word_length) {
        // A greeting that an earlier run left behind is replaced when the rank of this run arrives.
        if (*word != words[rank]) changed = true;
        words[rank] = *word;
      } else if (!answered[rank].empty() && !exists(path)) {
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
      write_file(names.answer(), content);
      answered = words;
    }
    if (Clock::now() >= end) {
      std::string missing;
      for (std::size_t rank = 1; rank < size; ++rank) {
        if (done[rank]) continue;
        missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
        unlink(names.greeting(static_cast<int>(rank)).c_str());
      }
      throw Poisoned("rank 0 was not joined by rank(s) " + missing + waited(exchange));
    }
    std::this_thread::sleep_for(pause);
  }
}

NcclId ask(const IdExchange& exchange, const Names& names, Clock::time_point end) {
  const std::string word = random_token(word_length / 2);
  const std::string path = names.greeting(exchange.rank);
  Cleanup cleanup;
  cleanup.add(path);
  write_file(path, word);
  const std::size_t words_bytes = static_cast<std::size_t>(exchange.size) * word_length;
  while (true) {
    if (const std::optional<std::string> answer = read_own_file(names.answer());
        answer && answer->size() == words_bytes + nccl_id_bytes &&
        answer->compare(static_cast<std::size_t>(exchange.rank) * word_length, word_length, word) == 0) {
      NcclId id;
      std::memcpy(id.bytes.data(), answer->data() + words_bytes, nccl_id_bytes);
      return id;
    }
    // Two processes with one rank overwrite each other's greeting; only one of them can be served.
    if (const std::optional<std::string> seen = read_own_file(path); seen && *seen != word) {
      cleanup.forget();  // the file is the other's
      throw Disagreement("another process greets as rank " + std::to_string(exchange.rank) + " at " +
                         exchange.rendezvous + "; every rank must be started once");
    }
    if (Clock::now() >= end) {
      throw Poisoned("rank " + std::to_string(exchange.rank) + " got no answer from rank 0" + waited(exchange));
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace

NcclId exchange_id_by_file(const IdExchange& exchange, const NcclId& mine) {
  if (exchange.rendezvous.size() <= std::string("file:///").size() || exchange.rendezvous[7] != '/') {
    throw InvalidArgument("'" + exchange.rendezvous + "' is no file; expected file:///absolute/path");
  }
  const Names names(exchange);
  require_private_folder(names.base);
  const Clock::time_point end = Clock::now() + exchange.deadline;
  if (exchange.rank != 0) return ask(exchange, names, end);
  answer_all(exchange, names, mine, end);
  return mine;
}

}  // namespace arbiter
