// Several ranks as threads of this process, each with a CPU device.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/runtime/candidate.hpp"
#include "kernels_folder.hpp"

namespace arbiter::testing {

/// A folder that disappears with its scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "arbiter-tuner-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline EnvironmentVariables test_variables(std::chrono::milliseconds timeout) {
  EnvironmentVariables variables;
  variables.cache_dir = test::kernels_folder();
  variables.timeout = timeout;
  variables.first_timeout = timeout;
  return variables;
}

/// Runs `body` on `size` ranks, each a thread with a CPU device; rethrows the first exception after all have ended.
inline void on_devices(int size, const std::function<void(std::shared_ptr<Bootstrap>, std::shared_ptr<Device>)>& body) {
  auto bootstraps = make_in_process_bootstraps(size, std::chrono::seconds(60));
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      const auto at = static_cast<std::size_t>(rank);
      try {
        body(std::move(bootstraps[at]), make_cpu_device(rank));
      } catch (...) {
        failures[at] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// The same with a group on every rank.
inline void on_ranks_with(int size, const GroupOptions& options, const std::function<void(Group&)>& body) {
  on_devices(size, [&](std::shared_ptr<Bootstrap> bootstrap, std::shared_ptr<Device> device) {
    const std::unique_ptr<Group> group = make_group(std::move(bootstrap), std::move(device), options);
    body(*group);
  });
}
inline void on_ranks(int size, const std::function<void(Group&)>& body,
                     std::chrono::milliseconds timeout = std::chrono::seconds(20)) {
  GroupOptions options;
  options.variables = test_variables(timeout);
  options.nccl = false;
  on_ranks_with(size, options, body);
}

}  // namespace arbiter::testing
