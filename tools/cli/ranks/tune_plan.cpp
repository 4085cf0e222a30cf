#include "ranks/tune_plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "arbiter/device.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/tuner/choose.hpp"
#include "arbiter/tuner/tune.hpp"
#include "arbiter/variables.hpp"
#include "compile/variant_options.hpp"

namespace arbiter::cli {
namespace {

/// Seconds, as the tunes took that are on record: 4 H200s, and two processors for the CPU device.
struct Costs {
  double start = 0;    ///< of the ranks of one number of ranks
  double kernel = 0;   ///< to compile and load one
  double trial = 0;    ///< to verify and screen one candidate
  double element = 0;  ///< of the problem, for each rank and trial more
};
constexpr Costs gpu_costs{3, 0.03, 0.09, 0};
constexpr Costs cpu_costs{0.5, 0.9, 0.06, 1.5e-6};

TargetLimits limits_here(const SessionOptions& session) {
  std::string target = "cpu";
  if (session.device == DeviceKind::cuda) {
    target = make_cuda_device(session.gpus.empty() ? 0 : session.gpus.front())->properties().compile_target;
  }
  TargetLimits limits = limits_of(target);
  limits.capabilities = {"registered_input"};
  if (EnvironmentVariables::read().multicast) limits.capabilities.emplace_back("multicast");
  return limits;
}

std::string device_text(const SessionOptions& session) {
  if (session.device == DeviceKind::cpu) return "the CPU device";
  const auto device = make_cuda_device(session.gpus.empty() ? 0 : session.gpus.front());
  return fmt::format("{} {}", std::max<std::size_t>(1, session.gpus.size()), device->properties().name);
}

PlannedFamily plan_family(const ProblemFamily& family, int world, const std::vector<std::int64_t>& tokens,
                          const TargetLimits& limits, const SearchEffort& effort) {
  const Catalogue& catalogue = Catalogue::builtin();
  PlannedFamily planned{family, world, tokens.empty() ? token_grid(family.max_tokens) : tokens, 0, 0};
  planned.kernels = enumerate(catalogue, family.pattern, family.dtype, world, family.hidden, limits).variants.size();
  if (catalogue.pattern(family.pattern).rows) {
    planned.kernels +=
        enumerate_standalone(catalogue, family.pattern, family.dtype, family.hidden, limits).variants.size();
  }
  const std::size_t sizes = planned.tokens.size();
  const std::size_t anchors = std::min(sizes, static_cast<std::size_t>(effort.anchors));
  planned.trials = anchors * static_cast<std::size_t>(effort.anchor_candidates) +
                   (sizes - anchors) * static_cast<std::size_t>(effort.candidates);
  return planned;
}

}  // namespace

TunePlan plan_tune(const SessionOptions& session, const std::vector<ProblemFamily>& families,
                   const std::vector<std::int64_t>& tokens, bool exhaustive) {
  TargetLimits limits = limits_here(session);
  limits.exhaustive = exhaustive;
  const SearchEffort effort = SearchEffort::for_device(session.device);
  const Costs& costs = session.device == DeviceKind::cuda ? gpu_costs : cpu_costs;
  TunePlan plan;
  plan.device = device_text(session);
  for (const int world : session.worlds) {
    plan.seconds += costs.start;
    for (const ProblemFamily& family : families) {
      PlannedFamily planned = plan_family(family, world, tokens, limits, effort);
      const std::size_t compiled =
          std::min({planned.kernels, planned.trials, static_cast<std::size_t>(effort.compiles)});
      plan.kernels += compiled;
      plan.trials += planned.trials;
      plan.seconds += costs.kernel * static_cast<double>(compiled);
      double elements = 0;
      for (const std::int64_t count : planned.tokens) elements += static_cast<double>(count) * family.hidden;
      const double each = planned.tokens.empty() ? 0 : elements / static_cast<double>(planned.tokens.size());
      plan.seconds += static_cast<double>(planned.trials) * (costs.trial + costs.element * each * world);
      plan.families.push_back(std::move(planned));
    }
  }
  if (session.budget.count() > 0) {
    plan.seconds = std::min(plan.seconds, std::chrono::duration<double>(session.budget).count());
  }
  return plan;
}

}  // namespace arbiter::cli
