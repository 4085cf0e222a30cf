// What an address in a multicast range stands for, while ranges come and go.
#include "cpu/memory.hpp"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "arbiter/vocabulary.hpp"

namespace arbiter {
namespace {

constexpr std::size_t bytes = 8192;

std::vector<const void*> members_of(MulticastLookup& lookup, const void* address) {
  std::array<const void*, max_world> found{};
  const unsigned count = lookup.members(address, found.data());
  return std::vector<const void*>(found.begin(), found.begin() + count);
}

const void* behind(const void* base, std::size_t offset) { return static_cast<const std::byte*>(base) + offset; }

TEST(MulticastLookup, KnowsTheMembersOfEveryRange) {
  std::array<std::byte, bytes> a{}, b{}, c{};
  const MulticastRange two({a.data(), b.data()}, bytes), one({c.data()}, bytes);
  MulticastLookup lookup;
  using Members = std::vector<const void*>;
  EXPECT_EQ(members_of(lookup, behind(two.address(), 40)), (Members{&a[40], &b[40]}));
  EXPECT_EQ(members_of(lookup, one.address()), (Members{c.data()}));
  EXPECT_EQ(members_of(lookup, a.data()), Members{}) << "plain memory";
}

// Ranges are mapped where earlier ones were. What is known of the old one must not be believed of the new one.
TEST(MulticastLookup, AfterADoubtOnlyWhatIsThereNowIsBelieved) {
  std::array<std::byte, bytes> a{}, b{};
  MulticastLookup lookup;
  std::size_t again = 0;
  const void* before = nullptr;
  for (int i = 0; i < 10; ++i) {
    std::array<std::byte, bytes>& member = i % 2 == 0 ? a : b;
    const MulticastRange range({member.data()}, bytes);
    if (range.address() == before) ++again;
    before = range.address();
    lookup.doubt();
    EXPECT_EQ(members_of(lookup, behind(range.address(), 8)), (std::vector<const void*>{&member[8]})) << i;
  }
  EXPECT_GT(again, 0U) << "no address was used twice, so nothing was tested";
  lookup.doubt();
  EXPECT_TRUE(members_of(lookup, before).empty()) << "the last range is gone";
}

}  // namespace
}  // namespace arbiter
