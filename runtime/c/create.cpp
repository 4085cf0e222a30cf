// Communicators from whatever the host program has, and their end.
#include <fmt/format.h>

#include <functional>
#include <thread>
#include <vector>

#include "handles.hpp"
#include "structs.hpp"

namespace {

using namespace arbiter;
using namespace arbiter::c;

/// What every creation does: clears the result, reads the options, builds, hands over.
using Build = std::function<std::unique_ptr<arbiter_communicator>(const arbiter_communicator_options&)>;

arbiter_status create(const arbiter_communicator_options* options, arbiter_communicator** result, const Build& build) {
  if (result != nullptr) *result = nullptr;
  return guarded(nullptr, [&] {
    if (result == nullptr) {
      throw InvalidArgument("the place for the communicator is NULL; pass the address of an arbiter_communicator*");
    }
    *result = build(read_options(options)).release();
  });
}

DeviceKind device_kind(int given, int gpus_needed) {
  switch (given) {
    case ARBITER_DEVICE_AUTO:
      return cuda_device_count() >= gpus_needed ? DeviceKind::cuda : DeviceKind::cpu;
    case ARBITER_DEVICE_CUDA:
      return DeviceKind::cuda;
    case ARBITER_DEVICE_CPU:
      return DeviceKind::cpu;
    default:
      throw InvalidArgument(
          fmt::format("arbiter_communicator_options.device is {}; expected ARBITER_DEVICE_AUTO, ARBITER_DEVICE_CUDA or "
                      "ARBITER_DEVICE_CPU",
                      given));
  }
}

std::shared_ptr<Device> make_device(DeviceKind kind, int ordinal, int rank) {
  if (kind == DeviceKind::cpu) return make_cpu_device(rank);
  return make_cuda_device(ordinal >= 0 ? ordinal : current_cuda_device());
}

std::unique_ptr<arbiter_communicator> make(std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device,
                                           const CommunicatorOptions& options) {
  auto made = std::make_unique<arbiter_communicator>();
  made->device = std::move(device);
  made->communicator = std::make_unique<Communicator>(std::move(bootstrap), made->device, options);
  return made;
}

void require_success(const char* function, int code) {
  if (code != 0) {
    throw DeviceError(fmt::format("the host program's {} callback failed with code {}", function, code));
  }
}

std::shared_ptr<Bootstrap> bootstrap_of(const arbiter_callbacks& given) {
  BootstrapCallbacks group;
  group.rank = given.rank;
  group.size = given.size;
  if (given.allgather != nullptr) {
    group.allgather = [given](const void* send, std::size_t bytes, void* receive) {
      require_success("allgather", given.allgather(given.user, send, bytes, receive));
    };
  }
  if (given.broadcast != nullptr) {
    group.broadcast = [given](void* data, std::size_t bytes, int root) {
      require_success("broadcast", given.broadcast(given.user, data, bytes, root));
    };
  }
  if (given.barrier != nullptr) {
    group.barrier = [given] { require_success("barrier", given.barrier(given.user)); };
  }
  return make_callbacks_bootstrap(std::move(group));
}

/// Only with GPUs: what the ranks exchange goes through NCCL.
std::shared_ptr<Device> make_nccl_device(const arbiter_communicator_options& options, int ordinal) {
  if (options.device == ARBITER_DEVICE_CPU) {
    throw InvalidArgument("ranks that meet through NCCL need GPUs; ARBITER_DEVICE_CPU was asked for");
  }
  return make_device(DeviceKind::cuda, ordinal, 0);
}

}  // namespace

