// Ranks that do not agree get the same error, all of them, and nobody hangs.
#include <gtest/gtest.h>

#include <atomic>

#include "arbiter/error.hpp"
#include "group/collective.hpp"
#include "runtime/communicator_fixture.hpp"

namespace arbiter {
namespace {

using test::quiet_options;
using test::RankContext;
using test::run_ranks;

/// Every rank must throw an E whose message contains `text`.
template <class E>
void expect_on_every_rank(int size, const char* text, const std::function<void(RankContext&)>& body) {
  std::atomic<int> refused = 0;
  run_ranks(size, [&](RankContext& context) {
    const std::string message = test::message_of<E>([&] { body(context); });
    EXPECT_NE(message.find(text), std::string::npos) << "rank " << context.rank << ": " << message;
    refused += 1;
  });
  EXPECT_EQ(refused, size);
}

TEST(Disagreement, DifferentFamilies) {
  expect_on_every_rank<Disagreement>(3, "max_tokens=9", [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const std::vector<ProblemFamily> families = {
        {"allreduce", Dtype::bf16, 64, context.rank == 1 ? 9 : 8, Mode::graph}};
    communicator.prepare(families);
  });
}

TEST(Disagreement, DifferentNumbersOfFamilies) {
  expect_on_every_rank<Disagreement>(2, "number of families: rank 0: 1; rank 1: 2", [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    std::vector<ProblemFamily> families = {{"allreduce", Dtype::bf16, 64, 8, Mode::graph}};
    if (context.rank == 1) families.push_back(families.front());
    communicator.prepare(families);
  });
}

TEST(Disagreement, AFamilyThatOnlyOneRankCannotHaveIsRefusedOnAll) {
  run_ranks(2, [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.device, quiet_options());
    const std::vector<ProblemFamily> bad = {{"allreduce", Dtype::bf16, context.rank == 0 ? 0 : 64, 8, Mode::graph}};
    const std::string message = test::message_of<InvalidArgument>([&] { communicator.prepare(bad); });
    EXPECT_EQ(message.find("rank 0 could not prepare") == std::string::npos, context.rank == 0) << message;
    // Nothing is half-done: the same communicator prepares something else.
    const std::vector<ProblemFamily> good = {{"allreduce", Dtype::bf16, 64, 8, Mode::graph}};
    communicator.prepare(good);
    EXPECT_TRUE(communicator.can_use({"allreduce", Dtype::bf16, 64, 8, 2, Mode::graph, false}));
  });
}

TEST(Disagreement, DifferentDecisions) {
  expect_on_every_rank<Disagreement>(2, "decisions given by the caller", [](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    if (context.rank == 1) {
      Decision decision;
      decision.pattern = "allreduce";
      decision.hidden = 64;
      decision.world = 2;
      decision.tokens_min = 1;
      decision.tokens_max = 8;
      options.decisions = share_decisions({{Environment{}, {decision}}});
    }
    Communicator communicator(context.bootstrap, context.device, options);
  });
}

/// What kernels are held against, and who serves in a winner's place, decide too.
TEST(Disagreement, DecisionsThatDifferInWhatTheirKernelsUsed) {
  for (void (*change)(Decision&) : {+[](Decision& decision) {
                                      decision.use = {72, 0};
                                    },
                                    +[](Decision& decision) {
                                      decision.runner_up_use = {64, 8};
                                    },
                                    +[](Decision& decision) { decision.runner_up->name += ",vectors=2"; }}) {
    expect_on_every_rank<Disagreement>(2, "decisions given by the caller", [&](RankContext& context) {
      Decision decision;
      decision.pattern = "allreduce";
      decision.hidden = 64;
      decision.world = 2;
      decision.tokens_min = 1;
      decision.tokens_max = 8;
      decision.use = {64, 0};
      decision.runner_up.emplace().name = "trtllm/oneshot_push:threads=256";
      if (context.rank == 1) (*change)(decision);
      CommunicatorOptions options = quiet_options();
      options.decisions = share_decisions({{Environment{}, {decision}}});
      Communicator communicator(context.bootstrap, context.device, options);
    });
  }
}

TEST(Disagreement, DifferentCatalogues) {
  expect_on_every_rank<Disagreement>(2, "catalogue", [](RankContext& context) {
    GroupOptions options = test::quiet_group_options();
    if (context.rank == 1) {  // the same, but for a blank
      std::string text(builtin_templates().at("catalogue.json"));
      options.catalogue = std::make_shared<const Catalogue>(Catalogue::parse(text + "\n"));
    }
    make_group(context.bootstrap, context.device, options);
  });
}

TEST(Disagreement, DifferentOptions) {
  expect_on_every_rank<Disagreement>(2, "backend (ARBITER_BACKEND): rank 0: auto; rank 1: mnnvl",
                                     [](RankContext& context) {
                                       CommunicatorOptions options = quiet_options();
                                       if (context.rank == 1) options.variables.backend = Backend::mnnvl;
                                       Communicator communicator(context.bootstrap, context.device, options);
                                     });
  expect_on_every_rank<Disagreement>(2, "timeout", [](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.variables.timeout += std::chrono::seconds(context.rank);
    Communicator communicator(context.bootstrap, context.device, options);
  });
}

TEST(Disagreement, ANullDeviceOnOneRankIsRefusedOnAll) {
  expect_on_every_rank<InvalidArgument>(2, "it is null", [](RankContext& context) {
    Communicator communicator(context.bootstrap, context.rank == 1 ? nullptr : context.device, quiet_options());
  });
}

TEST(Disagreement, AMissingDatabaseIsNoError) {
  run_ranks(2, [](RankContext& context) {
    CommunicatorOptions options = quiet_options();
    options.decisions.reset();
    options.variables.db = context.rank == 0 ? "/nonexistent/arbiter.db" : "/also/nonexistent.db";
    Communicator communicator(context.bootstrap, context.device, options);
    const std::vector<ProblemFamily> families = {{"allreduce", Dtype::bf16, 64, 8, Mode::graph}};
    communicator.prepare(families);
    EXPECT_EQ(communicator.explain({"allreduce", Dtype::bf16, 64, 8, 2, Mode::graph, false}).rule, Rule::heuristic);
  });
}

TEST(Collective, EverywhereKeepsTheKindOfTheError) {
  run_ranks(3, [](RankContext& context) {
    Bootstrap& bootstrap = *context.bootstrap;
    EXPECT_NO_THROW(everywhere(bootstrap, "do nothing", [] {}));
    const auto fail_on = [&](int rank, const std::function<void()>& action) {
      everywhere(bootstrap, "try", [&] {
        if (context.rank == rank) action();
      });
    };
    EXPECT_THROW(fail_on(0, [] { throw CompileError("x"); }), CompileError);
    EXPECT_THROW(fail_on(1, [] { throw Poisoned("x"); }), Poisoned);
    EXPECT_THROW(fail_on(2, [] { throw DatabaseError("x"); }), DatabaseError);
    const std::string message =
        test::message_of<Unavailable>([&] { fail_on(2, [] { throw Unavailable("no: memory"); }); });
    EXPECT_EQ(message, context.rank == 2 ? "no: memory" : "rank 2 could not try: no: memory");
  });
}

TEST(Collective, PackSurvivesAnyBytesAndUnpackRefusesAnythingElse) {
  const std::vector<std::string> fields = {"", "a", std::string("\0:7\n", 4), std::string(1000, 'x')};
  EXPECT_EQ(unpack(pack(fields)), fields);
  EXPECT_TRUE(unpack("").empty());
  for (const char* broken : {"x", "3:ab", ":", "1", "-1:a", "99999999999999999999:a", "2:ab1"}) {
    EXPECT_THROW(unpack(broken), Disagreement) << broken;
  }
}

}  // namespace
}  // namespace arbiter
