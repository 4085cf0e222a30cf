// The exceptions of the C++ interface. Every message says what was wrong, what was expected and what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace arbiter {

/// Root of every exception that Arbiter throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller passed something that can never work: a wrong shape, dtype, pointer, name or number.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The request is legal, but this device, build or configuration cannot serve it.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// Something outside the program is missing: driver, NCCL, NVRTC, a compiler, memory.
class Unavailable : public Error {
 public:
  using Error::Error;
};

/// A generated source did not compile, or a catalogue, template or cache entry is broken.
class CompileError : public Error {
 public:
  using Error::Error;
};

/// A database or snapshot could not be used; the message names the file and the reason.
class DatabaseError : public Error {
 public:
  using Error::Error;
};

/// The ranks of a communicator do not agree on something they must agree on.
class Disagreement : public Error {
 public:
  using Error::Error;
};

/// A CUDA, NCCL or operating-system call failed.
class DeviceError : public Error {
 public:
  using Error::Error;
};

/// A peer did not arrive within the deadline, or an earlier call timed out: the communicator is poisoned.
class Poisoned : public Error {
 public:
  using Error::Error;
};

}  // namespace arbiter
