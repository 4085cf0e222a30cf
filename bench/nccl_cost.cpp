// What libarbiter-nccl.so adds to a call that it passes on: the same call through it and straight to the library behind
// it, which has to be one whose calls cost nothing (the stand-in of the tests, with STAND_IN_IDLE=1). Without GPUs.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using Comm = struct ncclComm*;
struct UniqueId {
  std::array<char, 128> bytes{};
};

constexpr int type_fp32 = 7;
constexpr int type_fp64 = 8;
constexpr int op_sum = 0;

void* open_library(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return handle;
}

template <typename Function>
Function* find(void* library, const char* name) {
  auto* function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) throw std::runtime_error(fmt::format("no function {}", name));
  return function;
}

/// Nanoseconds of one call: the median of many batches.
double nanoseconds(const std::function<void(int)>& batch) {
  constexpr int calls = 20'000;
  std::vector<double> samples;
  for (int i = 0; i < 21; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    batch(calls);
    samples.push_back(std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count() /
                      calls);
  }
  std::nth_element(samples.begin(), samples.begin() + 10, samples.end());
  return samples[10];
}

struct Row {
  std::string name;
  double through = 0;
  double direct = 0;
};

/// `measure(library)` makes the batch that calls this library.
Row compare(const std::string& name, void* ours, void* behind,
            const std::function<std::function<void(int)>(void*)>& measure) {
  return {name, nanoseconds(measure(ours)), nanoseconds(measure(behind))};
}

std::function<std::function<void(int)>(void*)> all_reduces(std::size_t count, int type, Comm comm) {
  return [=](void* library) {
    auto* call = find<int(const void*, void*, std::size_t, int, int, Comm, void*)>(library, "ncclAllReduce");
    return std::function<void(int)>([=](int calls) {
      float data = 0;
      for (int i = 0; i < calls; ++i) call(&data, &data, count, type, op_sum, comm, nullptr);
    });
  };
}

/// Of rank 0; rank 1 is there for the set-up.
std::vector<Row> measure(void* ours, void* behind) {
  UniqueId id;
  find<int(UniqueId*)>(ours, "ncclGetUniqueId")(&id);
  std::vector<Row> rows;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    ranks.emplace_back([&, rank] {
      Comm comm = nullptr;
      find<int(Comm*, int, UniqueId, int)>(ours, "ncclCommInitRank")(&comm, 2, id, rank);
      std::array<float, 64> data{};
      auto* all_reduce = find<int(const void*, void*, std::size_t, int, int, Comm, void*)>(ours, "ncclAllReduce");
      const auto query = [=](void* library) {
        auto* call = find<int(Comm, int*)>(library, "ncclCommUserRank");
        return std::function<void(int)>([=](int calls) {
          int value = 0;
          for (int i = 0; i < calls; ++i) call(comm, &value);
        });
      };
      const auto reduce_scatter = [=](void* library) {
        auto* call = find<int(const void*, void*, std::size_t, int, int, Comm, void*)>(library, "ncclReduceScatter");
        return std::function<void(int)>([=](int calls) {
          float value = 0;
          for (int i = 0; i < calls; ++i) call(&value, &value, 1, type_fp32, op_sum, comm, nullptr);
        });
      };
      constexpr std::size_t large = std::size_t{1} << 30;
      if (rank == 0) {
        rows.push_back(compare("a query", ours, behind, query));
        rows.push_back(compare("a collective, before the first allreduce", ours, behind, reduce_scatter));
        rows.push_back(compare("an allreduce of fp64", ours, behind, all_reduces(1, type_fp64, comm)));
      }
      all_reduce(data.data(), data.data(), data.size(), type_fp32, op_sum, comm, nullptr);  // sets Arbiter up
      if (rank == 0) {
        rows.push_back(compare("a collective, behind it", ours, behind, reduce_scatter));
        rows.push_back(compare("a large allreduce, behind it", ours, behind, all_reduces(large, type_fp32, comm)));
      }
      find<int(Comm)>(ours, "ncclCommDestroy")(comm);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fputs("usage: nccl_cost libarbiter-nccl.so stand-in/libnccl.so.2\n", stderr);
    return 2;
  }
  try {
    setenv("ARBITER_NCCL_LIBRARY", argv[2], 1);
    setenv("ARBITER_NCCL_TEST_DEVICE", "cpu", 1);
    setenv("STAND_IN_IDLE", "1", 1);
    const std::vector<Row> rows = measure(open_library(argv[1]), open_library(argv[2]));
    std::string text;
    for (const Row& row : rows) {
      text +=
          fmt::format("{}\n  {{\"call\": \"{}\", \"through_ns\": {:.1f}, \"direct_ns\": {:.1f}, \"added_ns\": {:.1f}}}",
                      text.empty() ? "" : ",", row.name, row.through, row.direct, row.through - row.direct);
    }
    std::fputs(fmt::format("{{\"schema\": 1, \"calls\": [{}\n]}}\n", text).c_str(), stdout);
    return 0;
  } catch (const std::exception& error) {
    std::fputs(fmt::format("nccl_cost: {}\n", error.what()).c_str(), stderr);
    return 1;
  }
}
