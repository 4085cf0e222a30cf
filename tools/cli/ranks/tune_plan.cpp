#include "ranks/tune_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arbiter/device.hpp"
#include "arbiter/generator/catalogue.hpp"
#include "arbiter/tuner/choose.hpp"
#include "arbiter/tuner/tune.hpp"
#include "arbiter/variables.hpp"
#include "compile/variant_options.hpp"

namespace arbiter::cli {
namespace {

/// How tunes on record went, and what they took: 2 and 4 H200s and two ranks on an H100, and two processors for the CPU
/// device.
struct Experience {
  double of_anchors = 1;        ///< candidates that are screened at the first sizes of a family, of those allowed there
  double of_sizes = 1;          ///< the same at the other sizes
  double bisections = 0;        ///< sizes between those of the grid, for each of them
  double of_bisections = 0;     ///< screened there, of those allowed at a size
  double start_s = 0;           ///< of the ranks of one number of ranks
  double kernel_s = 0;          ///< to compile and load one
  double trial_s = 0;           ///< to verify and screen one candidate
  double million_values_s = 0;  ///< more for each million of them on all ranks together
};
constexpr Experience on_gpus{0.75, 0.62, 0.8, 0.26, 3, 0.08, 0.007, 0.0009};
constexpr Experience on_cpu{1, 1, 0.1, 0.6, 0.5, 0.4, 0.025, 1.5};

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

std::size_t rounded(double number) { return static_cast<std::size_t>(std::lround(number)); }

PlannedFamily plan_family(const ProblemFamily& family, int world, const std::vector<std::int64_t>& tokens,
                          const TargetLimits& limits, NumericsPolicy numerics, const SearchEffort& effort,
                          const Experience& experience) {
  const Catalogue& catalogue = Catalogue::builtin();
  PlannedFamily planned{family, world, tokens.empty() ? token_grid(family.max_tokens) : tokens};
  const std::vector<Variant> variants =
      enumerate(catalogue, family.pattern, family.dtype, world, family.hidden, limits).variants;
  planned.kernels =
      static_cast<std::size_t>(std::count_if(variants.begin(), variants.end(), [&](const Variant& variant) {
        return allows(numerics, numerics_of(catalogue, variant));
      }));
  if (catalogue.pattern(family.pattern).rows) {
    planned.kernels +=
        enumerate_standalone(catalogue, family.pattern, family.dtype, family.hidden, limits).variants.size();
  }
  const auto sizes = static_cast<double>(planned.tokens.size());
  const double anchors = std::min<double>(sizes, effort.anchors);
  const double between = tokens.empty() ? std::min<double>(effort.bisections, experience.bisections * sizes) : 0;
  planned.trials = rounded(anchors * experience.of_anchors * effort.anchor_candidates +
                           (sizes - anchors) * experience.of_sizes * effort.candidates +
                           between * experience.of_bisections * effort.candidates);
  // What is screened at the first sizes is most of what is ever screened.
  planned.compiled = std::min(
      {planned.kernels, static_cast<std::size_t>(effort.anchor_candidates), static_cast<std::size_t>(effort.compiles)});
  double values = 0;
  for (const std::int64_t count : planned.tokens) values += static_cast<double>(count) * family.hidden * world;
  const double millions = sizes > 0 ? values / sizes / 1e6 : 0;
  planned.seconds = experience.kernel_s * static_cast<double>(planned.compiled) +
                    (experience.trial_s + experience.million_values_s * millions) * static_cast<double>(planned.trials);
  return planned;
}

}  // namespace

TunePlan plan_families(DeviceKind device, const TargetLimits& limits, const std::vector<int>& worlds,
                       const std::vector<ProblemFamily>& families, const std::vector<std::int64_t>& tokens,
                       NumericsPolicy numerics) {
  const SearchEffort effort = SearchEffort::for_device(device);
  const Experience& experience = device == DeviceKind::cuda ? on_gpus : on_cpu;
  TunePlan plan;
  for (const int world : worlds) {
    plan.seconds += experience.start_s;
    for (const ProblemFamily& family : families) {
      PlannedFamily planned = plan_family(family, world, tokens, limits, numerics, effort, experience);
      plan.kernels += planned.compiled;
      plan.trials += planned.trials;
      plan.seconds += planned.seconds;
      plan.families.push_back(std::move(planned));
    }
  }
  return plan;
}

TunePlan plan_tune(const SessionOptions& session, const std::vector<ProblemFamily>& families,
                   const std::vector<std::int64_t>& tokens, bool exhaustive) {
  TargetLimits limits = limits_here(session);
  limits.exhaustive = exhaustive;
  TunePlan plan =
      plan_families(session.device, limits, session.worlds, families, tokens, EnvironmentVariables::read().numerics);
  plan.device = device_text(session);
  if (session.budget.count() > 0) {
    plan.seconds = std::min(plan.seconds, std::chrono::duration<double>(session.budget).count());
  }
  return plan;
}

}  // namespace arbiter::cli
