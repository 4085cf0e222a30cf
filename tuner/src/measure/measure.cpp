#include "arbiter/tuner/measure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "arbiter/error.hpp"
#include "group/collective.hpp"
#include "measure/stream.hpp"
#include "oracle/random.hpp"
#include "tune/outcome.hpp"
#include "tune/stopwatch.hpp"
#include "verify/expectation.hpp"
#include "verify/tensors.hpp"

namespace arbiter {

using namespace tuning;

namespace {

constexpr std::uint64_t seed_before = 2, seed_after = 3;  // of inputs; those of the samples have 1
constexpr double infinity = std::numeric_limits<double>::infinity();

int set_count(std::size_t bytes_of_one, const MeasureSettings& settings) {
  const auto fitting = static_cast<int>(std::min<std::size_t>(settings.rotated_bytes / bytes_of_one, 1U << 20));
  return std::clamp(fitting, 2, std::max(settings.max_sets, 2));
}

}  // namespace

MeasureSettings MeasureSettings::for_device(DeviceKind kind) noexcept {
  MeasureSettings settings;
  if (kind == DeviceKind::cuda) return settings;
  settings.replay_us = 500;
  settings.min_calls = 1;
  settings.max_calls = 4;
  settings.calibration_calls = 1;
  settings.replays = 2;
  settings.rotated_bytes = 0;
  settings.max_sets = 2;
  return settings;
}

int calls_for(double expected_us, const MeasureSettings& settings) noexcept {
  const double wanted = expected_us > 0 ? settings.replay_us / expected_us : settings.max_calls;
  return static_cast<int>(
      std::clamp(wanted, static_cast<double>(settings.min_calls), static_cast<double>(settings.max_calls)));
}

struct Timing::Impl {
  Impl(Group& the_group, const ProblemFamily& the_family, std::int64_t the_tokens, const MeasureSettings& the_settings,
       Verifier* the_verifier)
      : group(the_group),
        family(the_family),
        tokens(the_tokens),
        settings(the_settings),
        verifier(the_verifier),
        stream(group.device()) {
    const TensorShapes shapes(group.catalogue().pattern(family.pattern), family.dtype, family.hidden);
    const std::int64_t rows = tile_rows(family.hidden, family.dtype, tokens);
    inputs = make_inputs(shapes.composition, family.dtype, rows, family.hidden, group.rank(), {});
    // In a layer, the sum behind the residual is read again; what is only quantised is not.
    usual.without = optional_outputs(shapes.pattern);
    usual.without.remove(Tensor::residual_out);
    const int count = set_count(shapes.total_bytes(tokens), settings);
    for (int i = 0; i < count; ++i) {
      sets.push_back(std::make_unique<Tensors>(group.device(), shapes, tokens));
    }
    load_inputs();
    for (const auto& set : sets) {
      calls.push_back(set->call(tokens));
      apply(usual, calls.back());
    }
    group.device().synchronize(stream);
    // Now, and not between two launches: whatever making one may wait for, no peer is in a collective yet.
    for (int i = 0; i <= std::max(settings.replays, 1); ++i) events.push_back(group.device().create_event());
  }

  Group& group;
  ProblemFamily family;
  std::int64_t tokens;
  MeasureSettings settings;
  Verifier* verifier;
  Stream stream;
  Inputs inputs;  ///< of every set, while samples are taken
  bool usual_inputs = true;
  VerifyRequest usual;  ///< what the calls leave out
  std::vector<std::unique_ptr<Tensors>> sets;
  std::vector<Call> calls;
  std::vector<std::unique_ptr<Event>> events;
  std::map<std::size_t, std::unique_ptr<Graph>> graphs;

  void burst(const Subject& subject, int count) {
    for (int i = 0; i < count; ++i) subject.enqueue(calls[static_cast<std::size_t>(i) % calls.size()], stream);
  }

  /// Does not wait for the stream.
  void load_inputs() {
    sets.front()->load(inputs, tokens, stream);
    for (std::size_t i = 1; i < sets.size(); ++i) sets[i]->copy_from(*sets.front(), stream);
  }

  Event& event(std::size_t index) { return *events.at(index); }

  double estimate(const Subject& subject) {
    burst(subject, std::min(settings.calibration_calls, 2));
    event(0).record(stream);
    burst(subject, settings.calibration_calls);
    event(1).record(stream);
    group.device().synchronize(stream);
    return event(1).microseconds_since(event(0)) / settings.calibration_calls;
  }

