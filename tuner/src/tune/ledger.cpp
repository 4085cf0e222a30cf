#include "tune/ledger.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "arbiter/error.hpp"
#include "arbiter/tuner/nccl_choices.hpp"
#include "tune/stopwatch.hpp"
#include "tune/wire.hpp"

namespace arbiter::tuning {
namespace {

constexpr double dropped = 0.95;  // of the highest clock before
constexpr double look_every_s = 10;

/// A snapshot is published, and read by others: measurements would break it. Asked before anything is opened for
/// writing, which would already change it.
void require_no_snapshot(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error) || std::filesystem::file_size(path, error) == 0) return;
  std::size_t decisions = 0;
  try {
    if (!read_history(path).empty()) return;
    for (const DecisionSet& set : read_decisions(path)) decisions += set.decisions.size();
  } catch (const DatabaseError&) {
    return;  // not a database, or damaged: opening it says so
  }
  if (decisions == 0) return;
  throw DatabaseError(fmt::format(
      "'{}': it is a snapshot: it has {} decisions and none of the measurements that they were made from. A tune "
      "writes measurements into a work database: name one with --db (ARBITER_DB is what programs read)",
      path.string(), decisions));
}

bool is_of(const Problem& problem, const ProblemFamily& family, int world) {
  return problem.pattern == family.pattern && problem.dtype == family.dtype && problem.hidden == family.hidden &&
         problem.mode == family.mode && problem.world == world && !problem.in_place;
}

std::chrono::steady_clock::time_point now(const TuneOptions& options) {
  return options.now ? options.now() : std::chrono::steady_clock::now();
}

}  // namespace

Ledger::Ledger(Group& group, const TuneOptions& options) : group_(group), options_(options), start_(now(options)) {
  std::string decisions = "[]";
  on_root([&] {
    require_no_snapshot(options.database);
    database_.emplace(WorkDatabase::open(options.database));
    run_.host = options.host;
    run_.command = options.command;
    run_.started = static_cast<std::int64_t>(std::time(nullptr));
    const ClockSample sample = clocks();
    run_.sm_clock_start_mhz = sample.sm_clock_mhz;
    run_.power_start_watts = sample.power_watts;
    watch(sample);
    run_.id = database_->begin_run(group.environment(), run_,
                                   options.restarted ? options.command_started : WorkDatabase::nobody);
    open_ = true;
    for (const DecisionSet& set : database_->decisions()) {
      if (set.environment.key() == group.environment().key()) decisions = to_text(set.decisions);
    }
  });
  previous_decisions_ = decisions_from_text(group.bootstrap().broadcast(decisions, 0));
}

Ledger::~Ledger() {
  if (!open_) return;
  try {
    run_.finished = static_cast<std::int64_t>(std::time(nullptr));
    database_->finish_run(run_.id, run_);
  } catch (...) {  // a destructor must not throw, and the trials are already committed
  }
}

ClockSample Ledger::clocks() const { return options_.clocks ? options_.clocks() : sample_clocks(group_.device()); }

double Ledger::elapsed_seconds() const { return std::chrono::duration<double>(now(options_) - start_).count(); }

/// An idle GPU clocks low, so a clock below the first one means little, and one below the highest seen much: samples
/// are taken right behind measurements.
void Ledger::watch(const ClockSample& sample) {
  if (sample.sm_clock_mhz == 0) return;  // not known
  if (sample.sm_clock_mhz > highest_clock_mhz_) highest_clock_mhz_ = lowest_clock_mhz_ = sample.sm_clock_mhz;
  lowest_clock_mhz_ = std::min(lowest_clock_mhz_, sample.sm_clock_mhz);
}

void Ledger::watch_clocks() {
  if (group_.rank() != 0) return;
  const double elapsed = elapsed_seconds();
  if (elapsed - looked_at_s_ < look_every_s) return;
  looked_at_s_ = elapsed;
  watch(clocks());
}

void Ledger::on_root(const std::function<void()>& action) {
  const Stopwatch watch(seconds_);
  std::string failure;
  if (group_.rank() == 0) {
    try {
      action();
    } catch (const std::exception& error) {
      failure = error.what();
      if (failure.empty()) failure = "unknown error";
    }
  }
  // One byte in the common case; the text only when there is one.
  unsigned char failed = failure.empty() ? 0 : 1;
  group_.bootstrap().broadcast(&failed, 1, 0);
  if (failed != 0) throw DatabaseError(group_.bootstrap().broadcast(failure, 0));
}

