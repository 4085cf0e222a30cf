#include "arbiter/tuner/bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "arbiter/db/contents.hpp"
#include "arbiter/db/database.hpp"
#include "arbiter/error.hpp"
#include "arbiter/tuner/verify.hpp"
#include "measure/standalone.hpp"
#include "measure/stream.hpp"
#include "tune/outcome.hpp"
#include "tune/wire.hpp"

namespace arbiter {

using namespace tuning;

namespace {

ProblemFamily family_of(const Problem& problem, std::int64_t max_tokens) {
  return {problem.pattern, problem.dtype, problem.hidden, max_tokens, problem.mode};
}

/// One subject of a row while it is being timed.
struct Contestant {
  std::string key;
  BenchResult result;
  std::unique_ptr<RunnableCandidate> candidate;  ///< unless it is the communicator
  Subject timed;
  Subject verified;  ///< the same work on the verifier's tensors
  std::optional<std::size_t> entry;
};

class Bench {
 public:
  Bench(Group& group, Communicator& communicator, const BenchOptions& options)
      : group_(group), communicator_(communicator), options_(options) {}

  std::vector<BenchRow> run(ProgressSink* sink) {
    prepare();
    std::vector<BenchRow> rows;
    const auto start = std::chrono::steady_clock::now();
    for (const Problem& problem : options_.problems) {
      const bool go_on = options_.cancel == nullptr || !options_.cancel->load();
      if (!group_.bootstrap().all(go_on)) break;
      if (sink != nullptr) {
        Progress progress;
        progress.doing = problem.name();
        progress.done = rows.size();
        progress.total = options_.problems.size();
        progress.elapsed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const auto left = static_cast<double>(progress.total - progress.done);
        if (progress.done > 0) progress.left_s = progress.elapsed_s / static_cast<double>(progress.done) * left;
        sink->update(progress);
      }
      rows.push_back(measure(problem));
    }
    return rows;
  }

 private:
  /// Everything the communicator will need is made ready before the first graph is captured.
  void prepare() {
    std::vector<ProblemFamily> families;
    for (const Problem& problem : options_.problems) {
      if (problem.world != group_.size()) {
        throw InvalidArgument(
            fmt::format("'{}' is for {} ranks; this group has {}", problem.name(), problem.world, group_.size()));
      }
      if (problem.tokens < 1) throw InvalidArgument("'" + problem.name() + "': expected at least 1 token");
      ProblemFamily family = family_of(problem, problem.tokens);
      bool merged = false;
      for (ProblemFamily& each : families) {
        family.max_tokens = each.max_tokens;
        if (!(each == family)) continue;
        each.max_tokens = std::max(each.max_tokens, problem.tokens);
        merged = true;
      }
      family.max_tokens = problem.tokens;
      if (!merged) families.push_back(family);
    }
    communicator_.prepare(families);
    for (const ProblemFamily& family : families) {
      largest_bytes_ = std::max(largest_bytes_, bytes_of(family, family.max_tokens));
    }
    for (const ProblemFamily& family : families) largest_[key_of(family)] = family.max_tokens;
    const bool readable = group_.rank() == 0 && !options_.database.empty() && open_database();
    has_trials_ = group_.bootstrap().broadcast(readable ? "yes" : "no", 0) == "yes";
  }

  static std::size_t bytes_of(const ProblemFamily& family, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens) * static_cast<std::size_t>(family.hidden) * element_bytes(family.dtype);
  }

  static std::string key_of(const ProblemFamily& family) {
    return fmt::format("{} {} {} {}", family.pattern, to_string(family.dtype), family.hidden, to_string(family.mode));
  }

  bool open_database() {
    // A snapshot has decisions and no trials; then there is nothing to look up. Reading writes nothing, takes no lock
    // and makes no file.
    if (!std::filesystem::exists(options_.database)) return false;
    try {
      contents_ = read_contents(options_.database);
      return !contents_.trials.empty();
    } catch (const DatabaseError&) {
      return false;
    }
  }

