#include "arbiter/runtime/decision_kernels.hpp"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <set>

#include "arbiter/error.hpp"
#include "arbiter/generator/render.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "candidate/loaded_kernel.hpp"

namespace arbiter {
namespace {

/// The compiler and the dialect of one environment.
struct Toolchain {
  explicit Toolchain(const Environment& environment)
      : dialect(environment.device == "cpu" ? Dialect::host : Dialect::cuda),
        compiler(make_compiler(dialect == Dialect::host ? "cpu" : nvrtc_target(environment.compute_capability))) {}
  Dialect dialect;
  std::unique_ptr<Compiler> compiler;
};

class Collector {
 public:
  explicit Collector(KernelCache& cache) : cache_(cache) {}

  void add(const Toolchain& toolchain, const Decision& decision, const Candidate& candidate, const KernelUse& timed) {
    const Catalogue& catalogue = Catalogue::builtin();
    const ProblemFamily family{decision.pattern, decision.dtype, decision.hidden, decision.tokens_max, decision.mode};
    const CandidateSpec spec = CandidateSpec::parse(catalogue, candidate.name, family, decision.world);
    if (candidate_source_hash(catalogue, toolchain.dialect, spec) != candidate.source_hash) {
      throw Unsupported("the source of its kernel has changed since it was measured; tune again");
    }
    std::vector<StoredKernel> needed;
    if (spec.kernel) {
      // On the CPU device one source holds the kernels of all ranks.
      const int sources = toolchain.dialect == Dialect::host ? 1 : decision.world;
      for (int rank = 0; rank < sources; ++rank) needed.push_back(compile(toolchain, *spec.kernel, rank));
    }
    if (spec.prologue) needed.push_back(compile(toolchain, *spec.prologue, 0));
    if (spec.epilogue) needed.push_back(compile(toolchain, *spec.epilogue, 0));
    for (const StoredKernel& kernel : needed) {
      const KernelResources& resources = kernel.kernel.resources;
      const std::string more = exceeds({resources.registers, resources.spill_bytes}, timed);
      if (!more.empty()) throw Unsupported(more);
    }
    for (StoredKernel& kernel : needed) kernels.emplace(kernel.key, std::move(kernel));
  }

  std::map<std::string, StoredKernel> kernels;

 private:
  StoredKernel compile(const Toolchain& toolchain, const Variant& variant, int rank) {
    const Source source = render_kernel(Catalogue::builtin(), variant, rank, toolchain.dialect);
    std::string key = KernelCache::key(source, *toolchain.compiler);
    if (const auto known = kernels.find(key); known != kernels.end()) return known->second;
    std::string name = fmt::format("{} rank={}", variant.full_name(), rank);
    CompiledKernel kernel = cache_.get(source, *toolchain.compiler, name);
    return {std::move(key), std::move(name), source.hash, std::move(kernel)};
  }

  KernelCache& cache_;
};

}  // namespace

DecisionKernels compile_decision_kernels(std::span<const DecisionSet> sets, KernelCache& cache) {
  Collector collector(cache);
  DecisionKernels result;
  for (const DecisionSet& set : sets) {
    const Toolchain toolchain(set.environment);
    for (const Decision& decision : set.decisions) {
      std::vector<std::pair<Candidate, KernelUse>> serving{{decision.candidate, decision.use}};
      // Where 8-bit values may not be sent, the runner-up serves.
      if (decision.candidate.numerics == Numerics::fp8_transport && decision.runner_up) {
        serving.emplace_back(*decision.runner_up, decision.runner_up_use);
      }
      for (const auto& [candidate, timed] : serving) {
        if (candidate.backend == Backend::nccl && candidate.source_hash.empty()) continue;
        try {
          collector.add(toolchain, decision, candidate, timed);
        } catch (const CompileError&) {
          throw;
        } catch (const Error& error) {
          result.skipped.push_back(candidate.name + " for " + decision.pattern + ": " + error.what());
        }
      }
    }
  }
  for (auto& [key, kernel] : collector.kernels) result.kernels.push_back(std::move(kernel));
  return result;
}

}  // namespace arbiter
