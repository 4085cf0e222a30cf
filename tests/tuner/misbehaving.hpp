// Faults on purpose.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "arbiter/runtime/candidate.hpp"

namespace arbiter::testing {

/// A candidate that does something else instead of, or besides, what it should.
class Misbehaving : public RunnableCandidate {
 public:
  using Behaviour = std::function<void(RunnableCandidate&, const CallTensors&, std::int64_t elements, StreamHandle)>;
  Misbehaving(std::unique_ptr<RunnableCandidate> real, Behaviour behaviour)
      : real_(std::move(real)), behaviour_(std::move(behaviour)) {}
  const CandidateSpec& spec() const noexcept override { return real_->spec(); }
  const Candidate& record() const noexcept override { return real_->record(); }
  int rounded_legs() const override { return real_->rounded_legs(); }
  std::string refusal() const override { return real_->refusal(); }
  Geometry geometry(std::int64_t tokens) const override { return real_->geometry(tokens); }
  WorkspaceNeeds needs(std::int64_t tokens) const override { return real_->needs(tokens); }
  int block_limit() const noexcept override { return real_->block_limit(); }
  KernelUse use() const override { return real_->use(); }
  void agreed_use(const KernelUse& use) override { real_->agreed_use(use); }
  void agreed(int block_limit) override { real_->agreed(block_limit); }
  void enqueue(const CallTensors& tensors, std::int64_t elements, StreamHandle stream) override {
    behaviour_(*real_, tensors, elements, stream);
  }

 private:
  std::unique_ptr<RunnableCandidate> real_;
  Behaviour behaviour_;
};

}  // namespace arbiter::testing
