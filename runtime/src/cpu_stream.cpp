#include "cpu_stream.hpp"

#include "arbiter/error.hpp"

namespace arbiter {

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