  std::unique_ptr<Graph> capture(const Subject& subject, int count) {
    Device& device = group.device();
    device.begin_capture(stream);
    try {
      burst(subject, count);
    } catch (...) {
      // Leave no stream in capture mode behind; the first error is the one to report.
      try {
        device.end_capture(stream);
      } catch (const std::exception&) {
      }
      throw;
    }
    return device.end_capture(stream);
  }

  /// What is timed.
  void launch(const Entry& entry, std::size_t index) {
    if (family.mode == Mode::graph) {
      graphs.at(index)->launch(stream);
    } else {
      burst(entry.subject, entry.calls);
    }
  }

  /// Collective: is what is timed right, with inputs that nothing has seen before?
  Verification verify(const Entry& entry, std::size_t index, std::uint64_t seed) {
    const std::size_t used = std::min(sets.size(), static_cast<std::size_t>(entry.calls));
    const TimedWork work{entry.subject, std::span(sets).first(used), tokens, usual.without, seed, [&](StreamHandle) {
                           launch(entry, index);
                           group.device().synchronize(stream);
                         }};
    usual_inputs = false;
    return verifier->verify_timed(work);
  }

  /// Collective: the samples are of the usual inputs, whatever the verifications needed.
  Outcome restore_inputs(std::span<const Subject* const> subjects) {
    if (usual_inputs) return {};
    Outcome outcome = together(group, stream, [&]() -> Outcome {
      load_inputs();
      for (const Subject* subject : subjects) {
        if (subject->import_input) subject->import_input(calls.front(), stream);
      }
      return {};
    });
    usual_inputs = outcome.ok();
    return outcome;
  }

  /// One block: a discarded replay, then one sample per replay.
  std::vector<double> block(const Entry& entry, std::size_t index) {
    const auto replay = [&] { launch(entry, index); };
    replay();
    const auto replays = static_cast<std::size_t>(settings.replays);
    event(0).record(stream);
    for (std::size_t i = 1; i <= replays; ++i) {
      replay();
      event(i).record(stream);
    }
    group.device().synchronize(stream);
    group.check();
    if (entry.subject.check) entry.subject.check();
    std::vector<double> samples;
    for (std::size_t i = 1; i <= replays; ++i) {
      samples.push_back(event(i).microseconds_since(event(i - 1)) / entry.calls);
    }
    return samples;
  }

