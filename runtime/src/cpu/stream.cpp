#include "cpu/stream.hpp"

#include "arbiter/error.hpp"

namespace arbiter {

std::vector<FiberTask> tasks_of(std::span<const CpuOperation> operations) {
  std::vector<FiberTask> tasks;
  tasks.reserve(operations.size());
  for (const CpuOperation& operation : operations) {
    tasks.push_back(operation.launch != nullptr ? FiberTask{operation.launch->launch} : FiberTask{{}, &operation.host});
  }
  return tasks;
}

void CpuEvent::record(StreamHandle stream) {
  const CpuOperation operation{nullptr, [time = time_] { *time = Clock::now(); }};
  issue_(stream, {&operation, 1});
}

double CpuEvent::microseconds_since(const Event& earlier) {
  const auto* other = dynamic_cast<const CpuEvent*>(&earlier);
  if (other == nullptr) throw InvalidArgument("the earlier event is not one of the CPU device");
  if (!time_->has_value() || !other->time_->has_value()) {
    throw InvalidArgument("both events must be recorded before the time between them is asked");
  }
  return std::chrono::duration<double, std::micro>(**time_ - **other->time_).count();
}

}  // namespace arbiter
