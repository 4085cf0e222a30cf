// A rank that dies at a chosen exchange.
#pragma once

#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <string>

#include "arbiter/bootstrap.hpp"

namespace arbiter::test {

/// Passes everything on, counts exchanges, and kills its process at one of them (the first is 1; 0: at none).
class MortalBootstrap final : public Bootstrap {
 public:
  MortalBootstrap(Bootstrap& inner, int dies_at) : inner_(inner), dies_at_(dies_at) {}
  int rank() const noexcept override { return inner_.rank(); }
  int size() const noexcept override { return inner_.size(); }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    step();
    inner_.allgather(send, bytes, receive);
  }
  void broadcast(void* data, std::size_t bytes, int root) override {
    step();
    inner_.broadcast(data, bytes, root);
  }
  void barrier() override {
    step();
    inner_.barrier();
  }
  std::string name() const override { return inner_.name(); }
  int steps = 0;

 private:
  void step() {
    if (++steps == dies_at_) ::kill(::getpid(), SIGKILL);
  }
  Bootstrap& inner_;
  int dies_at_;
};

}  // namespace arbiter::test