  BenchRow measure(const Problem& problem) {
    const ProblemFamily family = family_of(problem, largest_.at(key_of(family_of(problem, 0))));
    std::vector<Contestant> contestants;
    contestants.push_back(make_auto(problem));
    contestants.push_back(make_nccl(family));
    contestants.push_back(make_nccl_on(
        "symmetric", problem,
        family, [&]() -> auto& { return group_.reserve_nccl_symmetric(bytes_of(family, family.max_tokens)); }));
    contestants.push_back(make_nccl_on(
        "registered", problem, family, [&]() -> auto& { return group_.reserve_nccl_buffers(largest_bytes_); }));
    add_algorithms(problem, family, contestants);

    Verifier verifier(group_, family);
    for (Contestant& contestant : contestants) {
      if (!contestant.result.unavailable.empty()) continue;
      const Verification verification = verifier.verify_before_timing(contestant.verified, problem.tokens);
      if (!verification.ok()) {
        contestant.result.unavailable = std::string(to_string(verification.status)) + ": " + verification.reason;
      }
    }
    Timing timing(group_, family, problem.tokens, options_.measure, &verifier);
    std::vector<std::size_t> which;
    for (Contestant& contestant : contestants) {
      if (!contestant.result.unavailable.empty()) continue;
      contestant.entry = timing.add(contestant.timed);
      which.push_back(*contestant.entry);
    }
    const int replays = std::max(1, options_.measure.replays);
    timing.sample(which, std::max(1, (options_.samples + replays - 1) / replays), options_.seed);

    BenchRow row{problem, {}};
    for (Contestant& contestant : contestants) {
      if (contestant.entry) {
        const Timing::Entry& entry = timing.entry(*contestant.entry);
        if (entry.ok()) {
          contestant.result.time = summarise(entry.samples_us);
        } else {
          contestant.result.unavailable = entry.failure;
        }
        timing.release(*contestant.entry);
      }
      row.results.emplace_back(contestant.key, std::move(contestant.result));
    }
    return row;
  }

  Contestant make_auto(const Problem& problem) {
    Contestant contestant;
    contestant.key = "auto";
    const Explanation explanation = communicator_.explain(problem);
    contestant.result.chosen = explanation.candidate.name;
    contestant.result.rule = to_string(explanation.rule);
    contestant.timed = {"auto",
                        explanation.candidate.numerics,
                        [this](const Call& call, StreamHandle stream) { communicator_.run(call, stream); },
                        [this] { communicator_.check(); },
                        {},
                        {},
                        {},
                        rounded_legs(group_.catalogue(), explanation.candidate)};
    contestant.verified = contestant.timed;
    return contestant;
  }

  /// Load a candidate, or say why it is unavailable.
  void load(Contestant& contestant, const CandidateSpec& spec, const ProblemFamily& family) {
    const LoadRequest request{spec, family};
    LoadResult loaded = std::move(load_on_all_ranks(group_, {&request, 1}).front());
    if (!loaded.candidate) {
      contestant.result.unavailable = loaded.reason;
      return;
    }
    const WorkspaceNeeds needs = loaded.candidate->needs(family.max_tokens);
    try {
      group_.reserve(needs.push_bytes, needs.staging_bytes);
    } catch (const Unavailable& error) {  // on every rank, or on none
      contestant.result.unavailable = error.what();
      return;
    }
    contestant.candidate = std::move(loaded.candidate);
    contestant.result.chosen = contestant.candidate->record().name;
    contestant.timed = subject_of(*contestant.candidate);
    contestant.verified = contestant.timed;
  }

  Contestant make_nccl(const ProblemFamily& family) {
    Contestant contestant;
    contestant.key = "nccl";
    if (group_.nccl() == nullptr) {
      contestant.result.unavailable = group_.capabilities().nccl_reason;
      return contestant;
    }
    CandidateSpec spec = CandidateSpec::classic_nccl();
    add_epilogue(spec, family);
    load(contestant, spec, family);
    return contestant;
  }

  void add_epilogue(CandidateSpec& spec, const ProblemFamily& family) const {
    if (!group_.catalogue().pattern(family.pattern).rows) return;
    const Enumeration kernels = enumerate_standalone(group_.catalogue(), family.pattern, family.dtype, family.hidden,
                                                     group_.capabilities().limits);
    if (!kernels.variants.empty()) spec.epilogue = kernels.variants.front();
  }

