// Bootstraps: what they exchange, and what happens when ranks disagree, are late or leave.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"

namespace arbiter {
namespace {

using namespace std::chrono_literals;
using Bootstraps = std::vector<std::unique_ptr<Bootstrap>>;

/// Runs body(rank's bootstrap) on one thread per rank; returns what each rank threw, "" for nothing.
std::vector<std::string> on_all_ranks(Bootstraps& ranks, const std::function<void(std::unique_ptr<Bootstrap>&)>& body) {
  std::vector<std::string> errors(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    threads.emplace_back([&, r] {
      try {
        body(ranks[r]);
      } catch (const Disagreement& error) {
        errors[r] = std::string("Disagreement: ") + error.what();
      } catch (const Poisoned& error) {
        errors[r] = std::string("Poisoned: ") + error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return errors;
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "expected '" << part << "' in: " << text;
}

TEST(InProcessBootstrap, ExchangesInRankOrderManyTimes) {
  for (const int size : {1, 2, 5, 16}) {
    Bootstraps ranks = make_in_process_bootstraps(size, 20s);
    const auto errors = on_all_ranks(ranks, [&](std::unique_ptr<Bootstrap>& b) {
      EXPECT_EQ(b->size(), size);
      EXPECT_EQ(b->name(), "in_process");
      for (int round = 0; round < 200; ++round) {
        const int mine = b->rank() * 1000 + round;
        std::vector<int> all(static_cast<std::size_t>(size), -1);
        b->allgather(&mine, sizeof(mine), all.data());
        for (int r = 0; r < size; ++r) ASSERT_EQ(all[static_cast<std::size_t>(r)], r * 1000 + round);
        int shared = b->rank() == round % size ? round + 7 : -1;
        b->broadcast(&shared, sizeof(shared), round % size);
        ASSERT_EQ(shared, round + 7);
        if (round % 3 == 0) b->barrier();
      }
    });
    for (const std::string& error : errors) EXPECT_EQ(error, "");
  }
}

TEST(InProcessBootstrap, BarrierWaitsForTheLast) {
  Bootstraps ranks = make_in_process_bootstraps(4, 20s);
  std::atomic<int> arrived{0};
  on_all_ranks(ranks, [&](std::unique_ptr<Bootstrap>& b) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * b->rank()));
    ++arrived;
    b->barrier();
    EXPECT_EQ(arrived, 4);
  });
}

TEST(InProcessBootstrap, ConveniencesCarryTextsOfAnyLength) {
  Bootstraps ranks = make_in_process_bootstraps(3, 20s);
  on_all_ranks(ranks, [&](std::unique_ptr<Bootstrap>& b) {
    const std::string mine(static_cast<std::size_t>(b->rank()) * 5000, static_cast<char>('a' + b->rank()));
    const auto texts = b->allgather(mine);
    ASSERT_EQ(texts.size(), 3U);
    EXPECT_EQ(texts[0], "");
    EXPECT_EQ(texts[2], std::string(10000, 'c'));
    EXPECT_EQ(b->allgather(std::string{}), (std::vector<std::string>(3)));
    EXPECT_EQ(b->allgather(std::string("a\0b", 3))[1], std::string("a\0b", 3));
    EXPECT_EQ(b->broadcast(b->rank() == 2 ? std::string("from two") : std::string("ignored"), 2), "from two");
    EXPECT_EQ(b->broadcast(std::string{}, 0), "");
    EXPECT_TRUE(b->all(true));
    EXPECT_FALSE(b->all(b->rank() != 1));
    EXPECT_FALSE(b->all(false));
  });
}

TEST(InProcessBootstrap, DifferentByteCountsAreADisagreementOnEveryRank) {
  Bootstraps ranks = make_in_process_bootstraps(3, 20s);
  auto errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) {
    std::vector<char> buffer(64);
    b->allgather(buffer.data(), b->rank() == 2 ? 16 : 8, buffer.data() + 16);
  });
  for (const std::string& error : errors) {
    expect_contains(error, "Disagreement");
    expect_contains(error, "rank 0 allgather of 8 bytes, rank 2 allgather of 16 bytes");
  }
  // The ranks are still in step.
  errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) { EXPECT_TRUE(b->all(true)); });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(InProcessBootstrap, DifferentCallsAreADisagreement) {
  Bootstraps ranks = make_in_process_bootstraps(2, 20s);
  auto errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) {
    int value = 0;
    if (b->rank() == 0) b->barrier();
    if (b->rank() == 1) b->broadcast(&value, sizeof(value), 0);
  });
  for (const std::string& error : errors)
    expect_contains(error, "rank 0 barrier, rank 1 broadcast of 4 bytes from rank 0");
  errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) {
    int value = 0;
    b->broadcast(&value, sizeof(value), b->rank());
  });
  for (const std::string& error : errors) expect_contains(error, "from rank 1");
}

TEST(InProcessBootstrap, ALateRankPoisonsEverybodyByTheDeadline) {
  // Real time: what the other one may need to arrive, on a busy machine.
  Bootstraps ranks = make_in_process_bootstraps(4, 700ms);
  std::atomic<int> told = 0;
  const auto errors = on_all_ranks(ranks, [&](std::unique_ptr<Bootstrap>& b) {
    const bool late = b->rank() == 1 || b->rank() == 3;
    while (late && told < 2) std::this_thread::sleep_for(1ms);
    const std::shared_ptr<void> at_the_end(nullptr, [&](void*) { ++told; });
    b->barrier();
  });
  for (const std::string& error : errors) {
    expect_contains(error, "Poisoned");
    expect_contains(error, "waited 700 ms in barrier for rank 1, 3");
  }
}

