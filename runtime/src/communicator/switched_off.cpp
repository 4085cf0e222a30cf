#include "communicator/switched_off.hpp"

#include "arbiter/error.hpp"

namespace arbiter {
namespace {

class SwitchedOff final : public RunnableCandidate {
 public:
  explicit SwitchedOff(const ProblemFamily& family) : pattern_(family.pattern) {
    record_.algorithm = record_.name = "off";
  }
  const CandidateSpec& spec() const noexcept override { return spec_; }
  const Candidate& record() const noexcept override { return record_; }
  std::string refusal() const override { return "Arbiter is switched off"; }
  Geometry geometry(std::int64_t) const override { return {}; }
  WorkspaceNeeds needs(std::int64_t) const override { return {}; }
  int block_limit() const noexcept override { return 0; }
  void agreed(int) override {}
  void enqueue(const CallTensors&, std::int64_t, StreamHandle) override {
    throw Unsupported(
        "Arbiter is switched off (ARBITER_BACKEND=off, or backend 'off' in the options), and NCCL has no '" + pattern_ +
        "' here: can_use() says so in advance");
  }

 private:
  std::string pattern_;
  CandidateSpec spec_;
  Candidate record_;
};

}  // namespace

std::unique_ptr<RunnableCandidate> make_switched_off(const ProblemFamily& family) {
  return std::make_unique<SwitchedOff>(family);
}

}  // namespace arbiter
