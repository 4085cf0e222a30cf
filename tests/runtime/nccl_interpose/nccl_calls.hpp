// NCCL's functions as a program finds them in a library that it has opened, and data to reduce.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace arbiter::test {

using Comm = struct ncclComm*;
struct UniqueId {
  std::array<char, 128> bytes{};
};

/// The beginning of ncclConfig_t.
struct Config {
  std::size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21400;
  int blocking = 0;
};

struct NcclCalls {
  explicit NcclCalls(void* handle) {
    load(handle, "ncclGetUniqueId", get_unique_id);
    load(handle, "ncclCommInitRank", init_rank);
    load(handle, "ncclCommInitRankConfig", init_rank_config);
    load(handle, "ncclCommInitRankScalable", init_rank_scalable);
    load(handle, "ncclCommInitAll", init_all);
    load(handle, "ncclCommSplit", split);
    load(handle, "ncclCommShrink", shrink);
    load(handle, "ncclCommDestroy", destroy);
    load(handle, "ncclCommAbort", abort);
    load(handle, "ncclCommGetAsyncError", async_error);
    load(handle, "ncclGroupStart", group_start);
    load(handle, "ncclGroupEnd", group_end);
    load(handle, "ncclAllReduce", all_reduce);
  }
  int (*get_unique_id)(UniqueId*) = nullptr;
  int (*init_rank)(Comm*, int, UniqueId, int) = nullptr;
  int (*init_rank_config)(Comm*, int, UniqueId, int, Config*) = nullptr;
  int (*init_rank_scalable)(Comm*, int, int, int, UniqueId*, Config*) = nullptr;
  int (*init_all)(Comm*, int, const int*) = nullptr;
  int (*split)(Comm, int, int, Comm*, void*) = nullptr;
  int (*shrink)(Comm, int*, int, Comm*, void*, int) = nullptr;
  int (*destroy)(Comm) = nullptr;
  int (*abort)(Comm) = nullptr;
  int (*async_error)(Comm, int*) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*all_reduce)(const void*, void*, std::size_t, int, int, Comm, void*) = nullptr;

 private:
  template <typename Function>
  static void load(void* handle, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle, name));
    if (function == nullptr) throw std::runtime_error(std::string("no function ") + name);
  }
};

inline constexpr int type_fp16 = 6;
inline constexpr int type_fp32 = 7;
inline constexpr int type_bf16 = 9;
inline constexpr int type_fp64 = 8;
inline constexpr int op_sum = 0;
inline constexpr int result_in_progress = 7;
inline constexpr int op_max = 2;

/// Small whole numbers: their sums are exact in every dtype.
inline float element(int rank, std::size_t index) {
  return static_cast<float>((index * 7 + static_cast<std::size_t>(rank) * 3) % 5);
}

inline std::size_t bytes_of(int type) { return type == type_fp64 ? 8 : type == type_fp32 ? 4 : 2; }

inline void store(int type, float value, unsigned char* to) {
  if (type == type_fp64) {
    const double wide = value;
    std::memcpy(to, &wide, sizeof(wide));
  } else if (type == type_fp32) {
    std::memcpy(to, &value, sizeof(value));
  } else if (type == type_fp16) {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(to, &half, sizeof(half));
  } else {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    const auto half = static_cast<std::uint16_t>(bits >> 16);  // exact for the numbers used here
    std::memcpy(to, &half, sizeof(half));
  }
}

inline float load(int type, const unsigned char* from) {
  if (type == type_fp32) {
    float value = 0;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  std::uint16_t half = 0;
  std::memcpy(&half, from, sizeof(half));
  if (type == type_fp16) {
    _Float16 value = 0;
    std::memcpy(&value, &half, sizeof(half));
    return static_cast<float>(value);
  }
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// One rank's input and output in one block of memory, `offset` bytes behind an aligned address.
class Message {
 public:
  Message(int type, std::size_t count, int rank, std::size_t offset = 0)
      : type_(type),
        count_(count),
        offset_(offset),
        in_(count * bytes_of(type) + offset + 64, 0xee),
        out_(in_.size(), 0xee) {
    for (std::size_t i = 0; i < count; ++i) store(type, element(rank, i), input() + i * bytes_of(type));
  }
  unsigned char* input() { return aligned(in_) + offset_; }
  unsigned char* output() { return aligned(out_) + offset_; }
  /// How many elements of `data` are not the sum over ranks; and whether anything behind them was written.
  std::size_t wrong(const unsigned char* data, const std::vector<int>& ranks) const {
    std::size_t bad = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      float sum = 0;
      for (const int rank : ranks) sum += element(rank, i);
      if (load(type_, data + i * bytes_of(type_)) != sum) ++bad;
    }
    if (data[count_ * bytes_of(type_)] != 0xee) ++bad;
    return bad;
  }

 private:
  static unsigned char* aligned(std::vector<unsigned char>& memory) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    return memory.data() + (32 - address % 32) % 32;
  }
  int type_;
  std::size_t count_;
  std::size_t offset_;
  std::vector<unsigned char> in_;
  std::vector<unsigned char> out_;
};

}  // namespace arbiter::test
