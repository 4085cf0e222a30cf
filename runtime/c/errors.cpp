#include "arbiter/error.hpp"

#include <new>

#include "handles.hpp"

namespace arbiter::c {
namespace {

thread_local std::string thread_error;
thread_local std::string returned_error;  // what this thread's last arbiter_last_error(communicator) gave

}  // namespace

void remember_error(const arbiter_communicator* communicator, const char* message) noexcept {
  try {
    thread_error = message;
    if (communicator == nullptr) return;
    const std::lock_guard lock(communicator->error_mutex);
    communicator->error = message;
  } catch (...) {
    // No memory for the message: the status is left.
  }
}

arbiter_status status_of_exception(const arbiter_communicator* communicator) noexcept {
  const auto as = [&](arbiter_status status, const std::exception& error) {
    remember_error(communicator, error.what());
    return status;
  };
  try {
    throw;
  } catch (const InvalidArgument& error) {
    return as(ARBITER_INVALID_ARGUMENT, error);
  } catch (const Unsupported& error) {
    return as(ARBITER_UNSUPPORTED, error);
  } catch (const Unavailable& error) {
    return as(ARBITER_UNAVAILABLE, error);
  } catch (const CompileError& error) {
    return as(ARBITER_COMPILE_ERROR, error);
  } catch (const DatabaseError& error) {
    return as(ARBITER_DATABASE_ERROR, error);
  } catch (const Disagreement& error) {
    return as(ARBITER_DISAGREEMENT, error);
  } catch (const DeviceError& error) {
    return as(ARBITER_DEVICE_ERROR, error);
  } catch (const Poisoned& error) {
    return as(ARBITER_POISONED, error);
  } catch (const std::bad_alloc& error) {
    remember_error(communicator, "there is not enough host memory");
    return ARBITER_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    return as(ARBITER_INTERNAL_ERROR, error);
  } catch (...) {
    remember_error(communicator, "something that is no std::exception was thrown");
    return ARBITER_INTERNAL_ERROR;
  }
}

}  // namespace arbiter::c

extern "C" {

const char* arbiter_last_error(const arbiter_communicator* communicator) {
  using namespace arbiter::c;
  if (communicator == nullptr) return thread_error.c_str();
  try {
    const std::lock_guard lock(communicator->error_mutex);
    returned_error = communicator->error;
    return returned_error.c_str();
  } catch (...) {
    return "there is not enough host memory for the message";
  }
}

const char* arbiter_status_name(arbiter_status status) {
  switch (status) {
    case ARBITER_SUCCESS:
      return "success";
    case ARBITER_INVALID_ARGUMENT:
      return "invalid_argument";
    case ARBITER_UNSUPPORTED:
      return "unsupported";
    case ARBITER_UNAVAILABLE:
      return "unavailable";
    case ARBITER_COMPILE_ERROR:
      return "compile_error";
    case ARBITER_DATABASE_ERROR:
      return "database_error";
    case ARBITER_DISAGREEMENT:
      return "disagreement";
    case ARBITER_DEVICE_ERROR:
      return "device_error";
    case ARBITER_POISONED:
      return "poisoned";
    case ARBITER_BUFFER_TOO_SMALL:
      return "buffer_too_small";
    case ARBITER_OUT_OF_MEMORY:
      return "out_of_memory";
    case ARBITER_INTERNAL_ERROR:
      return "internal_error";
  }
  return "unknown";
}

const char* arbiter_version(void) { return ARBITER_VERSION; }
uint32_t arbiter_abi_version(void) { return ARBITER_ABI_VERSION; }

}  // extern "C"
