#include "arbiter/device.hpp"

namespace arbiter {

std::string_view to_string(DeviceKind kind) noexcept { return kind == DeviceKind::cuda ? "cuda" : "cpu"; }

}  // namespace arbiter
