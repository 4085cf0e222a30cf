#include <fmt/format.h>

#include <string>
#include <utility>

#include "arbiter/bootstrap.hpp"

namespace arbiter {
namespace {

class CallbacksBootstrap final : public Bootstrap {
 public:
  explicit CallbacksBootstrap(BootstrapCallbacks callbacks) : callbacks_(std::move(callbacks)) {}
  int rank() const noexcept override { return callbacks_.rank; }
  int size() const noexcept override { return callbacks_.size; }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    callbacks_.allgather(send, bytes, receive);
  }
  void broadcast(void* data, std::size_t bytes, int root) override {
    if (root < 0 || root >= callbacks_.size) {
      throw InvalidArgument(fmt::format("broadcast from rank {}; ranks are 0 to {}", root, callbacks_.size - 1));
    }
    callbacks_.broadcast(data, bytes, root);
  }
  void barrier() override { callbacks_.barrier(); }
  std::string name() const override { return "callbacks"; }

 private:
  BootstrapCallbacks callbacks_;
};

}  // namespace

std::unique_ptr<Bootstrap> make_callbacks_bootstrap(BootstrapCallbacks callbacks) {
  if (callbacks.size < 1) {
    throw InvalidArgument(fmt::format("a process group needs at least one rank, not {}", callbacks.size));
  }
  if (callbacks.rank < 0 || callbacks.rank >= callbacks.size) {
    throw InvalidArgument(fmt::format("rank {} is not in a group of {}; ranks are 0 to {}", callbacks.rank,
                                      callbacks.size, callbacks.size - 1));
  }
  std::string missing;
  if (!callbacks.allgather) missing = "allgather";
  if (!callbacks.broadcast) missing += missing.empty() ? "broadcast" : ", broadcast";
  if (!callbacks.barrier) missing += missing.empty() ? "barrier" : ", barrier";
  if (!missing.empty()) {
    throw InvalidArgument("bootstrap callbacks without " + missing + "; all three functions must be given");
  }
  return std::make_unique<CallbacksBootstrap>(std::move(callbacks));
}

}  // namespace arbiter
