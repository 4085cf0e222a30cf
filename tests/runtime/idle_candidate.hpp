// A candidate that does nothing, for tests of what stands around one.
#pragma once

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::test {

class IdleCandidate : public RunnableCandidate {
 public:
  const CandidateSpec& spec() const noexcept override { return spec_; }
  const Candidate& record() const noexcept override { return record_; }
  Geometry geometry(std::int64_t) const override { return {}; }
  WorkspaceNeeds needs(std::int64_t) const override { return {}; }
  int block_limit() const noexcept override { return 1; }
  void agreed(int) override {}
  void enqueue(const CallTensors&, std::int64_t, StreamHandle) override {}

 private:
  CandidateSpec spec_;
  Candidate record_;
};

}  // namespace arbiter::test
