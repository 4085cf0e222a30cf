// One conformance case: what it is, and how it is run.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arbiter/tuner/conformance.hpp"
#include "arbiter/tuner/verify.hpp"

namespace arbiter::tuning {

/// What cases share while they run: loaded candidates, verifiers, a communicator. Functions are collective.
class ConformanceBench {
 public:
  ConformanceBench(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>, const GroupOptions&, const ConformanceOptions&);

  Group& group() noexcept { return *group_; }
  bool on_cpu() const noexcept { return on_cpu_; }

  /// Loaded once, and kept at least until the case ends. Throws, on every rank, Unsupported if a device cannot run it,
  /// CompileError if it cannot be loaded for any other reason.
  RunnableCandidate& candidate(const CandidateSpec&, const ProblemFamily&);
  Verifier& verifier(const ProblemFamily&);
  /// With the families prepared. A new one each time: its workspace may have to grow.
  Communicator& communicator(const std::vector<ProblemFamily>&);
  /// Of any ranks, with nothing prepared and without NCCL; collective over them.
  std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Bootstrap>,
                                                  Backend backend = Backend::automatic) const;
  const std::shared_ptr<Bootstrap>& shared_bootstrap() const noexcept { return bootstrap_; }
  /// The same ranks and devices in a group of their own, whose counters start at `first_epoch`.
  std::unique_ptr<ConformanceBench> another(std::uint32_t first_epoch) const;
  /// Between cases: drops the communicator, and candidates and verifiers that are many by now.
  void trim();

 private:
  CommunicatorOptions communicator_options(bool nccl) const;

  std::shared_ptr<Bootstrap> bootstrap_;
  std::shared_ptr<Device> device_;
  GroupOptions options_;
  const ConformanceOptions& conformance_;
  std::unique_ptr<Group> group_;
  bool on_cpu_;
  std::map<std::string, std::unique_ptr<RunnableCandidate>> candidates_;
  std::vector<std::pair<ProblemFamily, std::unique_ptr<Verifier>>> verifiers_;  ///< latest last
  std::unique_ptr<Communicator> communicator_;
};

struct ConformanceCase {
  CaseResult description;  ///< status and reason are filled when it has run
  std::string impossible;  ///< not empty: skipped, with this reason
  std::function<Verification(ConformanceBench&)> run;
  std::optional<CandidateSpec> needs;  ///< its kernels are compiled ahead
};

/// The cases of one world size, in order. A pure function of its arguments, equal on all ranks.
std::vector<ConformanceCase> conformance_cases(const Group&, const ConformanceOptions&);

}  // namespace arbiter::tuning
