#include "conformance/subgroup.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "tuner/ranks.hpp"

namespace arbiter::tuning {
namespace {

/// Runs `body` on threads with a bootstrap each; the exceptions' texts, empty where there was none.
std::vector<std::string> on_bootstraps(int size, const std::function<void(Bootstrap&)>& body) {
  auto bootstraps = make_in_process_bootstraps(size, std::chrono::seconds(20));
  std::vector<std::string> failures(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < bootstraps.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        body(*bootstraps[rank]);
      } catch (const std::exception& error) {
        failures[rank] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures;
}

TEST(Subgroup, MembersExchangeAmongThemselvesInTheirOwnOrder) {
  const auto failures = on_bootstraps(4, [](Bootstrap& parent) {
    Subgroup group(parent, {3, 1});
    EXPECT_EQ(group.member(), parent.rank() % 2 == 1);
    int steps = 0;
    group.together([&](const std::shared_ptr<Bootstrap>& bootstrap) {
      ++steps;
      EXPECT_EQ(bootstrap->size(), 2);
      EXPECT_EQ(bootstrap->rank(), parent.rank() == 3 ? 0 : 1);
      EXPECT_EQ(bootstrap->allgather("rank " + std::to_string(parent.rank())),
                (std::vector<std::string>{"rank 3", "rank 1"}));
      EXPECT_EQ(bootstrap->broadcast(bootstrap->rank() == 1 ? "from the last" : "", 1), "from the last");
      bootstrap->barrier();
      EXPECT_FALSE(bootstrap->all(parent.rank() == 3));
    });
    EXPECT_EQ(steps, group.member() ? 1 : 0);
    Subgroup other(parent, {0, 1, 2});
    other.together([&](const std::shared_ptr<Bootstrap>& bootstrap) { EXPECT_EQ(bootstrap->rank(), parent.rank()); });
  });
  for (const std::string& failure : failures) EXPECT_EQ(failure, "");
}

TEST(Subgroup, AFailingMemberEndsTheStepEverywhere) {
  const auto failures = on_bootstraps(3, [](Bootstrap& parent) {
    Subgroup(parent, {0, 1}).together([&](const std::shared_ptr<Bootstrap>& bootstrap) {
      if (parent.rank() == 1) throw InvalidArgument("a reason");
      bootstrap->barrier();
    });
  });
  EXPECT_EQ(failures[1], "a reason");
  for (const std::size_t rank : {std::size_t{0}, std::size_t{2}}) {
    EXPECT_NE(failures[rank].find("another rank of a sub-group failed"), std::string::npos) << failures[rank];
  }
}

TEST(Subgroup, MembersThatExchangeDifferentThingsAreTold) {
  const auto failures = on_bootstraps(2, [](Bootstrap& parent) {
    Subgroup(parent, {0, 1}).together([&](const std::shared_ptr<Bootstrap>& bootstrap) {
      std::vector<unsigned char> sent(parent.rank() == 0 ? 4 : 8), received(16);
      bootstrap->allgather(sent.data(), sent.size(), received.data());
    });
  });
  for (const std::string& failure : failures) EXPECT_NE(failure.find("different"), std::string::npos) << failure;
}

}  // namespace
}  // namespace arbiter::tuning