  /// The call on buffers that NCCL knows, as a program would make it whose tensors live there.
  Contestant make_nccl_on(const char* kind, const Problem& problem, const ProblemFamily& family,
                          const std::function<NcclCommunicator::RegisteredBuffers&()>& reserve) {
    Contestant contestant;
    contestant.key = std::string("nccl_") + kind;
    NcclCommunicator* nccl = group_.nccl();
    if (nccl == nullptr) {
      contestant.result.unavailable = group_.capabilities().nccl_reason;
      return contestant;
    }
    NcclCommunicator::RegisteredBuffers* buffers = nullptr;
    const auto bytes = static_cast<std::size_t>(problem.bytes());
    std::string failure;
    try {
      buffers = &reserve();
      if (group_.catalogue().pattern(problem.pattern).rows) contestant.candidate = load_standalone(group_, family);
    } catch (const Error& error) {
      failure = error.what();
    }
    if (!group_.bootstrap().all(failure.empty())) {
      contestant.result.unavailable = failure.empty() ? "another rank could not register its buffers" : failure;
      return contestant;
    }
    contestant.result.chosen = std::string("nccl/") + kind;
    const auto count = static_cast<std::size_t>(problem.tokens) * static_cast<std::size_t>(problem.hidden);
    RunnableCandidate* epilogue = contestant.candidate.get();
    const auto reduce = [=](const Call& call, StreamHandle stream) {
      nccl->all_reduce(buffers->input(), buffers->output(), count, call.dtype, stream);
      if (epilogue == nullptr) return;
      Call rest = call;
      rest.input = buffers->output();
      epilogue->enqueue(rest, stream);
    };
    contestant.timed = {contestant.result.chosen, Numerics::nccl, reduce, {}};
    Device& device = group_.device();
    contestant.timed.import_input = [=, &device](const Call& call, StreamHandle stream) {
      device.copy(buffers->input(), call.input, bytes, stream);
    };
    contestant.timed.export_output = [=, &device](const Call& call, StreamHandle stream) {
      if (epilogue == nullptr) device.copy(call.output, buffers->output(), bytes, stream);
    };
    contestant.verified = contestant.timed;
    contestant.verified.enqueue = [reduce, timed = contestant.timed](const Call& call, StreamHandle stream) {
      timed.import_input(call, stream);
      reduce(call, stream);
      timed.export_output(call, stream);
    };
    return contestant;
  }

  /// The best measured candidate of every algorithm of the catalogue, else its default.
  void add_algorithms(const Problem& problem, const ProblemFamily& family, std::vector<Contestant>& contestants) {
    std::vector<Excluded> excluded;
    const std::vector<CandidateSpec> all = enumerate_candidates(group_.capabilities(), family, {}, &excluded);
    const std::vector<Trial> trials = trials_of(problem);
    for (const AlgorithmEntry& algorithm : group_.catalogue().algorithms()) {
      if (!algorithm.exchange) continue;
      Contestant contestant;
      contestant.key = std::string(to_string(algorithm.backend)) + "/" + algorithm.name;
      const auto is_of = [&](const auto& item) {
        return item.backend() == algorithm.backend && item.algorithm() == algorithm.name && !item.epilogue;
      };
      const CandidateSpec* chosen = nullptr;
      double best = 0;
      for (const CandidateSpec& spec : all) {
        if (!is_of(spec)) continue;
        if (chosen == nullptr && best <= 0) chosen = &spec;  // the default: the first one listed
        for (const Trial& trial : trials) {
          if (trial.candidate.name != spec.name() || trial.samples_us.empty()) continue;
          if (trial.status != TrialStatus::done && trial.status != TrialStatus::pruned) continue;
          const double us = median(trial.samples_us);
          if (best > 0 && us >= best) continue;
          best = us;
          chosen = &spec;
        }
      }
      if (chosen == nullptr) {
        contestant.result.unavailable = reason_for(algorithm, excluded);
      } else {
        load(contestant, *chosen, family);
      }
      contestants.push_back(std::move(contestant));
    }
  }

  static std::string reason_for(const AlgorithmEntry& algorithm, const std::vector<Excluded>& excluded) {
    for (const Excluded& item : excluded) {
      if (item.variant.backend == algorithm.backend && item.variant.algorithm == algorithm.name) return item.reason;
    }
    return "the catalogue has no variant for this problem";
  }

  std::vector<Trial> trials_of(const Problem& problem) {
    if (!has_trials_) return {};
    std::string text = "[]";
    if (group_.rank() == 0) text = to_text(latest_trials(problem));
    return trials_from_text(group_.bootstrap().broadcast(text, 0), problem);
  }

  /// Of every candidate, the one with the highest number.
  std::vector<Trial> latest_trials(const Problem& problem) const {
    const std::string environment = group_.environment().key(), key = problem.key();
    std::map<std::string, const StoredTrial*> latest;
    for (const auto& [trial_key, trial] : contents_.trials) {
      if (trial.environment != environment || trial.problem != key) continue;
      const StoredTrial*& known = latest[trial.candidate];
      if (known == nullptr || trial.sequence > known->sequence) known = &trial;
    }
    std::vector<Trial> trials;
    for (const auto& [candidate, stored] : latest) {
      trials.push_back({problem, contents_.candidates.at(candidate), stored->status, stored->reason,
                        stored->calls_per_sample, stored->blocks, stored->samples_us});
    }
    return trials;
  }

  Group& group_;
  Communicator& communicator_;
  const BenchOptions& options_;
  std::map<std::string, std::int64_t> largest_;
  std::size_t largest_bytes_ = 0;  ///< of all messages
  Contents contents_;              ///< of the database, on rank 0
  bool has_trials_ = false;
};

}  // namespace

std::vector<BenchRow> bench(Group& group, Communicator& communicator, const BenchOptions& options, ProgressSink* sink) {
  return Bench(group, communicator, options).run(sink);
}

}  // namespace arbiter
