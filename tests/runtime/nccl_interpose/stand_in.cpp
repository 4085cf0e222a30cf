// A libnccl.so.2 for tests without GPUs: host memory, ranks that are threads or processes of one machine, every call
// done when it returns (in a group: when the group ends). It counts allreduces, so that tests see who served a call.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#define STAND_IN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int success = 0;
constexpr int in_progress = 7;
constexpr int internal_error = 3;
constexpr int invalid_argument = 4;
constexpr int most_ranks = 8;
constexpr std::size_t slot_bytes = 1 << 16;

struct Shared {
  std::atomic<int> arrived;
  std::atomic<int> round;
  char slots[most_ranks][slot_bytes];
};

struct UniqueId {
  char name[128];
};

int version() {
  const char* text = std::getenv("STAND_IN_VERSION");
  return text == nullptr ? 22803 : std::atoi(text);
}

std::size_t element_bytes(int type) {
  switch (type) {
    case 0:
    case 1:
      return 1;
    case 6:
    case 9:
      return 2;
    case 7:
      return 4;
    default:
      return 8;
  }
}

float to_float(int type, const char* data) {
  std::uint16_t half = 0;
  if (type == 7) {
    float value = 0;
    std::memcpy(&value, data, sizeof(value));
    return value;
  }
  std::memcpy(&half, data, sizeof(half));
  if (type == 6) {
    _Float16 value = 0;
    std::memcpy(&value, &half, sizeof(half));
    return static_cast<float>(value);
  }
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void from_float(int type, float value, char* data) {
  if (type == 7) {
    std::memcpy(data, &value, sizeof(value));
  } else if (type == 6) {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(data, &half, sizeof(half));
  } else {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    bits += 0x7fffU + ((bits >> 16) & 1U);
    const auto half = static_cast<std::uint16_t>(bits >> 16);
    std::memcpy(data, &half, sizeof(half));
  }
}

std::atomic<int> allreduces{0};

}  // namespace

struct ncclComm {
  Shared* shared = nullptr;
  int rank = 0;
  int size = 0;
  int splits = 0;
  std::string name;
  std::atomic<bool> aborted{false};
  bool blocking = true;
  std::string in_flight;           ///< what this rank sent to itself
  std::atomic<int> unfinished{0};  ///< how often the question whether a call is through is still answered with no

  bool barrier() {
    const int round = shared->round.load();
    if (shared->arrived.fetch_add(1) + 1 == size) {
      shared->arrived.store(0);
      shared->round.fetch_add(1);
      return true;
    }
    while (shared->round.load() == round) {
      if (aborted) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    return true;
  }

  /// `each(rank, data, offset, bytes)` sees every rank's part, in rank order.
  int exchange(const void* send, std::size_t bytes,
               const std::function<void(int, const char*, std::size_t, std::size_t)>& each) {
    for (std::size_t offset = 0; offset < bytes; offset += slot_bytes) {
      const std::size_t part = std::min(slot_bytes, bytes - offset);
      std::memcpy(shared->slots[rank], static_cast<const char*>(send) + offset, part);
      if (!barrier()) return internal_error;
      for (int r = 0; r < size; ++r) each(r, shared->slots[r], offset, part);
      if (!barrier()) return internal_error;
    }
    return success;
  }
};

namespace {

ncclComm* map_comm(const std::string& name, int size, int rank) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return nullptr;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return nullptr;
  auto* comm = new ncclComm;
  comm->shared = static_cast<Shared*>(memory);
  comm->rank = rank;
  comm->size = size;
  comm->name = name;
  return comm;
}

ncclComm* open_comm(const std::string& name, int size, int rank) {
  ncclComm* comm = map_comm(name, size, rank);
  if (comm == nullptr) return nullptr;
  comm->barrier();
  if (rank == 0) shm_unlink(name.c_str());
  return comm;
}

struct Grouped {
  const void* key;  // what belongs to one rank runs in order, everything else at the same time
  ncclComm* comm;
  std::function<int()> work;
};
thread_local int depth = 0;
thread_local std::vector<Grouped> grouped;

int enqueue(const void* key, ncclComm* comm, std::function<int()> work) {
  if (comm != nullptr && comm->unfinished > 0) return invalid_argument;  // as NCCL: ask first whether it is through
  if (depth > 0) {
    grouped.push_back({key, comm, std::move(work)});
    return success;
  }
  const int result = work();
  if (comm == nullptr || comm->blocking || result != success) return result;
  comm->unfinished = 3;
  return in_progress;
}
int enqueue(ncclComm* comm, std::function<int()> work) { return enqueue(comm, comm, std::move(work)); }

struct Config {
  std::size_t size;
  unsigned magic;
  unsigned version;
  int blocking;
};

int all_reduce(const void* send, void* receive, std::size_t count, int type, int operation, ncclComm* comm) {
  ++allreduces;
  const std::size_t element = element_bytes(type);
  std::vector<float> sum(count, 0.0F);
  const int result =
      comm->exchange(send, count * element, [&](int rank, const char* data, std::size_t offset, std::size_t bytes) {
        for (std::size_t i = 0; i < bytes / element; ++i) {
          float& value = sum[offset / element + i];
          const float other = to_float(type, data + i * element);
          if (rank == 0) {
            value = other;
          } else if (operation == 2) {
            value = std::max(value, other);
          } else if (operation == 3) {
            value = std::min(value, other);
          } else {
            value += other;
          }
        }
      });
  for (std::size_t i = 0; i < count; ++i) from_float(type, sum[i], static_cast<char*>(receive) + i * element);
  if (std::getenv("STAND_IN_WRONG") != nullptr && count > 0 && operation == 0) {
    from_float(type, sum[0] + 1000.0F, static_cast<char*>(receive));
  }
  return result;
}

}  // namespace

