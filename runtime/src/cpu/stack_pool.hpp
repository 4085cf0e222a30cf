// Stacks for the fibers of the CPU device: mapped once, reused by every launch.
#pragma once

#include <cstddef>
#include <vector>

namespace arbiter {

/// One stack; `top` is 16-byte aligned and the stack grows down from it to `bottom`.
struct FiberStack {
  std::byte* bottom = nullptr;
  std::byte* top = nullptr;
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(top - bottom); }
};

/// Hands out stacks in last-in, first-out order, so that a kernel whose threads never wait runs on one warm stack.
/// Not thread-safe: every scheduler owns one.
class FiberStackPool {
 public:
  FiberStackPool() = default;
  FiberStackPool(const FiberStackPool&) = delete;
  FiberStackPool& operator=(const FiberStackPool&) = delete;
  ~FiberStackPool();

  /// Makes sure that `count` stacks can be out at once. Throws Unavailable when no more memory can be mapped.
  void reserve(std::size_t count) {
    while (created_ < count) grow();
  }
  /// One of the reserved stacks.
  FiberStack take() noexcept {
    const FiberStack stack = free_.back();
    free_.pop_back();
    return stack;
  }
  /// Room was reserved when the stack was mapped, so this cannot fail.
  void give_back(FiberStack stack) noexcept { free_.push_back(stack); }

  static constexpr std::size_t stack_bytes = std::size_t{64} << 10;

 private:
  void grow();

  struct Mapping {
    void* address;
    std::size_t bytes;
  };
  std::vector<Mapping> mappings_;
  std::vector<FiberStack> free_;
  std::size_t created_ = 0;
};

}  // namespace arbiter
