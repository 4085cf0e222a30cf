// Preparing, calling, and memory that all ranks can address.
#include <fmt/format.h>

#include <vector>

#include "handles.hpp"
#include "structs.hpp"

using namespace arbiter;
using namespace arbiter::c;

extern "C" {

arbiter_status arbiter_prepare(arbiter_communicator* communicator, const arbiter_family* families, size_t count) {
  return with(communicator, "arbiter_prepare", [&](Communicator& target) {
    if (families == nullptr && count > 0) {
      throw InvalidArgument(fmt::format("arbiter_prepare: families is NULL; expected {} of them", count));
    }
    std::vector<ProblemFamily> wanted;
    // The caller's structs may be of another size than ours: its first one says how far they lie apart.
    const auto* next = reinterpret_cast<const unsigned char*>(families);
    for (std::size_t i = 0; i < count; ++i, next += families->struct_size) {
      wanted.push_back(read_family(reinterpret_cast<const arbiter_family*>(next)));
    }
    target.prepare(wanted);
  });
}

arbiter_status arbiter_prepare_nccl(arbiter_communicator* communicator, arbiter_dtype dtype, int64_t max_count) {
  return with(communicator, "arbiter_prepare_nccl",
              [&](Communicator& target) { target.prepare_nccl(read_dtype(dtype), max_count); });
}

arbiter_status arbiter_prepare_handle(arbiter_communicator* communicator, const arbiter_family* family,
                                      arbiter_handle** handle) {
  if (handle != nullptr) *handle = nullptr;
  return with(communicator, "arbiter_prepare_handle", [&](Communicator& target) {
    if (handle == nullptr) {
      throw InvalidArgument("the place for the handle is NULL; pass the address of an arbiter_handle*");
    }
    const PreparedFamily prepared = target.prepare(read_family(family));
    for (arbiter_handle& known : communicator->handles) {
      if (&known.prepared.family() == &prepared.family()) {
        *handle = &known;
        return;
      }
    }
    *handle = &communicator->handles.emplace_back(arbiter_handle{communicator, prepared});
  });
}

arbiter_status arbiter_run(arbiter_handle* handle, const arbiter_tensors* tensors, int64_t tokens, void* stream) {
  return guarded(handle == nullptr ? nullptr : handle->owner, [&] {
    if (handle == nullptr) {
      throw InvalidArgument("arbiter_run: the handle is NULL; pass one that arbiter_prepare_handle returned");
    }
    handle->prepared.run(read_tensors(tensors), tokens, stream);
  });
}

arbiter_status arbiter_all_reduce(arbiter_communicator* communicator, const void* input, void* output, int64_t count,
                                  arbiter_dtype dtype, void* stream) {
  return with(communicator, "arbiter_all_reduce",
              [&](Communicator& target) { target.all_reduce(input, output, count, read_dtype(dtype), stream); });
}

arbiter_status arbiter_allocate_symmetric(arbiter_communicator* communicator, size_t bytes, void** memory) {
  if (memory != nullptr) *memory = nullptr;
  return with(communicator, "arbiter_allocate_symmetric", [&](Communicator& target) {
    if (memory == nullptr) throw InvalidArgument("the place for the memory is NULL; pass the address of a void*");
    *memory = target.allocate_symmetric(bytes);
  });
}

arbiter_status arbiter_register_buffer(arbiter_communicator* communicator, void* memory, size_t bytes) {
  return with(communicator, "arbiter_register_buffer",
              [&](Communicator& target) { target.register_buffer(memory, bytes); });
}

arbiter_status arbiter_release_shared(arbiter_communicator* communicator, const void* memory) {
  return with(communicator, "arbiter_release_shared", [&](Communicator& target) { target.release_shared(memory); });
}

arbiter_status arbiter_device_allocate(arbiter_communicator* communicator, size_t bytes, void** memory) {
  if (memory != nullptr) *memory = nullptr;
  return with(communicator, "arbiter_device_allocate", [&](Communicator&) {
    if (memory == nullptr) throw InvalidArgument("the place for the memory is NULL; pass the address of a void*");
    *memory = communicator->device->allocate(bytes);
  });
}

arbiter_status arbiter_device_release(arbiter_communicator* communicator, void* memory) {
  return with(communicator, "arbiter_device_release", [&](Communicator&) {
    if (memory != nullptr) communicator->device->release(memory);
  });
}

arbiter_status arbiter_device_copy(arbiter_communicator* communicator, void* destination, const void* source,
                                   size_t bytes, void* stream) {
  return with(communicator, "arbiter_device_copy", [&](Communicator&) {
    if (bytes > 0 && (destination == nullptr || source == nullptr)) {
      throw InvalidArgument("arbiter_device_copy: destination or source is NULL");
    }
    communicator->device->copy(destination, source, bytes, stream);
  });
}

arbiter_status arbiter_device_synchronize(arbiter_communicator* communicator, void* stream) {
  return with(communicator, "arbiter_device_synchronize",
              [&](Communicator&) { communicator->device->synchronize(stream); });
}

}  // extern "C"
