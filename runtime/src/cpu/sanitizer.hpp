// Tells AddressSanitizer about switches between stacks. Nothing without it.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define ARBITER_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARBITER_ADDRESS_SANITIZER 1
#endif
#endif

#if defined(__SANITIZE_THREAD__)
#define ARBITER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define ARBITER_THREAD_SANITIZER 1
#endif
#endif

#ifdef ARBITER_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace arbiter {

/// `fake_stack` null: the stack that is left will never run again.
inline void before_stack_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                                [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef ARBITER_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#endif
}

inline void after_stack_switch([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** old_bottom,
                               [[maybe_unused]] std::size_t* old_bytes) noexcept {
#ifdef ARBITER_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(fake_stack, old_bottom, old_bytes);
#endif
}

/// A stack whose last user did not return may still be marked as holding variables.
inline void forget_stack_contents([[maybe_unused]] const void* bottom, [[maybe_unused]] std::size_t bytes) noexcept {
#ifdef ARBITER_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(bottom, bytes);
#endif
}

}  // namespace arbiter
