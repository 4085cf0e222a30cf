#include "communicator/costs.hpp"

#include <algorithm>

#include "arbiter/generator/bindings.hpp"

namespace arbiter {
namespace {

constexpr double threads_per_sm = 1024;  // that kernels of this kind have resident

/// GB/s that reach one GPU, of the nominal bandwidth of its links in one direction.
constexpr double usable = 350.0 / 450.0;

/// Nominal GB/s of all links of a GPU in one direction, by compute capability.
double nvlink_gbps(int compute_capability) {
  if (compute_capability >= 100) return 900;
  if (compute_capability >= 90) return 450;
  if (compute_capability >= 80) return 300;
  return 150;
}

}  // namespace

MachineFigures machine_figures(const Environment& environment) {
  const bool gpu = environment.device == "cuda";
  MachineFigures figures;
  figures.launch_us = 0.9;
  figures.step_us = 0.85;
  figures.vector_us = 0.21e-3;
  figures.rounding_us = 0.6;  // 2 H200s: 0.5 with one at 256 KiB, 0.6 each with two
  figures.iteration_us = 0.2;
  // The CPU device is asked what a machine with GPUs would do.
  double gbps = usable * nvlink_gbps(gpu ? environment.compute_capability : 90);
  if (environment.topology == "pcie") {
    gbps = 20;
    figures.step_us = 2;
  }
  figures.bytes_per_us = gbps * 1e3;
  figures.vectors_at_once = threads_per_sm * (gpu && environment.sm_count > 0 ? environment.sm_count : 132);
  return figures;
}

double iterations_of(const AlgorithmEntry& algorithm, const Variant& variant, const Pattern& pattern,
                     std::int64_t bytes, const MachineFigures& machine) {
  const auto rows = static_cast<double>(evaluate(algorithm.tile_rows, bindings_of(variant, pattern, {})));
  return std::max(1.0,
                  static_cast<double>(bytes) / static_cast<double>(vector_bytes) / (machine.vectors_at_once * rows));
}

double expected_us(const AlgorithmEntry& algorithm, const Variant& variant, const Pattern& pattern, std::int64_t bytes,
                   const MachineFigures& machine) {
  const Bindings bindings = bindings_of(variant, pattern, {});
  const auto axis = [&](const char* name) { return static_cast<double>(bindings.find(name)->second); };
  const double rows = static_cast<double>(evaluate(algorithm.tile_rows, bindings));
  const auto size = static_cast<double>(bytes);
  // The sum is written; every part of the pattern reads and writes a row again.
  const double passes = 1 + 2 * static_cast<double>(pattern.parts.size());
  const double of_block = axis("threads") * axis("vectors") * rows * passes;
  const double iterations = iterations_of(algorithm, variant, pattern, bytes, machine);
  // The next tile leaves before this one is waited for, which hides one step.
  const double hidden = 1;
  const double roundings = algorithm.numerics == Numerics::fp8_transport ? algorithm.steps : 0;
  return machine.launch_us + machine.step_us * algorithm.steps + machine.rounding_us * roundings +
         size * algorithm.link_messages(variant.world) / machine.bytes_per_us + machine.vector_us * of_block +
         machine.iteration_us * (algorithm.steps - hidden) * (iterations - 1);
}

}  // namespace arbiter
