// The same allreduce by NCCL, and whether the two results agree.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "arbiter/device.hpp"
#include "comm_exchange.hpp"

namespace arbiter::nccl_interpose {

struct TakenCall;

/// Used under the lock of one communicator, outside capture. Every rank makes the same calls.
class Verifier {
 public:
  /// Allocates three messages of `message_bytes`, and one that is page-locked on the host.
  Verifier(std::shared_ptr<HostComm>, std::shared_ptr<Device>, std::size_t message_bytes);
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  /// Before the call: NCCL's result, and the bounds of what the ranks add up.
  void expect(const TakenCall&);
  /// Behind it: waits for the stream. Returns what differs, in a sentence; empty if nothing does.
  std::string compare(const TakenCall&);

 private:
  std::shared_ptr<HostComm> host_;
  std::shared_ptr<Device> device_;
  DeviceMemory sum_;
  DeviceMemory largest_;
  DeviceMemory smallest_;
  void* staging_;
};

}  // namespace arbiter::nccl_interpose