  /// Element-wise maximum over the ranks.
  void slowest(std::vector<double>& values) {
    std::vector<double> all(values.size() * static_cast<std::size_t>(group.size()));
    group.bootstrap().allgather(values.data(), values.size() * sizeof(double), all.data());
    for (std::size_t i = 0; i < all.size(); ++i)
      values[i % values.size()] = std::max(values[i % values.size()], all[i]);
  }
};

Timing::Timing(Group& group, const ProblemFamily& family, std::int64_t tokens, const MeasureSettings& settings,
               Verifier* verifier) {
  everywhere(group.bootstrap(), "reserve tensors to measure with",
             [&] { impl_ = std::make_unique<Impl>(group, family, tokens, settings, verifier); });
}

Timing::~Timing() = default;

std::size_t Timing::add(Subject subject, double give_up_us) {
  const std::size_t index = entries_.size();
  Entry& entry = entries_.emplace_back();
  entry.subject = std::move(subject);
  double estimate = infinity;
  Outcome outcome = together(impl_->group, impl_->stream, [&]() -> Outcome {
    estimate = impl_->estimate(entry.subject);
    return {};
  });
  if (outcome.ok()) {
    std::vector<double> value{estimate};
    impl_->slowest(value);
    entry.estimate_us = value.front();
    entry.calls = calls_for(entry.estimate_us, impl_->settings);
    if (give_up_us > 0 && entry.estimate_us > give_up_us) {
      leave_out(index, TrialStatus::failed,
                fmt::format("too slow: one call takes about {} us", std::lround(entry.estimate_us)));
    }
  } else {
    leave_out(index, TrialStatus::failed, outcome.reason);
  }
  return index;
}

void Timing::leave_out(std::size_t index, TrialStatus status, std::string reason) {
  Entry& entry = entries_.at(index);
  entry.status = status;
  entry.failure = std::move(reason);
  entry.samples_us.clear();  // of something that was wrong, or about to fail
  release(index);
}

/// Of a subject that still takes part.
void Timing::verify(std::size_t index, std::uint64_t seed, const char* when) {
  Entry& entry = entries_.at(index);
  if (impl_->verifier == nullptr || !entry.ok()) return;
  const Stopwatch watch(verify_seconds_);
  Verification verification;
  try {
    verification = impl_->verify(entry, index, seed);
  } catch (const DeviceError& error) {
    leave_out(index, TrialStatus::crashed, error.what());
    throw;
  }
  entry.verified = true;
  if (verification.ok()) return;
  const char* what = impl_->family.mode == Mode::graph ? "the captured graph, replayed with new inputs "
                                                       : "the timed burst of calls, issued with new inputs ";
  leave_out(index, verification.status, what + std::string(when) + " its samples: " + verification.reason);
}

void Timing::capture(std::size_t index) {
  Entry& entry = entries_.at(index);
  if (!entry.ok() || impl_->family.mode != Mode::graph || impl_->graphs.count(index) != 0) return;
  std::unique_ptr<Graph> graph;
  const Outcome outcome = together(impl_->group, impl_->stream, [&]() -> Outcome {
    graph = impl_->capture(entry.subject, entry.calls);
    return {};
  });
  if (outcome.ok()) {
    impl_->graphs[index] = std::move(graph);
  } else {
    leave_out(index, TrialStatus::failed, outcome.reason);
  }
}

void Timing::restore_inputs(std::span<const std::size_t> which) {
  const Stopwatch watch(verify_seconds_);
  std::vector<const Subject*> subjects;
  for (const std::size_t index : which) {
    if (entries_.at(index).ok()) subjects.push_back(&entries_.at(index).subject);
  }
  const Outcome outcome = impl_->restore_inputs(subjects);
  if (outcome.ok()) return;
  for (const std::size_t index : which) {
    if (entries_.at(index).ok()) leave_out(index, status_of(outcome.severity), outcome.reason);
  }
}

void Timing::sample(std::span<const std::size_t> which, int rounds, std::uint64_t seed, Recheck recheck) {
  Random random(seed);
  const auto replays = static_cast<std::size_t>(impl_->settings.replays);
  for (const std::size_t index : which) {
    capture(index);
    if (!entries_.at(index).verified) verify(index, seed_before, "before");
  }
  restore_inputs(which);
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::size_t> order;
    for (const std::size_t index : which) {
      if (entries_.at(index).ok()) order.push_back(index);
    }
    if (order.empty()) break;
    random.shuffle(order);

    std::vector<double> samples(order.size() * replays, infinity);
    std::size_t current = 0;
    Outcome mine = attempt(impl_->group, impl_->stream, [&]() -> Outcome {
      for (current = 0; current < order.size(); ++current) {
        const std::vector<double> block = impl_->block(entries_[order[current]], order[current]);
        std::copy(block.begin(), block.end(), samples.begin() + static_cast<std::ptrdiff_t>(current * replays));
      }
      return {};
    });
    if (!mine.ok() && current == order.size()) {
      // Everything was timed, and then the group turned out to be poisoned: the last block is not to be trusted.
      std::fill(samples.end() - static_cast<std::ptrdiff_t>(replays), samples.end(), infinity);
    }
    impl_->slowest(samples);
    // Every rank now sees infinity from the first block on that failed anywhere: that subject is the culprit, and the
    // blocks behind it ran on a group that was already poisoned.
    std::size_t culprit = order.size();
    for (std::size_t i = samples.size(); i-- > 0;) {
      if (!std::isfinite(samples[i])) culprit = i / replays;
    }
    for (std::size_t i = 0; i < culprit; ++i) {
      std::vector<double>& sink = entries_[order[i]].samples_us;
      sink.insert(sink.end(), samples.begin() + static_cast<std::ptrdiff_t>(i * replays),
                  samples.begin() + static_cast<std::ptrdiff_t>((i + 1) * replays));
    }
    if (culprit < order.size()) {
      Outcome worst;
      try {
        worst = settle(impl_->group, mine);
      } catch (const DeviceError& error) {
        entries_[order[culprit]].failure = error.what();
        throw;
      }
      leave_out(order[culprit], TrialStatus::failed, worst.reason);
      --round;  // the others still get their samples; every repetition removes one subject, so this ends
    }
  }
  if (recheck == Recheck::no) return;
  for (const std::size_t index : which) verify(index, seed_after, "after");
}

void Timing::release(std::size_t index) {
  impl_->graphs.erase(index);
  entries_.at(index).verified = false;  // the next graph is another one
}

std::vector<double> Timing::take_samples(std::size_t index) { return std::exchange(entries_.at(index).samples_us, {}); }

}  // namespace arbiter
