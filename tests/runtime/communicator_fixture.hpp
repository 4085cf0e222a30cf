// Ranks as threads on the CPU device, and reference results, for the tests of groups and communicators.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "arbiter/communicator.hpp"
#include "arbiter/runtime/candidate.hpp"
#include "kernels_folder.hpp"

namespace arbiter::test {

/// What one rank of a test has.
struct RankContext {
  int rank = 0;
  int size = 0;
  std::shared_ptr<Bootstrap> bootstrap;
  std::shared_ptr<Device> device;
};

inline CommunicatorOptions quiet_options() {
  CommunicatorOptions options;
  options.variables = EnvironmentVariables{};
  options.variables.log = "off";
  options.variables.cache_dir = kernels_folder();
  options.variables.timeout = std::chrono::seconds(20);
  options.variables.first_timeout = std::chrono::seconds(20);
  options.decisions = share_decisions();
  return options;
}

inline GroupOptions quiet_group_options() {
  GroupOptions options;
  options.variables = quiet_options().variables;
  return options;
}

/// Runs `body` on `size` threads. Rethrows the first exception of the lowest rank after all threads have ended.
inline void run_ranks(int size, const std::function<void(RankContext&)>& body,
                      std::chrono::milliseconds deadline = std::chrono::seconds(30),
                      const CpuDeviceOptions& device_options = {}) {
  std::vector<std::unique_ptr<Bootstrap>> bootstraps = make_in_process_bootstraps(size, deadline);
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        RankContext context;
        context.rank = rank;
        context.size = size;
        context.bootstrap = std::move(bootstraps[static_cast<std::size_t>(rank)]);
        context.device = make_cpu_device(rank, device_options);
        body(context);
      } catch (...) {
        failures[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// The message of the E that `action` throws; empty (and a test failure) if it throws nothing or something else.
template <class E>
std::string message_of(const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "expected an exception";
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
  }
  return {};
}

/// Device memory seen as elements; on the CPU device the host can touch it.
template <class T>
class Tensor {
 public:
  Tensor(Device& device, std::size_t count) : memory_(device, count * sizeof(T)), count_(count) {}
  T* data() const { return static_cast<T*>(memory_.data()); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  void fill(const std::function<T(std::size_t)>& value) const {
    for (std::size_t i = 0; i < count_; ++i) data()[i] = value(i);
  }
  std::vector<T> values() const { return {data(), data() + count_}; }

 private:
  DeviceMemory memory_;
  std::size_t count_;
};

/// Small integers: every sum is exact, in any order.
inline float small_integer(int rank, std::size_t i) {
  return static_cast<float>((static_cast<int>(i % 13) - 6) + rank * static_cast<int>(i % 5));
}
inline float small_integer_sum(int size, std::size_t i) {
  float sum = 0;
  for (int rank = 0; rank < size; ++rank) sum += small_integer(rank, i);
  return sum;
}

}  // namespace arbiter::test
