#include "arbiter/tuner/conformance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "arbiter/db/family_text.hpp"
#include "arbiter/error.hpp"
#include "arbiter/runtime/kernel_cache.hpp"
#include "conformance/case.hpp"
#include "tune/compile_ahead.hpp"
#include "tune/outcome.hpp"

namespace arbiter {

using namespace tuning;

namespace tuning {

namespace {

constexpr std::size_t kept_verifiers = 4;
constexpr std::size_t kept_candidates = 64;

std::string family_key(const ProblemFamily& family) {
  return fmt::format("{} {} {} {}", family.pattern, to_string(family.dtype), family.hidden, family.max_tokens);
}

}  // namespace

ConformanceBench::ConformanceBench(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                   const GroupOptions& options, const ConformanceOptions& conformance)
    : bootstrap_(std::move(bootstrap)),
      device_(std::move(device)),
      options_(options),
      conformance_(conformance),
      group_(make_group(bootstrap_, device_, options)),
      on_cpu_(device_->kind() == DeviceKind::cpu) {}

RunnableCandidate& ConformanceBench::candidate(const CandidateSpec& spec, const ProblemFamily& family) {
  const std::string key = spec.name() + " | " + family_key(family);
  if (const auto found = candidates_.find(key); found != candidates_.end()) return *found->second;
  // What the device cannot do is no failure of the kernel; what does not compile is.
  std::unique_ptr<RunnableCandidate> loaded;
  Outcome unsupported, failed;
  try {
    loaded = conformance_.load ? conformance_.load(*group_, spec, family) : load_candidate(*group_, spec, family);
  } catch (const Unsupported& error) {
    unsupported = {Severity::failed, error.what()};
  } catch (const std::exception& error) {
    failed = {Severity::failed, error.what()};
  }
  if (const Outcome worst = tuning::agree(*bootstrap_, failed); !worst.ok()) throw CompileError(worst.reason);
  if (const Outcome worst = tuning::agree(*bootstrap_, unsupported); !worst.ok()) throw Unsupported(worst.reason);
  arbiter::agree(*group_, loaded.get());
  const WorkspaceNeeds needs = loaded->needs(family.max_tokens);
  group_->reserve(needs.push_bytes, needs.staging_bytes);
  return *candidates_.emplace(key, std::move(loaded)).first->second;
}

Verifier& ConformanceBench::verifier(const ProblemFamily& family) {
  for (auto& [key, verifier] : verifiers_) {
    if (key == family) return *verifier;
  }
  return *verifiers_.emplace_back(family, std::make_unique<Verifier>(*group_, family)).second;
}

void ConformanceBench::trim() {
  communicator_.reset();
  if (candidates_.size() > kept_candidates) candidates_.clear();
  while (verifiers_.size() > kept_verifiers) verifiers_.erase(verifiers_.begin());
}

Communicator& ConformanceBench::communicator(const std::vector<ProblemFamily>& families) {
  communicator_ = std::make_unique<Communicator>(bootstrap_, device_, communicator_options(options_.nccl));
  communicator_->prepare(families);
  return *communicator_;
}

std::unique_ptr<Communicator> ConformanceBench::make_communicator(std::shared_ptr<Bootstrap> bootstrap,
                                                                  Backend backend) const {
  CommunicatorOptions options = communicator_options(false);
  options.variables.backend = backend;
  return std::make_unique<Communicator>(std::move(bootstrap), device_, options);
}

std::unique_ptr<ConformanceBench> ConformanceBench::another(std::uint32_t first_epoch) const {
  GroupOptions options = options_;
  options.first_epoch = first_epoch;
  return std::make_unique<ConformanceBench>(bootstrap_, device_, options, conformance_);
}

CommunicatorOptions ConformanceBench::communicator_options(bool nccl) const {
  CommunicatorOptions options;
  options.variables = options_.variables;
  options.decisions = share_decisions();  // none: what is checked must not depend on a file of this machine
  options.nccl = nccl;
  options.cache = options_.cache;
  return options;
}

}  // namespace tuning

namespace {

/// Throws InvalidArgument for a word that is not in `valid`.
void require_known(std::string_view kind, std::string_view word, std::span<const std::string_view> valid) {
  if (std::find(valid.begin(), valid.end(), word) == valid.end()) {
    throw InvalidArgument(unknown_name_message(kind, word, valid));
  }
}

void check(const Catalogue& catalogue, const ConformanceOptions& options) {
  for (const std::string& area : options.areas) require_known("area", area, conformance_areas());
  std::vector<std::string> names{"nccl", "nccl/classic"};
  for (const AlgorithmEntry& algorithm : catalogue.algorithms()) {
    if (!algorithm.exchange) continue;
    names.push_back(algorithm.name);
    names.push_back(std::string(to_string(algorithm.backend)) + "/" + algorithm.name);
  }
  const std::vector<std::string_view> valid(names.begin(), names.end());
  for (const std::string& algorithm : options.algorithms) require_known("algorithm", algorithm, valid);
}

/// Runs a case; what it throws, on this or another rank, is its verdict.
void run_case(ConformanceBench& bench, const ConformanceCase& item, CaseResult& result) {
  bench.trim();
  Outcome mine;
  try {
    const Verification verification = item.run(bench);
    result.status = verification.ok() ? CaseStatus::passed : CaseStatus::failed;
    result.reason = verification.reason;
  } catch (const Unsupported& error) {  // on every rank
    result.status = CaseStatus::skipped;
    result.reason = error.what();
  } catch (const DeviceError&) {
    throw;
  } catch (const Poisoned& error) {
    mine = {Severity::poisoned, error.what()};
  } catch (const std::exception& error) {
    mine = {Severity::failed, error.what()};
  }
  if (!mine.ok()) bench.group().abort();
  const Outcome worst = settle(bench.group(), mine);
  if (worst.ok()) return;
  result.status = CaseStatus::failed;
  result.reason = worst.reason;
}

}  // namespace

const std::vector<std::string_view>& conformance_areas() {
  static const std::vector<std::string_view> areas{
      "plain",         "tokens", "hidden sizes", "fusion",       "quantisation", "group sizes",
      "sentinel salt", "moe",    "graphs",       "grid changes", "numerics",     "several communicators"};
  return areas;
}

std::string_view to_string(CaseStatus status) noexcept {
  switch (status) {
    case CaseStatus::passed:
      return "passed";
    case CaseStatus::failed:
      return "failed";
    case CaseStatus::skipped:
      return "skipped";
  }
  return "";
}

std::size_t ConformanceReport::count(CaseStatus status) const noexcept {
  return static_cast<std::size_t>(
      std::count_if(cases.begin(), cases.end(), [&](const CaseResult& item) { return item.status == status; }));
}

ConformanceReport run_conformance(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                  const GroupOptions& group_options, const ConformanceOptions& options,
                                  ProgressSink* sink) {
  check(Catalogue::builtin(), options);
  GroupOptions shared = group_options;
  shared.variables.numerics = NumericsPolicy::lossy;  // every kernel is proven, whoever may use it
  if (!shared.cache) shared.cache = make_kernel_cache(shared.variables, bootstrap->rank() == 0);
  ConformanceBench bench(std::move(bootstrap), std::move(device), shared, options);
  ConformanceReport report;
  report.environment = bench.group().environment();
  std::vector<ConformanceCase> cases = conformance_cases(bench.group(), options);
  // GPUs check while processors compile what they will check next.
  CompileAhead ahead(options.load ? 0 : compile_threads(bench.group()),
                     [&group = bench.group()](const Variant& variant) { compile_kernel(group, variant); });
  for (const ConformanceCase& item : cases) {
    if (item.needs) ahead.later(*item.needs);
  }
  const auto start = std::chrono::steady_clock::now();
  bool cancelled = false;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    ConformanceCase& item = cases[i];
    CaseResult& result = item.description;
    if (!item.impossible.empty() || cancelled) {
      result.status = CaseStatus::skipped;
      result.reason = cancelled ? "cancelled" : item.impossible;
      report.cases.push_back(std::move(result));
      continue;
    }
    if (sink != nullptr) {
      Progress progress;
      progress.doing = fmt::format("{}: {} tokens={} world={}{}", result.area, family_text(result), result.tokens,
                                   result.world, (result.detail.empty() ? "" : ", " + result.detail));
      progress.candidate = result.candidate;
      progress.done = i;
      progress.total = cases.size();
      progress.elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (i > 0) progress.left_s = progress.elapsed_s / static_cast<double>(i) * static_cast<double>(cases.size() - i);
      sink->update(progress);
    }
    if (item.needs) ahead.now(*item.needs);
    run_case(bench, item, result);
    report.cases.push_back(std::move(result));
    const bool go_on = options.cancel == nullptr || !options.cancel->load();
    cancelled = !bench.group().bootstrap().all(go_on);
  }
  return report;
}

}  // namespace arbiter
