// What the environment says about this library; read once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "environment/logging.hpp"

namespace arbiter::nccl_interpose {

struct Settings {
  bool on = true;                ///< ARBITER_NCCL: on, off, verify or verify:N
  std::int64_t verify_each = 0;  ///< every so many allreduces NCCL does the same one too; 0: never
  /// ARBITER_NCCL_WORKSPACE: most bytes of device memory for one communicator. K, M and G are 2^10, 2^20 and 2^30.
  std::size_t workspace_bytes = std::size_t{256} << 20;
  /// CPU device instead of CUDA; only for tests, through ARBITER_NCCL_TEST_DEVICE=cpu.
  bool cpu_device = false;

  /// Largest message that a kernel of ours may get: rotating buffers and staging together take up to eight times that.
  /// Less where that, and the copies of messages, would be more than workspace_bytes.
  std::size_t message_bytes() const noexcept { return workspace_bytes / 8; }
};

const Settings& settings();
const Logger& log();

}  // namespace arbiter::nccl_interpose
