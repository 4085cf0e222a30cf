#include "tune/compile_ahead.hpp"

#include <algorithm>
#include <utility>

#include "tune/stopwatch.hpp"

namespace arbiter::tuning {
namespace {

constexpr int most_threads = 4;  // the compiler's front end takes one at a time

std::vector<Variant> kernels_of(const CandidateSpec& spec) {
  std::vector<Variant> kernels;
  for (const auto& part : {spec.kernel, spec.prologue, spec.epilogue}) {
    if (part) kernels.push_back(*part);
  }
  return kernels;
}

}  // namespace

int compile_threads(DeviceKind kind, int processors, int ranks_per_node) noexcept {
  // Ranks on the CPU device need the processors for their kernels, and one source serves them all.
  if (kind != DeviceKind::cuda) return 0;
  return std::clamp(processors / (2 * std::max(ranks_per_node, 1)), 1, most_threads);
}

int compile_threads(Group& group) {
  if (!group.cache().keeps()) return 0;
  return compile_threads(group.device().kind(), static_cast<int>(std::thread::hardware_concurrency()),
                         group.environment().ranks_per_node);
}

CompileAhead::CompileAhead(int threads, Compile compile) : compile_(std::move(compile)) {
  for (int i = 0; i < threads && compile_; ++i) threads_.emplace_back([this] { work(); });
}

CompileAhead::~CompileAhead() {
  stop();
  for (std::thread& thread : threads_) thread.join();
}

void CompileAhead::stop() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
}

void CompileAhead::later(const CandidateSpec& spec) {
  if (threads_.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    for (Variant& kernel : kernels_of(spec)) {
      if (begun_.count(kernel.full_name()) == 0) waiting_.push_back(std::move(kernel));
    }
  }
  changed_.notify_all();
}

void CompileAhead::soon(std::span<const CandidateSpec> specs) {
  if (threads_.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    auto at = waiting_.begin();
    for (const CandidateSpec& spec : specs) {
      for (Variant& kernel : kernels_of(spec)) {
        if (begun_.count(kernel.full_name()) == 0) at = std::next(waiting_.insert(at, std::move(kernel)));
      }
    }
  }
  changed_.notify_all();
}

void CompileAhead::now(const CandidateSpec& spec) {
  if (threads_.empty()) return;
  const std::lock_guard lock(mutex_);
  for (const Variant& kernel : kernels_of(spec)) begun_.insert(kernel.full_name());
}

double CompileAhead::seconds() const {
  const std::lock_guard lock(mutex_);
  return seconds_;
}

void CompileAhead::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
    if (ended_) return;
    const Variant kernel = std::move(waiting_.front());
    waiting_.pop_front();
    if (!begun_.insert(kernel.full_name()).second) continue;
    lock.unlock();
    double took = 0;
    try {
      const Stopwatch watch(took);
      compile_(kernel);
    } catch (...) {  // said where it is loaded
    }
    lock.lock();
    seconds_ += took;
  }
}

}  // namespace arbiter::tuning
