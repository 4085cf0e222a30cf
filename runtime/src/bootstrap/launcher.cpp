#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <cstring>
#include <string>
#include <utility>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "bootstrap/id_exchange.hpp"
#include "bootstrap/job_secret.hpp"
#include "bootstrap/nccl.hpp"
#include "cuda/device.hpp"
#include "nccl/library.hpp"

namespace arbiter {
namespace {

class LoneBootstrap final : public Bootstrap {
 public:
  explicit LoneBootstrap(std::string name) : name_(std::move(name)) {}
  int rank() const noexcept override { return 0; }
  int size() const noexcept override { return 1; }
  void allgather(const void* send, std::size_t bytes, void* receive) override {
    if (bytes > 0) std::memmove(receive, send, bytes);
  }
  void broadcast(void*, std::size_t, int) override {}
  void barrier() override {}
  std::string name() const override { return name_; }

 private:
  std::string name_;
};

}  // namespace

std::unique_ptr<Bootstrap> make_launcher_bootstrap(const LauncherVariables& variables,
                                                   std::chrono::milliseconds deadline) {
  if (variables.launcher.empty()) {
    throw InvalidArgument(
        "no launcher started this process: neither torchrun, mpirun nor srun variables are set; "
        "start the ranks with one of them, or use --gpus on one host");
  }
  if (variables.size < 1 || variables.rank < 0 || variables.rank >= variables.size) {
    throw InvalidArgument(
        fmt::format("rank {} of {} ranks; expected a rank from 0 to size - 1", variables.rank, variables.size));
  }
  if (variables.size == 1) return std::make_unique<LoneBootstrap>("launcher (" + variables.launcher + ")");
  if (std::string missing = cuda_missing(); !missing.empty()) {
    throw Unavailable("the launcher's ranks talk through NCCL, which needs GPUs, and " + missing);
  }
  std::shared_ptr<const NcclLibrary> library = open_nccl();
  NcclId id;
  if (variables.rank == 0) {
    const int result = library->get_unique_id(&id);
    if (result != nccl_success) throw Unavailable(library->message("ncclGetUniqueId", result));
  }
  IdExchange exchange;
  exchange.rendezvous = variables.rendezvous;
  exchange.job = variables.job;
  exchange.rank = variables.rank;
  exchange.size = variables.size;
  exchange.deadline = deadline;
  exchange.secret = job_secret();
  id = exchange_id(exchange, id);
  std::shared_ptr<Device> device = make_cuda_device(current_cuda_device());
  return make_nccl_bootstrap({std::move(library), std::move(device), "launcher (" + variables.launcher + ")", deadline},
                             id, variables.rank, variables.size);
}

}  // namespace arbiter
