// A stream that lives as long as its scope.
#pragma once

#include "arbiter/device.hpp"

namespace arbiter::tuning {

class Stream {
 public:
  explicit Stream(Device& device) : device_(device), handle_(device.create_stream()) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { device_.destroy_stream(handle_); }
  operator StreamHandle() const noexcept { return handle_; }

 private:
  Device& device_;
  StreamHandle handle_;
};

}  // namespace arbiter::tuning
