// Tells sanitizers about switches between stacks. Nothing without them.
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

/// In front of functions that a stack is left from for good. ThreadSanitizer keeps one list of a thread's calls that
/// have not returned, of a fixed size: each thread of a kernel would leave some behind, until it writes beyond the end.
#if !defined(ARBITER_THREAD_SANITIZER)
#define ARBITER_NEVER_RETURNS
#elif defined(__clang__)
#define ARBITER_NEVER_RETURNS __attribute__((disable_sanitizer_instrumentation))
#else
#define ARBITER_NEVER_RETURNS __attribute__((no_sanitize("thread")))
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
