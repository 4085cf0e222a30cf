// Ranks of the C interface as threads on the CPU device.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "arbiter.h"
#include "kernels_folder.hpp"

namespace arbiter::test {

/// Quiet, on the CPU device, and with the kernels of all tests.
inline arbiter_communicator_options cpu_options() {
  static const std::string cache = kernels_folder().string();
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  options.device = ARBITER_DEVICE_CPU;
  options.cache_dir = cache.c_str();
  options.log_level = "off";
  options.timeout_ms = 20'000;
  options.first_timeout_ms = 20'000;
  return options;
}

inline void on_threads(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) threads.emplace_back(body, rank);
  for (std::thread& thread : threads) thread.join();
}

/// A group of ranks: created, used by one thread each, destroyed by them.
class Ranks {
 public:
  explicit Ranks(int size, const arbiter_communicator_options& options = cpu_options())
      : communicators_(static_cast<std::size_t>(size)) {
    status_ = arbiter_create_in_process(size, &options, communicators_.data());
    if (status_ != ARBITER_SUCCESS) error_ = arbiter_last_error(nullptr);
  }
  ~Ranks() {
    on_threads(size(), [&](int rank) { arbiter_destroy((*this)[rank]); });
  }
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  arbiter_status status() const { return status_; }
  const std::string& error() const { return error_; }
  int size() const { return static_cast<int>(communicators_.size()); }
  arbiter_communicator* operator[](int rank) const { return communicators_[static_cast<std::size_t>(rank)]; }
  void run(const std::function<void(int, arbiter_communicator*)>& body) const {
    on_threads(size(), [&](int rank) { body(rank, (*this)[rank]); });
  }

 private:
  std::vector<arbiter_communicator*> communicators_;
  arbiter_status status_;
  std::string error_;
};

inline arbiter_family family_of(const char* pattern, arbiter_dtype dtype, int hidden, std::int64_t max_tokens) {
  arbiter_family family = ARBITER_FAMILY_INIT;
  family.pattern = pattern;
  family.dtype = dtype;
  family.hidden = hidden;
  family.max_tokens = max_tokens;
  return family;
}

/// Device memory of a rank, all zeros, seen as elements.
template <class T>
class Tensor {
 public:
  Tensor(arbiter_communicator* communicator, std::size_t count) : communicator_(communicator), count_(count) {
    void* memory = nullptr;
    EXPECT_EQ(arbiter_device_allocate(communicator, count * sizeof(T), &memory), ARBITER_SUCCESS);
    data_ = static_cast<T*>(memory);
    for (std::size_t i = 0; i < count; ++i) data_[i] = T{};
  }
  ~Tensor() { EXPECT_EQ(arbiter_device_release(communicator_, data_), ARBITER_SUCCESS); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  arbiter_communicator* communicator_;
  T* data_ = nullptr;
  std::size_t count_;
};

inline std::string explained(arbiter_communicator* communicator, const arbiter_family& family, std::int64_t tokens) {
  std::vector<char> text(4096);
  EXPECT_EQ(arbiter_explain(communicator, &family, tokens, text.data(), text.size(), nullptr), ARBITER_SUCCESS)
      << arbiter_last_error(communicator);
  return text.data();
}

inline std::string stats_of(arbiter_communicator* communicator) {
  std::size_t needed = 0;
  EXPECT_EQ(arbiter_stats(communicator, nullptr, 0, &needed), ARBITER_SUCCESS);
  std::string text(needed, '\0');
  EXPECT_EQ(arbiter_stats(communicator, text.data(), text.size(), nullptr), ARBITER_SUCCESS);
  text.resize(needed - 1);
  return text;
}

}  // namespace arbiter::test