TEST(InProcessBootstrap, ADestroyedPeerWakesTheOthersAtOnce) {
  Bootstraps ranks = make_in_process_bootstraps(3, 1h);  // not what wakes them
  const auto errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) {
    b->barrier();
    if (b->rank() == 1) {
      std::this_thread::sleep_for(20ms);  // so that they wait, mostly; it is right either way
      b.reset();
      return;
    }
    int value = 0;
    std::vector<int> all(3);
    b->allgather(&value, sizeof(value), all.data());
  });
  EXPECT_EQ(errors[1], "");
  for (const std::size_t r : {std::size_t{0}, std::size_t{2}}) {
    expect_contains(errors[r], "Poisoned");
    expect_contains(errors[r], "the bootstrap of rank 1 was destroyed");
  }
  EXPECT_THROW(ranks[0]->barrier(), Poisoned) << "and stays poisoned";
}

TEST(InProcessBootstrap, LeavingAfterTheLastCallIsFine) {
  for (int i = 0; i < 100; ++i) {
    Bootstraps ranks = make_in_process_bootstraps(4, 20s);
    const auto errors = on_all_ranks(ranks, [](std::unique_ptr<Bootstrap>& b) {
      b->barrier();
      b.reset();
    });
    for (const std::string& error : errors) ASSERT_EQ(error, "");
  }
}

TEST(InProcessBootstrap, RefusesBadSizesAndRoots) {
  EXPECT_THROW(make_in_process_bootstraps(0), InvalidArgument);
  EXPECT_THROW(make_in_process_bootstraps(-3), InvalidArgument);
  Bootstraps ranks = make_in_process_bootstraps(1);
  int value = 0;
  EXPECT_THROW(ranks[0]->broadcast(&value, sizeof(value), 1), InvalidArgument);
  EXPECT_THROW(ranks[0]->broadcast(&value, sizeof(value), -1), InvalidArgument);
}

BootstrapCallbacks lonely() {
  BootstrapCallbacks callbacks;
  callbacks.allgather = [](const void* send, std::size_t bytes, void* receive) { std::memcpy(receive, send, bytes); };
  callbacks.broadcast = [](void*, std::size_t, int) {};
  callbacks.barrier = [] {};
  return callbacks;
}

TEST(CallbacksBootstrap, ForwardsToTheHostProgram) {
  BootstrapCallbacks callbacks = lonely();
  int barriers = 0;
  callbacks.barrier = [&] { ++barriers; };
  const auto bootstrap = make_callbacks_bootstrap(callbacks);
  EXPECT_EQ(bootstrap->name(), "callbacks");
  EXPECT_EQ(bootstrap->rank(), 0);
  EXPECT_EQ(bootstrap->size(), 1);
  bootstrap->barrier();
  EXPECT_EQ(barriers, 1);
  EXPECT_EQ(bootstrap->allgather(std::string("x")), std::vector<std::string>{"x"});
  EXPECT_EQ(bootstrap->broadcast(std::string("y"), 0), "y");
  EXPECT_TRUE(bootstrap->all(true));
  EXPECT_FALSE(bootstrap->all(false));
}

TEST(CallbacksBootstrap, ExceptionsPassThrough) {
  struct Special {};
  BootstrapCallbacks callbacks = lonely();
  callbacks.barrier = [] { throw Special{}; };
  EXPECT_THROW(make_callbacks_bootstrap(callbacks)->barrier(), Special);
}

TEST(CallbacksBootstrap, RefusesBadRanksAndMissingFunctions) {
  const auto message = [](const std::function<void(BootstrapCallbacks&)>& change) -> std::string {
    BootstrapCallbacks callbacks = lonely();
    change(callbacks);
    try {
      make_callbacks_bootstrap(callbacks);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "accepted";
  };
  expect_contains(message([](auto& c) { c.rank = 1; }), "rank 1 is not in a group of 1");
  expect_contains(message([](auto& c) { c.rank = -1; }), "rank -1");
  expect_contains(message([](auto& c) { c.size = 0; }), "at least one rank");
  expect_contains(message([](auto& c) { c.allgather = nullptr; }), "without allgather");
  expect_contains(message([](auto& c) { c.broadcast = nullptr; }), "without broadcast");
  expect_contains(message([](auto& c) { c.barrier = nullptr; }), "without barrier");
  expect_contains(message([](auto& c) { c.allgather = nullptr, c.barrier = nullptr; }), "without allgather, barrier");
  EXPECT_THROW(make_callbacks_bootstrap(lonely())->broadcast(nullptr, 0, 5), InvalidArgument);
}

TEST(Conveniences, AnImplausibleLengthIsRefusedInsteadOfAllocated) {
  BootstrapCallbacks callbacks = lonely();
  callbacks.size = 2;
  callbacks.allgather = [](const void*, std::size_t bytes, void* receive) { std::memset(receive, 0x7F, 2 * bytes); };
  EXPECT_THROW(make_callbacks_bootstrap(callbacks)->allgather(std::string("x")), Disagreement);
  callbacks.rank = 1;
  callbacks.broadcast = [](void* data, std::size_t bytes, int) { std::memset(data, 0x7F, bytes); };
  EXPECT_THROW(make_callbacks_bootstrap(callbacks)->broadcast(std::string("x"), 0), Disagreement);
}

}  // namespace
}  // namespace arbiter