STAND_IN_EXPORT int stand_in_allreduces() { return allreduces.load(); }

STAND_IN_EXPORT int ncclGetVersion(int* number) {
  *number = version();
  return success;
}
STAND_IN_EXPORT int pncclGetVersion(int* number) { return ncclGetVersion(number); }
STAND_IN_EXPORT const char* ncclGetErrorString(int) { return "an error of the stand-in"; }
STAND_IN_EXPORT const char* ncclGetLastError(ncclComm*) { return "it said so"; }
STAND_IN_EXPORT int ncclGetUniqueId(UniqueId* id) {
  static std::atomic<int> counter{0};
  std::memset(id, 0, sizeof(*id));
  std::snprintf(id->name, sizeof(id->name), "/arbiter-stand-in-%d-%d", static_cast<int>(getpid()), ++counter);
  return success;
}
STAND_IN_EXPORT int ncclCommInitRankConfig(ncclComm** comm, int size, UniqueId id, int rank, void* config) {
  if (size < 1 || size > most_ranks) return invalid_argument;
  return enqueue(comm, nullptr, [=] {
    *comm = open_comm(id.name, size, rank);
    if (*comm == nullptr) return internal_error;
    if (config != nullptr) (*comm)->blocking = static_cast<const Config*>(config)->blocking != 0;
    return success;
  });
}
STAND_IN_EXPORT int ncclCommInitRank(ncclComm** comm, int size, UniqueId id, int rank) {
  return ncclCommInitRankConfig(comm, size, id, rank, nullptr);
}
STAND_IN_EXPORT int ncclCommInitRankScalable(ncclComm** comm, int size, int rank, int, UniqueId* ids, void* config) {
  return ncclCommInitRankConfig(comm, size, ids[0], rank, config);
}
STAND_IN_EXPORT int ncclCommInitAll(ncclComm** comms, int size, const int*) {
  UniqueId id;
  ncclGetUniqueId(&id);
  for (int rank = 0; rank < size; ++rank) comms[rank] = map_comm(id.name, size, rank);
  shm_unlink(id.name);
  return success;
}
STAND_IN_EXPORT int ncclCommShrink(ncclComm* comm, int* excluded, int excluded_count, ncclComm** shrunk, void*, int) {
  const auto before = [&](int rank) {
    return static_cast<int>(std::count_if(excluded, excluded + excluded_count, [&](int r) { return r < rank; }));
  };
  *shrunk = open_comm(comm->name + "-shrunk-" + std::to_string(++comm->splits), comm->size - excluded_count,
                      comm->rank - before(comm->rank));
  return *shrunk == nullptr ? internal_error : success;
}
STAND_IN_EXPORT int ncclCommSplit(ncclComm* comm, int color, int key, ncclComm** split, void*) {
  struct Wish {
    int color, key, rank;
  } mine{color, key, comm->rank};
  std::vector<Wish> group;
  const int result = comm->exchange(&mine, sizeof(mine), [&](int, const char* data, std::size_t, std::size_t) {
    Wish wish{};
    std::memcpy(&wish, data, sizeof(wish));
    if (wish.color == color) group.push_back(wish);
  });
  if (result != success) return result;
  int rank = 0;
  for (const Wish& wish : group) {
    if (wish.key < key || (wish.key == key && wish.rank < comm->rank)) ++rank;
  }
  const std::string name = comm->name + "-" + std::to_string(++comm->splits) + "-" + std::to_string(color);
  *split = open_comm(name, static_cast<int>(group.size()), rank);
  return *split == nullptr ? internal_error : success;
}
STAND_IN_EXPORT int ncclCommCount(const ncclComm* comm, int* count) {
  *count = comm->size;
  return success;
}
STAND_IN_EXPORT int ncclCommUserRank(const ncclComm* comm, int* rank) {
  *rank = comm->rank;
  return success;
}
STAND_IN_EXPORT int ncclCommCuDevice(const ncclComm* comm, int* device) {
  *device = comm->rank;
  return success;
}
STAND_IN_EXPORT int ncclCommGetAsyncError(ncclComm* comm, int* error) {
  *error = comm->aborted ? internal_error : comm->unfinished > 0 ? in_progress : success;
  if (comm->unfinished > 0) --comm->unfinished;
  return success;
}
STAND_IN_EXPORT int ncclCommFinalize(ncclComm*) { return success; }
STAND_IN_EXPORT int ncclCommDestroy(ncclComm* comm) {
  munmap(comm->shared, sizeof(Shared));
  delete comm;
  return success;
}
STAND_IN_EXPORT int ncclCommAbort(ncclComm* comm) {
  comm->aborted = true;  // others may still be in it: never freed
  return success;
}
STAND_IN_EXPORT int ncclGroupStart() {
  ++depth;
  return success;
}
STAND_IN_EXPORT int ncclGroupEnd() {
  if (--depth > 0) return success;
  const std::vector<Grouped> all = std::move(grouped);
  grouped.clear();
  std::vector<const void*> keys;
  std::vector<std::thread> threads;
  std::atomic<int> result{success};
  for (const Grouped& first : all) {
    if (std::find(keys.begin(), keys.end(), first.key) != keys.end()) continue;
    keys.push_back(first.key);
    threads.emplace_back([&all, &result, key = first.key] {
      for (const Grouped& one : all) {
        if (one.key != key) continue;
        if (const int returned = one.work(); returned != success) result = returned;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Grouped& one : all) {
    if (one.comm == nullptr || one.comm->blocking || result != success) continue;
    one.comm->unfinished = 3;
    result = in_progress;
  }
  return result;
}
STAND_IN_EXPORT int ncclAllReduce(const void* send, void* receive, std::size_t count, int type, int operation,
                                  ncclComm* comm, void*) {
  static const bool idle = std::getenv("STAND_IN_IDLE") != nullptr;  // to see what a call costs on the way here
  if (idle) return success;
  return enqueue(comm, [=] { return all_reduce(send, receive, count, type, operation, comm); });
}
STAND_IN_EXPORT int ncclAllGather(const void* send, void* receive, std::size_t count, int type, ncclComm* comm, void*) {
  const std::size_t all = count * element_bytes(type);
  return enqueue(comm, [=] {
    return comm->exchange(send, all, [&](int rank, const char* data, std::size_t offset, std::size_t bytes) {
      std::memcpy(static_cast<char*>(receive) + static_cast<std::size_t>(rank) * all + offset, data, bytes);
    });
  });
}
STAND_IN_EXPORT int ncclBroadcast(const void* send, void* receive, std::size_t count, int type, int root,
                                  ncclComm* comm, void*) {
  return enqueue(comm, [=] {
    return comm->exchange(send, count * element_bytes(type),
                          [&](int rank, const char* data, std::size_t offset, std::size_t bytes) {
                            if (rank == root) std::memcpy(static_cast<char*>(receive) + offset, data, bytes);
                          });
  });
}
// To the rank itself only.
STAND_IN_EXPORT int ncclSend(const void* send, std::size_t count, int type, int peer, ncclComm* comm, void*) {
  if (peer != comm->rank) return invalid_argument;
  return enqueue(comm, [=] {
    comm->in_flight.assign(static_cast<const char*>(send), count * element_bytes(type));
    return success;
  });
}
STAND_IN_EXPORT int ncclRecv(void* receive, std::size_t count, int type, int peer, ncclComm* comm, void*) {
  if (peer != comm->rank) return invalid_argument;
  return enqueue(comm, [=] {
    if (comm->in_flight.size() != count * element_bytes(type)) return internal_error;
    std::memcpy(receive, comm->in_flight.data(), comm->in_flight.size());
    return success;
  });
}