extern "C" {

arbiter_status arbiter_create_from_callbacks(const arbiter_callbacks* callbacks,
                                             const arbiter_communicator_options* options,
                                             arbiter_communicator** communicator) {
  return create(options, communicator, [&](const arbiter_communicator_options& given) {
    const arbiter_callbacks group = read_callbacks(callbacks);
    std::shared_ptr<Bootstrap> bootstrap = bootstrap_of(group);
    CommunicatorOptions with = communicator_options(given);
    // The host program has its own way to exchange data: NCCL's start is worth saving where nothing is left to NCCL.
    with.nccl_when_needed = given.nccl == ARBITER_DEFAULT;
    return make(std::move(bootstrap), make_device(device_kind(given.device, 1), given.ordinal, group.rank), with);
  });
}

arbiter_status arbiter_get_unique_id(void* id) {
  return guarded(nullptr, [&] {
    if (id == nullptr) throw InvalidArgument("arbiter_get_unique_id: id is NULL; expected room for 128 bytes");
    make_unique_id(id);
  });
}

arbiter_status arbiter_create_from_unique_id(const void* id, int rank, int size,
                                             const arbiter_communicator_options* options,
                                             arbiter_communicator** communicator) {
  return create(options, communicator, [&](const arbiter_communicator_options& given) {
    if (id == nullptr) throw InvalidArgument("the unique id is NULL; expected the 128 bytes of an ncclUniqueId");
    std::shared_ptr<Device> device = make_nccl_device(given, given.ordinal);
    device->activate();
    std::shared_ptr<Bootstrap> bootstrap = make_unique_id_bootstrap(id, rank, size);
    return make(std::move(bootstrap), std::move(device), communicator_options(given));
  });
}

arbiter_status arbiter_create_from_nccl(void* nccl_comm, const arbiter_communicator_options* options,
                                        arbiter_communicator** communicator) {
  return create(options, communicator, [&](const arbiter_communicator_options& given) {
    const LentNcclComm lent = examine_nccl_comm(nccl_comm);
    std::shared_ptr<Device> device = make_nccl_device(given, lent.ordinal);
    device->activate();
    return make(make_nccl_comm_bootstrap(lent), std::move(device), communicator_options(given));
  });
}

arbiter_status arbiter_create_from_environment(const arbiter_communicator_options* options,
                                               arbiter_communicator** communicator) {
  return create(options, communicator, [&](const arbiter_communicator_options& given) {
    const LauncherVariables variables = read_launcher_variables();
    const int ordinal = given.ordinal >= 0 ? given.ordinal : variables.local_rank;
    const DeviceKind kind = device_kind(given.device, 1);
    if (kind == DeviceKind::cpu && variables.size > 1) {
      throw Unavailable(
          "launched ranks meet through NCCL, which needs GPUs, and this process sees none; on the CPU device, use "
          "arbiter_create_from_callbacks or arbiter_create_in_process");
    }
    std::shared_ptr<Device> device = make_device(kind, ordinal, variables.rank);
    device->activate();
    std::shared_ptr<Bootstrap> bootstrap = make_launcher_bootstrap(variables);
    return make(std::move(bootstrap), std::move(device), communicator_options(given));
  });
}

arbiter_status arbiter_create_in_process(int size, const arbiter_communicator_options* options,
                                         arbiter_communicator** communicators) {
  for (int rank = 0; communicators != nullptr && rank < size; ++rank) communicators[rank] = nullptr;
  return guarded(nullptr, [&] {
    if (communicators == nullptr) {
      throw InvalidArgument("the place for the communicators is NULL; pass an array with one pointer for each rank");
    }
    if (size < 1) throw InvalidArgument(fmt::format("a group of {} ranks; expected 1 or more", size));
    const arbiter_communicator_options given = read_options(options);
    const CommunicatorOptions shared = communicator_options(given);
    const DeviceKind kind = device_kind(given.device, size);
    const auto count = static_cast<std::size_t>(size);
    std::vector<std::unique_ptr<Bootstrap>> bootstraps = make_in_process_bootstraps(size);
    std::vector<std::unique_ptr<arbiter_communicator>> made(count);
    std::vector<std::exception_ptr> failures(count);
    const auto on_all_ranks = [&](const std::function<void(std::size_t)>& action) {
      std::vector<std::thread> threads;
      for (std::size_t rank = 0; rank < count; ++rank) threads.emplace_back(action, rank);
      for (std::thread& thread : threads) thread.join();
    };
    on_all_ranks([&](std::size_t rank) {
      try {
        std::shared_ptr<Bootstrap> bootstrap = std::move(bootstraps[rank]);
        const int number = static_cast<int>(rank);
        made[rank] = make(std::move(bootstrap), make_device(kind, number, number), shared);
      } catch (...) {
        failures[rank] = std::current_exception();
      }
    });
    for (const std::exception_ptr& failure : failures) {
      if (!failure) continue;
      on_all_ranks([&](std::size_t rank) { made[rank].reset(); });
      std::rethrow_exception(failure);
    }
    for (std::size_t rank = 0; rank < count; ++rank) communicators[rank] = made[rank].release();
  });
}

void arbiter_destroy(arbiter_communicator* communicator) { delete communicator; }

int arbiter_rank(const arbiter_communicator* communicator) {
  return communicator == nullptr ? -1 : communicator->communicator->rank();
}
int arbiter_size(const arbiter_communicator* communicator) {
  return communicator == nullptr ? -1 : communicator->communicator->size();
}

}  // extern "C"
