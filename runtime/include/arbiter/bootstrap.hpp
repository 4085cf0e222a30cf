// How ranks find each other before there is a communicator. Host memory only; used at set-up, never per call.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/error.hpp"

namespace arbiter {

class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// `receive` holds size() * bytes, in rank order. All ranks pass the same `bytes`.
  /// Throws Poisoned when a rank does not arrive within the bootstrap's deadline.
  virtual void allgather(const void* send, std::size_t bytes, void* receive) = 0;
  virtual void broadcast(void* data, std::size_t bytes, int root) = 0;
  virtual void barrier() = 0;
  /// "in_process", "callbacks", "launcher (torchrun)", ...
  virtual std::string name() const = 0;

  // Conveniences on top of allgather and broadcast.
  std::vector<std::string> allgather(const std::string& mine);
  std::string broadcast(const std::string& root_text, int root);
  bool all(bool mine);  ///< true on every rank exactly when every rank passed true
};

/// `size` bootstraps of ranks that are threads of this process. A rank that waits longer than `deadline`, or whose
/// peer's bootstrap was destroyed, throws Poisoned.
std::vector<std::unique_ptr<Bootstrap>> make_in_process_bootstraps(
    int size, std::chrono::milliseconds deadline = std::chrono::seconds(60));

/// The host program's process group (torch.distributed, MPI, anything). Functions must be collective over exactly
/// the ranks of this group; an exception they throw passes through.
struct BootstrapCallbacks {
  int rank = 0;
  int size = 1;
  std::function<void(const void* send, std::size_t bytes, void* receive)> allgather;
  std::function<void(void* data, std::size_t bytes, int root)> broadcast;
  std::function<void()> barrier;
};
/// Throws InvalidArgument for a rank outside [0, size) or a missing function.
std::unique_ptr<Bootstrap> make_callbacks_bootstrap(BootstrapCallbacks);

/// What a launcher put into the environment.
struct LauncherVariables {
  std::string launcher;  ///< "torchrun", "open_mpi", "mvapich2", "slurm", "flux", "pmi", "arbiter"; empty if none
  int rank = 0;
  int size = 1;
  int local_rank = 0;  ///< which GPU of the node
  int local_size = 1;
  /// "tcp://host:port" or "file:///path"; empty if the launcher does not say where the ranks could meet. The port lies
  /// launcher_port_offset above MASTER_PORT, which torchrun's own store occupies; taken ports are stepped over.
  std::string rendezvous;
  std::string job;  ///< equal on all ranks of this run and unlike other runs'; may be empty

  /// Did the launcher start other ranks beside this one? A single one is an interactive step of Slurm, or a pod with
  /// RANK=0 and WORLD_SIZE=1: it says nothing about which GPUs are to be used here.
  bool several() const noexcept { return size > 1; }
};
inline constexpr int launcher_port_offset = 1000;

/// Reads the variables of `arbiter tune --gpus` (ARBITER_WORKER_RANK, _SIZE, _RENDEZVOUS: they win over all others),
/// torchrun, Open MPI, MVAPICH2, Slurm, Flux and PMI, in that order; the first that is complete counts. A later one
/// that started fewer processes is taken for what started the launcher itself (torchrun under srun) and ignored. Throws
/// Disagreement when two launchers otherwise disagree on rank or size, InvalidArgument for a value that is not a
/// number, a rank outside the size, or half a pair (RANK without WORLD_SIZE).
LauncherVariables read_launcher_variables();

/// Exchange one NCCL unique id by TCP or file, then use NCCL for everything. The CUDA device must be current, and every
/// rank needs a GPU of its own. A single rank needs neither NCCL nor a GPU.
/// Throws Unavailable without NCCL, Poisoned when the ranks do not all arrive within `deadline`, which also bounds
/// every later exchange.
std::unique_ptr<Bootstrap> make_launcher_bootstrap(const LauncherVariables&,
                                                   std::chrono::milliseconds deadline = std::chrono::seconds(60));

/// Writes the 128 bytes of a fresh ncclUniqueId. Throws Unavailable without NCCL.
void make_unique_id(void* id);

/// Ranks that were given the same ncclUniqueId (128 bytes). The CUDA device must be current, and every rank needs a GPU
/// of its own. Throws InvalidArgument for a rank outside the size, otherwise as make_launcher_bootstrap().
std::unique_ptr<Bootstrap> make_unique_id_bootstrap(const void* id, int rank, int size,
                                                    std::chrono::milliseconds deadline = std::chrono::seconds(60));

/// A connected ncclComm_t of the host program, and what it says of itself.
struct LentNcclComm {
  void* comm = nullptr;
  int rank = 0;
  int size = 1;
  int ordinal = 0;  ///< of its CUDA device
};
/// Throws InvalidArgument for null or a communicator that does not answer, Unavailable without NCCL or GPUs.
LentNcclComm examine_nccl_comm(void* comm);

/// Exchanges through a communicator of the host program, on a stream of its own; leaves it as it is. The host program
/// does not use it at the same time.
std::unique_ptr<Bootstrap> make_nccl_comm_bootstrap(const LentNcclComm&,
                                                    std::chrono::milliseconds deadline = std::chrono::seconds(60));

}  // namespace arbiter
