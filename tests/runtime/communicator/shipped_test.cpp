// What is shipped must name candidates that this catalogue still has: others would be dead weight.
#include <gtest/gtest.h>

#include "arbiter/db/database.hpp"
#include "arbiter/runtime/candidate.hpp"

namespace arbiter {
namespace {

TEST(Shipped, EveryCandidateIsStillInTheCatalogue) {
  for (const DecisionSet& set : shipped_decisions()) {
    for (const Decision& decision : set.decisions) {
      const ProblemFamily family{decision.pattern, decision.dtype, decision.hidden, decision.tokens_max, decision.mode};
      try {
        const CandidateSpec spec =
            CandidateSpec::parse(Catalogue::builtin(), decision.candidate.name, family, decision.world);
        EXPECT_EQ(spec.name(), decision.candidate.name);
        EXPECT_EQ(spec.backend(), decision.candidate.backend);
        EXPECT_EQ(spec.algorithm(), decision.candidate.algorithm);
      } catch (const Error& error) {
        ADD_FAILURE() << decision.candidate.name << " for " << decision.pattern << " on " << decision.world
                      << " ranks of " << set.environment.gpu_name << ": " << error.what()
                      << "\nTune again and renew db/defaults (docs/tuning.md), or remove the row.";
      }
    }
  }
}

}  // namespace
}  // namespace arbiter
