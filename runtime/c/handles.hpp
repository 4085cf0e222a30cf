// What the opaque types of arbiter.h are, and how exceptions become statuses.
#pragma once

#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "arbiter.h"
#include "arbiter/communicator.hpp"

struct arbiter_handle {
  arbiter_communicator* owner;
  arbiter::PreparedFamily prepared;
};

struct arbiter_communicator {
  // In this order: the communicator goes before what it uses.
  std::shared_ptr<arbiter::Device> device;
  std::unique_ptr<arbiter::Communicator> communicator;
  std::deque<arbiter_handle> handles;  // they never move

  mutable std::mutex error_mutex;
  mutable std::string error;
};

namespace arbiter::c {

/// Remembers `message` for arbiter_last_error() of this thread and, if there is one, of the communicator.
void remember_error(const arbiter_communicator*, const char* message) noexcept;
/// What is being thrown, as a status; its message is remembered. Call it in a catch block.
arbiter_status status_of_exception(const arbiter_communicator*) noexcept;

/// Runs `action`; nothing that it throws gets out. A null communicator is allowed.
template <class Action>
arbiter_status guarded(const arbiter_communicator* communicator, Action&& action) noexcept {
  try {
    std::forward<Action>(action)();
    return ARBITER_SUCCESS;
  } catch (...) {
    return status_of_exception(communicator);
  }
}

/// The same with a communicator that must be there.
template <class Action>
arbiter_status with(const arbiter_communicator* communicator, const char* function, Action&& action) noexcept {
  return guarded(communicator, [&] {
    if (communicator == nullptr) {
      throw InvalidArgument(std::string(function) + ": the communicator is NULL; pass one that a creation returned");
    }
    std::forward<Action>(action)(*communicator->communicator);
  });
}

}  // namespace arbiter::c
