// Every single byte of a small snapshot, and of a small work database: damaged, the file is refused, or what is read is
// what was written. Small pages, so that there is little that means nothing.
#include <elf.h>

#include <cstring>

#include "arbiter/db/kernels.hpp"
#include "db/fixtures.hpp"
#include "records/contents.hpp"
#include "sqlite/reader.hpp"

namespace arbiter::test {
namespace {

#ifdef ARBITER_SLOW_BUILD
constexpr std::size_t stride = 31;
#else
constexpr std::size_t stride = 1;
#endif

/// The same database in pages of 512 bytes.
std::string in_small_pages(const ScratchDirectory& scratch, const std::string& image) {
  const auto path = scratch / "small.db";
  write_file(path, image);
  db::Connection::open(path, db::Access::write, "small").execute("PRAGMA page_size = 512; VACUUM");
  return read_file(path);
}

/// Calls `read` with every byte changed in one way, a different one for each position; `read` throws DatabaseError or
/// returns what must equal `expected`.
template <typename Read>
void damage_every_byte(const std::string& image, const Read& read) {
  const auto expected = read(image);
  std::size_t refused = 0, tried = 0;
  std::string damaged = image;
  for (std::size_t at = 0; at < image.size(); at += stride) {
    const unsigned flip = at % 3 == 0 ? 0xffU : 1U << at % 8;
    damaged[at] = static_cast<char>(static_cast<unsigned char>(image[at]) ^ flip);
    ++tried;
    try {
      ASSERT_TRUE(read(damaged) == expected) << "byte " << at << " of " << image.size() << " changed what is read";
    } catch (const DatabaseError& error) {
      ++refused;
      EXPECT_CONTAINS(error.what(), "damaged.db");
    }
    damaged[at] = image[at];
  }
  std::printf("%zu bytes, %zu refused\n", tried, refused);
  EXPECT_GT(refused, tried / 4) << "what is not free space means something";
  for (std::size_t size = 0; size < image.size(); size += size < 1024 ? stride : 509) {
    EXPECT_THROW(read(image.substr(0, size)), DatabaseError) << "cut off at " << size;
  }
}

TEST(EveryByteTest, OfASnapshotWithKernels) {
  const ScratchDirectory scratch;
  StoredKernel kernel{std::string(64, 'a'), "trtllm/oneshot_push rank=0", std::string(64, 'b'), {}};
  Elf64_Ehdr header{};  // what every image begins with
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  kernel.kernel.image.assign(reinterpret_cast<const char*>(&header), sizeof header);
  for (int i = 0; i < 700; ++i) kernel.kernel.image += static_cast<char>(i * 37);
  kernel.kernel.entry = "arbiter_kernel";
  kernel.kernel.target = "sm_90a";
  kernel.kernel.resources = {40, 128, 0, 0};
  write_snapshot(scratch / "snapshot.db", {{example_environment(), example_decisions(4)}}, {kernel});
  damage_every_byte(in_small_pages(scratch, read_file(scratch / "snapshot.db")), [](const std::string& bytes) {
    std::string images;
    for (const StoredKernel& stored : read_kernels_from_bytes(bytes, "damaged.db")) {
      images += stored.key + stored.name + stored.source_hash + stored.kernel.entry + stored.kernel.target +
                std::to_string(stored.kernel.resources.registers) + stored.kernel.image;
    }
    return std::pair(read_decisions_from_bytes(bytes, "damaged.db"), images);
  });
}

TEST(EveryByteTest, OfAWorkDatabase) {
  const ScratchDirectory scratch;
  const auto path = scratch / "work.db";
  {
    WorkDatabase database = WorkDatabase::open(path);
    arbiter::Run about;
    about.host = "node0";
    about.command = "arbiter tune";
    const std::string run = database.begin_run(example_environment(), about);
    for (const int number : {0, 1}) {
      const Trial trial = done_trial(64, number);
      database.begin_trial(run, example_environment(), trial.problem, trial.candidate);
      database.finish_trial(run, example_environment(), trial);
    }
    database.begin_trial(run, example_environment(), example_problem(1), example_candidate(2));
    database.replace_decisions(example_environment(), example_decisions(2));
  }
  std::string image;
  db::with_reader(path, [&](db::Connection& view, db::FileKind) { image = view.serialize(); });
  damage_every_byte(in_small_pages(scratch, image), [](const std::string& bytes) {
    db::Connection view = db::connection_to_bytes(bytes, "damaged.db");
    std::optional<db::Connection> migrated;
    return db::load_checked_contents(db::prepare_view(view, migrated));
  });
}

}  // namespace
}  // namespace arbiter::test
