// Every single-byte change and every truncation of a snapshot is an error or changes nothing. Never a crash, and never
// another decision.
#include <random>

#include "db/fixtures.hpp"

namespace arbiter::test {
namespace {

class CorruptionTest : public ::testing::Test {
 protected:
  CorruptionTest() {
    ScratchDirectory scratch;
    WorkDatabase database = WorkDatabase::open(scratch / "work.db");
    database.replace_decisions(example_environment(), example_decisions(20));
    database.write_snapshot(scratch / "snapshot.db");
    expected = database.decisions();
    image = read_file(scratch / "snapshot.db");
  }

  /// True if it was refused, false if it read correctly; fails the test for anything else.
  bool refused(const std::string& bytes, const std::string& what) {
    try {
      EXPECT_EQ(read_decisions_from_bytes(bytes, "damaged.db"), expected) << what;
      return false;
    } catch (const DatabaseError& error) {
      EXPECT_CONTAINS(error.what(), "damaged.db");
      return true;
    }
  }

  std::string image;
  std::vector<DecisionSet> expected;
};

#ifdef ARBITER_SLOW_BUILD
constexpr std::size_t stride = 37;
#else
constexpr std::size_t stride = 7;
#endif

TEST_F(CorruptionTest, EveryByte) {
  int errors = 0;
  int total = 0;
  for (const unsigned flip : {0x01U, 0x80U, 0xffU}) {
    // A prime stride and a different start per pattern; the pages that hold rows are dense, the rest is free space.
    for (std::size_t at = flip % stride; at < image.size(); at += stride) {
      if (image[at] == 0 && at % 4096 > 200 && at % 7 != 0) continue;
      std::string damaged = image;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(damaged[at]) ^ flip);
      errors += refused(damaged, "byte " + std::to_string(at)) ? 1 : 0;
      ++total;
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(errors, total / 4) << "most changes hit something";
  EXPECT_LT(errors, total) << "some bytes mean nothing";
}

TEST_F(CorruptionTest, EveryTruncation) {
  for (std::size_t size = 0; size < image.size(); size += size < 200 ? 1 : 61) {
    EXPECT_TRUE(refused(image.substr(0, size), "size " + std::to_string(size)));
  }
  EXPECT_TRUE(refused(image.substr(0, image.size() - 1), "one byte short"));
  EXPECT_TRUE(refused(image.substr(0, image.size() - 4096), "one page short"));
  EXPECT_TRUE(refused(image + "x", "one byte long"));
}

TEST_F(CorruptionTest, ZeroedAndSwappedPages) {
  const std::size_t pages = image.size() / 4096;
  for (std::size_t page = 0; page < pages; ++page) {
    std::string damaged = image;
    damaged.replace(page * 4096, 4096, 4096, '\0');
    refused(damaged, "zeroed page " + std::to_string(page));
    for (std::size_t other = page + 1; other < pages; ++other) {
      damaged = image;
      damaged.replace(page * 4096, 4096, image, other * 4096, 4096);
      refused(damaged, "page " + std::to_string(page) + " is a copy of " + std::to_string(other));
    }
  }
}

TEST_F(CorruptionTest, RandomDamage) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string damaged = image;
    const int hits = 1 + static_cast<int>(random() % 40);
    for (int i = 0; i < hits; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
    refused(damaged, "round " + std::to_string(round));
  }
}

TEST_F(CorruptionTest, RandomBytes) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::string garbage(random() % 10'000, '\0');
    for (char& c : garbage) c = static_cast<char>(random());
    EXPECT_TRUE(refused(garbage, "garbage"));
    // The same behind a header that promises a database.
    garbage.replace(0, std::min<std::size_t>(100, garbage.size()), image, 0, 100);
    EXPECT_TRUE(refused(garbage, "garbage behind a header"));
  }
}

TEST_F(CorruptionTest, DamagedFilesOnDiskAreRefusedToo) {
  ScratchDirectory scratch;
  const auto path = scratch / "damaged.db";
  for (std::size_t at = 0; at < image.size(); at += 397) {
    std::string damaged = image;
    damaged[at] = static_cast<char>(~damaged[at]);
    write_file(path, damaged);
    try {
      EXPECT_EQ(read_decisions(path), expected) << at;
    } catch (const DatabaseError& error) {
      EXPECT_CONTAINS(error.what(), "damaged.db");
    }
    EXPECT_EQ(read_file(path), damaged) << "nothing is overwritten";
  }
  for (const std::size_t size : {1UL, 99UL, 100UL, 4095UL, 4096UL, image.size() - 4096, image.size() - 1}) {
    write_file(path, image.substr(0, size));
    EXPECT_CONTAINS(message_of([&] { read_decisions(path); }), "damaged.db");
    EXPECT_CONTAINS(message_of([&] {
                      read_for_broadcast(path);
                      read_decisions_from_bytes(read_for_broadcast(path), "damaged.db");
                    }),
                    "damaged.db");
  }
  EXPECT_EQ(contents(scratch.path()).size(), 1U);
}

}  // namespace
}  // namespace arbiter::test
