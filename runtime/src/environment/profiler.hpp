// Ranges for profilers that speak NVTX (Nsight Systems): what Arbiter prepares, and which candidate serves a call. They
// cost a comparison where nobody listens, which is known when a communicator is made.
#pragma once

#include <cstdint>
#include <string>

namespace arbiter {

/// The domain "arbiter" of one communicator.
class ProfilerDomain {
 public:
  ProfilerDomain();
  ~ProfilerDomain();
  ProfilerDomain(const ProfilerDomain&) = delete;
  ProfilerDomain& operator=(const ProfilerDomain&) = delete;
  bool is_listened_to() const noexcept { return domain_ != nullptr; }

  /// Of the calling thread; ranges nest.
  void begin(const std::string& name, std::int64_t tokens) const noexcept;
  void end() const noexcept;

 private:
  void* domain_ = nullptr;
};

/// From here to the end of its scope. `name` is asked only where somebody listens.
class ProfilerRange {
 public:
  template <class Name>
  ProfilerRange(const ProfilerDomain& domain, std::int64_t tokens, const Name& name)
      : domain_(domain.is_listened_to() ? &domain : nullptr) {
    if (domain_ != nullptr) [[unlikely]]
      domain_->begin(name(), tokens);
  }
  ~ProfilerRange() {
    if (domain_ != nullptr) [[unlikely]]
      domain_->end();
  }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  const ProfilerDomain* domain_;
};

}  // namespace arbiter
