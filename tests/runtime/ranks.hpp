// Runs ranks as threads or as processes, connected by a bootstrap.
#pragma once

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "arbiter/bootstrap.hpp"

namespace arbiter::test {

/// What each rank threw, as text; empty for a rank that came back.
inline std::vector<std::string> run_threads(int size, const std::function<void(Bootstrap&)>& body) {
  std::vector<std::unique_ptr<Bootstrap>> bootstraps = make_in_process_bootstraps(size, std::chrono::seconds(60));
  std::vector<std::string> failures(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < failures.size(); ++rank) {
    threads.emplace_back([&, rank] {
      const std::unique_ptr<Bootstrap> mine = std::move(bootstraps[rank]);
      try {
        body(*mine);
      } catch (const std::exception& error) {
        failures[rank] = *error.what() != '\0' ? error.what() : "an exception without a message";
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return failures;
}

/// A bootstrap over a star of socket pairs, for forked ranks. A rank that ended is an error for the others.
class SocketStar {
 public:
  explicit SocketStar(int size) : pairs_(static_cast<std::size_t>(size), {-1, -1}) {
    for (auto& pair : pairs_) {
      int fds[2];
      if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) throw std::runtime_error("socketpair");
      pair = {fds[0], fds[1]};
    }
  }
  ~SocketStar() {
    for (auto& [hub, leaf] : pairs_) {
      if (hub >= 0) close(hub);
      if (leaf >= 0) close(leaf);
    }
  }
  SocketStar(const SocketStar&) = delete;
  SocketStar& operator=(const SocketStar&) = delete;

  /// In the forked child: keeps only this rank's ends.
  std::unique_ptr<Bootstrap> bootstrap(int rank) {
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      auto& [hub, leaf] = pairs_[i];
      if (rank != 0 || i == 0) drop(hub);
      if (static_cast<int>(i) != rank || rank == 0) drop(leaf);
    }
    BootstrapCallbacks callbacks;
    callbacks.rank = rank;
    callbacks.size = static_cast<int>(pairs_.size());
    callbacks.allgather = [this, rank](const void* send, std::size_t bytes, void* receive) {
      gather(rank, send, bytes, receive);
    };
    callbacks.broadcast = [this, rank](void* data, std::size_t bytes, int root) {
      std::string all(bytes * pairs_.size(), '\0');
      gather(rank, data, bytes, all.data());
      std::memcpy(data, all.data() + static_cast<std::size_t>(root) * bytes, bytes);
    };
    callbacks.barrier = [this, rank] {
      const char mine = 0;
      std::string all(pairs_.size(), '\0');
      gather(rank, &mine, 1, all.data());
    };
    return make_callbacks_bootstrap(std::move(callbacks));
  }

 private:
  static void drop(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
  static void write_all(int fd, const char* data, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t put = send(fd, data, bytes, MSG_NOSIGNAL);
      if (put <= 0) throw std::runtime_error("a rank has ended");
      data += put;
      bytes -= static_cast<std::size_t>(put);
    }
  }
  static void read_all(int fd, char* data, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t got = recv(fd, data, bytes, 0);
      if (got <= 0) throw std::runtime_error("a rank has ended");
      data += got;
      bytes -= static_cast<std::size_t>(got);
    }
  }
  /// A star without one of its ranks is of no use to the others: whoever notices first lets them know.
  void gather(int rank, const void* mine, std::size_t bytes, void* receive) {
    try {
      exchange(rank, mine, bytes, receive);
    } catch (...) {
      for (auto& [hub, leaf] : pairs_) {
        drop(hub);
        drop(leaf);
      }
      throw;
    }
  }
  void exchange(int rank, const void* mine, std::size_t bytes, void* receive) {
    char* all = static_cast<char*>(receive);
    if (rank != 0) {
      const int leaf = pairs_[static_cast<std::size_t>(rank)].second;
      write_all(leaf, static_cast<const char*>(mine), bytes);
      read_all(leaf, all, bytes * pairs_.size());
      return;
    }
    std::string gathered(bytes * pairs_.size(), '\0');
    std::memcpy(gathered.data(), mine, bytes);
    for (std::size_t i = 1; i < pairs_.size(); ++i) read_all(pairs_[i].first, gathered.data() + i * bytes, bytes);
    for (std::size_t i = 1; i < pairs_.size(); ++i) write_all(pairs_[i].first, gathered.data(), gathered.size());
    gathered.copy(all, gathered.size());
  }

  std::vector<std::pair<int, int>> pairs_;  // hub's end, leaf's end
};

/// Forks `size` ranks and returns their exit codes (128 + signal if killed). The body returns the exit code; an
/// exception prints its message and gives 99. The parent must not have used CUDA.
inline std::vector<int> run_processes(int size, const std::function<int(Bootstrap&)>& body) {
  std::vector<pid_t> children;
  {
    SocketStar star(size);
    for (int rank = 0; rank < size; ++rank) {
      const pid_t child = fork();
      if (child < 0) throw std::runtime_error("fork failed");
      if (child == 0) {
        int code = 99;
        try {
          const std::unique_ptr<Bootstrap> bootstrap = star.bootstrap(rank);
          code = body(*bootstrap);
        } catch (const std::exception& error) {
          std::cerr << "rank " << rank << ": " << error.what() << '\n';
        }
        _exit(code);
      }
      children.push_back(child);
    }
  }
  std::vector<int> codes;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

}  // namespace arbiter::test
