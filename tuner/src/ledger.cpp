#include "ledger.hpp"

#include <algorithm>
#include <ctime>

#include "arbiter/error.hpp"
#include "arbiter/tuner/nccl_choices.hpp"
#include "wire.hpp"

namespace arbiter::tuning {
namespace {

constexpr double dropped = 0.95;  // of the clock at the start

}  // namespace

Ledger::Ledger(Group& group, const TuneOptions& options) : group_(group), options_(options) {
  std::string decisions = "[]";
  on_root([&] {
    database_.emplace(WorkDatabase::open(options.database));
    run_.host = options.host;
    run_.command = options.command;
    run_.started = static_cast<std::int64_t>(std::time(nullptr));
    sample_clocks(&run_.sm_clock_start_mhz, &run_.power_start_watts);
    run_.id = database_->begin_run(group.environment(), run_);
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

void Ledger::sample_clocks(int* sm_clock, int* power) const {
  const ClockSample sample = options_.clocks ? options_.clocks() : arbiter::sample_clocks(group_.device());
  *sm_clock = sample.sm_clock_mhz;
  *power = sample.power_watts;
}

void Ledger::on_root(const std::function<void()>& action) {
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

std::vector<Trial> Ledger::previous(const Problem& problem) {
  std::string text;
  on_root([&] { text = to_text(database_->trials(group_.environment(), problem)); });
  return trials_from_text(group_.bootstrap().broadcast(text, 0), problem);
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
    database_->replace_nccl_choices(group_.environment(), nccl_choices(*database_, group_.environment(), options_.rules));
  });
}

Signals Ledger::signals() {
  struct Message {
    double elapsed_s;
    double cancelled;
  };
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const Message mine{elapsed, options_.cancel != nullptr && options_.cancel->load() ? 1.0 : 0.0};
  std::vector<Message> all(static_cast<std::size_t>(group_.size()));
  group_.bootstrap().allgather(&mine, sizeof(mine), all.data());
  Signals signals{all.front().elapsed_s, false};
  for (const Message& each : all) signals.cancelled = signals.cancelled || each.cancelled > 0;
  return signals;
}

bool Ledger::finish_run() {
  on_root([&] {
    sample_clocks(&run_.sm_clock_end_mhz, &run_.power_end_watts);
    run_.clocks_dropped = run_.sm_clock_end_mhz < dropped * run_.sm_clock_start_mhz;
    run_.finished = static_cast<std::int64_t>(std::time(nullptr));
    database_->finish_run(run_.id, run_);
    open_ = false;
  });
  unsigned char flag = run_.clocks_dropped ? 1 : 0;
  group_.bootstrap().broadcast(&flag, 1, 0);
  return flag != 0;
}

}  // namespace arbiter::tuning
