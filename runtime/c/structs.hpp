// Size-prefixed structs of arbiter.h, read into what the C++ interface takes.
#pragma once

#include <cstring>
#include <string>

#include "arbiter.h"
#include "arbiter/communicator.hpp"
#include "arbiter/error.hpp"

namespace arbiter::c {

[[noreturn]] void refuse_size(const char* name, std::size_t size, std::size_t known, const char* macro);

/// A struct of a caller with an older header has fewer bytes: the rest keeps its defaults. One with a newer header has
/// more: they must be zero, because what they ask for is not known here.
/// `smallest` is the size that the first version of the struct had.
template <class Struct>
Struct read_struct(const Struct* given, const Struct& defaults, std::size_t smallest, const char* name,
                   const char* macro) {
  if (given == nullptr) throw InvalidArgument(std::string(name) + " is NULL; pass one that " + macro + " set up");
  const std::size_t size = given->struct_size;
  if (size < smallest || size > 65536) refuse_size(name, size, sizeof(Struct), macro);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] != 0) refuse_size(name, size, sizeof(Struct), macro);
  }
  Struct known = defaults;
  std::memcpy(&known, given, size < sizeof(Struct) ? size : sizeof(Struct));
  return known;
}

arbiter_communicator_options read_options(const arbiter_communicator_options*);
arbiter_callbacks read_callbacks(const arbiter_callbacks*);
ProblemFamily read_family(const arbiter_family*);
CallTensors read_tensors(const arbiter_tensors*);
Dtype read_dtype(int dtype);

/// Everything of the options but the device.
CommunicatorOptions communicator_options(const arbiter_communicator_options&);

}  // namespace arbiter::c