void Ledger::begin(const Problem& problem, const Candidate& candidate) {
  on_root([&] { database_->begin_trial(run_.id, group_.environment(), problem, candidate); });
}

void Ledger::finish(const Trial& trial) {
  on_root([&] { database_->finish_trial(run_.id, group_.environment(), trial); });
}

void Ledger::record(const std::vector<Trial>& trials) {
  if (trials.empty()) return;
  on_root([&] { database_->record_trials(run_.id, group_.environment(), trials); });
}

std::vector<Trial> Ledger::previous(const Problem& problem) {
  std::string text;
  on_root([&] { text = to_text(database_->trials(group_.environment(), problem, options_.resume_since)); });
  return trials_from_text(group_.bootstrap().broadcast(text, 0), problem);
}

std::vector<std::vector<Trial>> Ledger::measured(const ProblemFamily& family) {
  // Rank 0 says how many sizes there are; then, for each, its tokens and its trials.
  std::vector<std::pair<std::int64_t, std::string>> sizes;
  on_root([&] {
    for (const Problem& problem : database_->problems(group_.environment())) {
      if (!is_of(problem, family, group_.size())) continue;
      const std::vector<Trial> trials = database_->deciding_trials(group_.environment(), problem);
      if (!trials.empty()) sizes.emplace_back(problem.tokens, to_text(trials));
    }
  });
  std::size_t count = sizes.size();
  group_.bootstrap().broadcast(&count, sizeof(count), 0);
  sizes.resize(count);
  std::vector<std::vector<Trial>> measured;
  for (auto& [tokens, text] : sizes) {
    group_.bootstrap().broadcast(&tokens, sizeof(tokens), 0);
    const Problem problem{family.pattern, family.dtype, family.hidden, tokens, group_.size(), family.mode, false};
    measured.push_back(trials_from_text(group_.bootstrap().broadcast(text, 0), problem));
  }
  return measured;
}

void Ledger::store(const std::vector<Decision>& decisions, const std::vector<ProblemFamily>& families) {
  on_root([&] {
    std::vector<Decision> all = decisions;
    for (const Decision& old : previous_decisions_) {
      const bool replaced = std::any_of(families.begin(), families.end(), [&](const ProblemFamily& family) {
        return belongs(old, family, group_.size());
      });
      if (!replaced) all.push_back(old);
    }
    database_->replace_decisions(group_.environment(), all);
    database_->replace_nccl_choices(group_.environment(),
                                    nccl_choices(*database_, group_.environment(), options_.rules));
  });
}

Signals Ledger::signals() {
  const Stopwatch watch(seconds_);
  struct Message {
    double elapsed_s;
    double cancelled;
  };
  const Message mine{elapsed_seconds(), options_.cancel != nullptr && options_.cancel->load() ? 1.0 : 0.0};
  std::vector<Message> all(static_cast<std::size_t>(group_.size()));
  group_.bootstrap().allgather(&mine, sizeof(mine), all.data());
  Signals signals{all.front().elapsed_s, false};
  for (const Message& each : all) signals.cancelled = signals.cancelled || each.cancelled > 0;
  return signals;
}

std::string Ledger::finish_run() {
  std::string said;
  on_root([&] {
    const ClockSample sample = clocks();
    watch(sample);
    run_.sm_clock_end_mhz = sample.sm_clock_mhz;
    run_.power_end_watts = sample.power_watts;
    run_.clocks_dropped = lowest_clock_mhz_ < dropped * highest_clock_mhz_;
    run_.finished = static_cast<std::int64_t>(std::time(nullptr));
    database_->finish_run(run_.id, run_);
    open_ = false;
    if (run_.clocks_dropped) {
      said = fmt::format(
          "the SM clock dropped by more than 5% during this run, from {} to {} MHz (power: {} W at the start, {} W at "
          "the end)",
          highest_clock_mhz_, lowest_clock_mhz_, run_.power_start_watts, run_.power_end_watts);
    } else if (run_.power_dropped()) {
      said = fmt::format(
          "the power draw fell during this run, from {} W to {} W: its cap was lowered, or something else ran on the "
          "GPU at the start; tune again on an idle node",
          run_.power_start_watts, run_.power_end_watts);
    }
  });
  return group_.bootstrap().broadcast(said, 0);
}

}  // namespace arbiter::tuning
