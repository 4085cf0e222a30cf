// Ranks that are processes: a bootstrap over pipes through a star at rank 0, for tests.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "arbiter/bootstrap.hpp"

namespace arbiter::test {

class ProcessGroup {
 public:
  explicit ProcessGroup(int size) : links_(static_cast<std::size_t>(size), {-1, -1}) {
    for (auto& link : links_) {
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, link.data()) != 0) throw std::runtime_error("socketpair failed");
    }
  }
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;
  ~ProcessGroup() {
    for (const auto& link : links_) {
      for (const int end : link) {
        if (end >= 0) ::close(end);
      }
    }
  }

  /// Call in the process of `rank`, after fork. A peer that does not answer in time, or is dead, throws Poisoned.
  std::unique_ptr<Bootstrap> bootstrap(int rank, std::chrono::milliseconds deadline) {
    // Ends of others must be closed here, or a dead process would not be noticed.
    for (std::size_t r = 0; r < links_.size(); ++r) {
      const bool keep_hub = rank == 0;
      const bool keep_spoke = static_cast<int>(r) == rank;
      if (!keep_hub) close_end(links_[r][0]);
      if (!keep_spoke) close_end(links_[r][1]);
    }
    BootstrapCallbacks callbacks;
    callbacks.rank = rank;
    callbacks.size = static_cast<int>(links_.size());
    callbacks.allgather = [=, this](const void* send, std::size_t bytes, void* receive) {
      gather(rank, send, bytes, receive, deadline);
    };
    callbacks.broadcast = [=, this](void* data, std::size_t bytes, int root) {
      std::vector<char> all(bytes * links_.size());
      gather(rank, data, bytes, all.data(), deadline);
      std::memcpy(data, all.data() + static_cast<std::size_t>(root) * bytes, bytes);
    };
    callbacks.barrier = [=, this] {
      std::vector<char> all(links_.size());
      gather(rank, "b", 1, all.data(), deadline);
    };
    return make_callbacks_bootstrap(std::move(callbacks));
  }

 private:
  static void close_end(int& end) {
    if (end >= 0) ::close(end);
    end = -1;
  }
  static void transfer(int descriptor, bool write, void* data, std::size_t bytes, std::chrono::milliseconds deadline) {
    auto* at = static_cast<char*>(data);
    while (bytes != 0) {
      pollfd ready{descriptor, static_cast<short>(write ? POLLOUT : POLLIN), 0};
      if (::poll(&ready, 1, static_cast<int>(deadline.count())) <= 0) throw Poisoned("a peer did not answer in time");
      const ssize_t moved = write ? ::send(descriptor, at, bytes, MSG_NOSIGNAL) : ::recv(descriptor, at, bytes, 0);
      if (moved <= 0) throw Poisoned("a peer is gone");
      at += moved;
      bytes -= static_cast<std::size_t>(moved);
    }
  }
  void gather(int rank, const void* send, std::size_t bytes, void* receive, std::chrono::milliseconds deadline) {
    auto* all = static_cast<char*>(receive);
    const std::size_t total = bytes * links_.size();
    std::vector<char> mine(bytes);
    std::memcpy(mine.data(), send, bytes);
    if (rank != 0) {
      const int spoke = links_[static_cast<std::size_t>(rank)][1];
      transfer(spoke, true, mine.data(), bytes, deadline);
      transfer(spoke, false, all, total, deadline);
      return;
    }
    std::memcpy(all, mine.data(), bytes);
    for (std::size_t r = 1; r < links_.size(); ++r) transfer(links_[r][0], false, all + r * bytes, bytes, deadline);
    for (std::size_t r = 1; r < links_.size(); ++r) transfer(links_[r][0], true, all, total, deadline);
  }

  std::vector<std::array<int, 2>> links_;  // [0]: held by rank 0; [1]: held by the rank
};

}  // namespace arbiter::test
