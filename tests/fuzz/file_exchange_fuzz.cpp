// What lies in the folder where ranks meet: no rank takes an id from it, and no deadline is missed.
//   input: a byte of choices, then the content of what is in the way
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "bootstrap/id_exchange.hpp"

namespace {

namespace fs = std::filesystem;

/// A file, a link to one, a pipe, or a folder.
void put(const fs::path& path, unsigned kind, const std::string& content) {
  fs::remove_all(path);
  const fs::path elsewhere = path.parent_path().parent_path() / "elsewhere";
  switch (kind & 7U) {
    case 5:
      std::ofstream(elsewhere, std::ios::binary) << content;
      fs::create_symlink(elsewhere, path);
      return;
    case 6:
      mkfifo(path.c_str(), 0600);
      return;
    case 7:
      fs::create_directory(path);
      return;
    default:
      std::ofstream(path, std::ios::binary) << content;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace arbiter;
  if (size == 0) return 0;
  static const TemporaryFolder folder;
  IdExchange exchange;
  exchange.rendezvous = "file://" + (folder.path() / "meet").string();
  exchange.job = "job";
  exchange.size = 2;
  exchange.deadline = std::chrono::milliseconds(0);
  char job[32];
  std::snprintf(job, sizeof job, "%016llx", static_cast<unsigned long long>(job_number(exchange.job)));
  const fs::path place = folder.path() / ("meet." + std::string(job) + ".2");
  fs::create_directories(place);
  fs::permissions(place, fs::perms::owner_all);
  const std::string content(reinterpret_cast<const char*>(data) + 1, size - 1);
  exchange.rank = data[0] >> 7U;
  put(place / (exchange.rank == 0 ? "rank1" : "id"), data[0], content);
  try {
    (void)exchange_id(exchange, NcclId{});
    std::abort();  // nobody else was there
  } catch (const Poisoned&) {
  } catch (const Unavailable&) {
  }
  return 0;
}
