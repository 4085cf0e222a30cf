// Streams, events and graphs of the CPU device. Work runs at once; a capturing stream records it instead.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "arbiter/runtime/device.hpp"

namespace arbiter {

using CpuOperation = std::function<void()>;

struct CpuStream {
  bool capturing = false;
  std::vector<CpuOperation> recorded;
};

class CpuGraph final : public Graph {
 public:
  explicit CpuGraph(std::vector<CpuOperation> operations, std::function<void(StreamHandle, const CpuOperation&)> issue)
      : operations_(std::move(operations)), issue_(std::move(issue)) {}
  void launch(StreamHandle stream) override {
    for (const CpuOperation& operation : operations_) issue_(stream, operation);
  }

 private:
  std::vector<CpuOperation> operations_;
  std::function<void(StreamHandle, const CpuOperation&)> issue_;  // runs it, or records it while `stream` captures
};

/// The time is shared with graphs that record the event, so the event may be destroyed first.
class CpuEvent final : public Event {
 public:
  using Clock = std::chrono::steady_clock;
  explicit CpuEvent(std::function<void(StreamHandle, const CpuOperation&)> issue) : issue_(std::move(issue)) {}
  void record(StreamHandle stream) override;
  double microseconds_since(const Event& earlier) override;

 private:
  std::function<void(StreamHandle, const CpuOperation&)> issue_;
  std::shared_ptr<std::optional<Clock::time_point>> time_ = std::make_shared<std::optional<Clock::time_point>>();
};

}  // namespace arbiter
