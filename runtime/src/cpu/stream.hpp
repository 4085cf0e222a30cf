// Streams, events and graphs of the CPU device. Work runs at once; a capturing stream records it instead.
#pragma once

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "arbiter/device.hpp"
#include "cpu/image.hpp"
#include "cpu/scheduler.hpp"

namespace arbiter {

/// Arguments of a launch, copied, and aligned for anything they may hold.
class CpuArguments {
 public:
  CpuArguments(const void* arguments, std::size_t bytes) : units_(bytes / sizeof(Unit) + 1) {
    if (bytes != 0) std::memcpy(units_.data(), arguments, bytes);
  }
  const void* data() const noexcept { return units_.data(); }

 private:
  struct alignas(16) Unit {
    std::byte bytes[16];
  };
  std::vector<Unit> units_;
};

struct CpuLaunch {
  FiberLaunch launch;  // entry, slot and arguments are filled in from below
  std::shared_ptr<CpuImage> image;
  CpuArguments arguments;
};

/// One thing in a stream: a launch, or something the host does.
struct CpuOperation {
  std::shared_ptr<const CpuLaunch> launch;  // null: host
  std::function<void()> host;
};

/// The same for the scheduler, which keeps pointers to the operations.
std::vector<FiberTask> tasks_of(std::span<const CpuOperation>);

/// Runs operations in order, or records them while the stream captures.
using CpuIssue = std::function<void(StreamHandle, std::span<const CpuOperation>)>;

struct CpuStream {
  bool capturing = false;
  std::vector<CpuOperation> recorded;
};

class CpuGraph final : public Graph {
 public:
  explicit CpuGraph(std::vector<CpuOperation> operations, CpuIssue issue)
      : operations_(std::move(operations)), issue_(std::move(issue)) {}
  void launch(StreamHandle stream) override { issue_(stream, operations_); }
  const std::vector<CpuOperation>& operations() const noexcept { return operations_; }

 private:
  std::vector<CpuOperation> operations_;
  CpuIssue issue_;
};

/// The time is shared with graphs that record the event, so the event may be destroyed first.
class CpuEvent final : public Event {
 public:
  using Clock = std::chrono::steady_clock;
  explicit CpuEvent(CpuIssue issue) : issue_(std::move(issue)) {}
  void record(StreamHandle stream) override;
  double microseconds_since(const Event& earlier) override;

 private:
  CpuIssue issue_;
  std::shared_ptr<std::optional<Clock::time_point>> time_ = std::make_shared<std::optional<Clock::time_point>>();
};

}  // namespace arbiter
