// What torchrun, Open MPI, MVAPICH2, Slurm, Flux, PMI (MPICH, Intel MPI) and `arbiter tune --gpus` put into the
// environment.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "arbiter/generator/temporary_folder.hpp"
#include "arbiter/generator/trust.hpp"
#include "bootstrap/id_exchange.hpp"
#include "bootstrap/launching_process.hpp"
#include "bootstrap/slurm_lists.hpp"

namespace arbiter {
namespace {

std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool present(const char* name) { return !text(name).empty(); }

std::optional<int> number(const char* name) {
  const std::string value = text(name);
  if (value.empty()) return std::nullopt;
  int parsed = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), parsed);
  if (error != std::errc() || end != value.data() + value.size() || parsed < 0) {
    throw InvalidArgument(std::string(name) + "='" + value + "' is not a number; expected 0 or more");
  }
  return parsed;
}

std::optional<int> first_number(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const std::optional<int> value = number(name)) return value;
  }
  return std::nullopt;
}

// One launcher's claim; empty if it did not start this process.
struct Claim {
  LauncherVariables variables;
  std::string rank_name;
  bool proven = true;  ///< the variables cannot be left over from somewhere else
};

std::optional<Claim> claim(const char* launcher, const char* rank_name, const char* size_name,
                           std::optional<int> local_rank, std::optional<int> local_size) {
  const std::optional<int> rank = number(rank_name);
  const std::optional<int> size = number(size_name);
  if (!rank && !size) return std::nullopt;
  if (!rank || !size) {
    throw InvalidArgument(std::string(rank ? rank_name : size_name) + " is set, but " + (rank ? size_name : rank_name) +
                          " is not; set both, or neither");
  }
  if (*size < 1 || *rank >= *size) {
    throw InvalidArgument(fmt::format("{}={} and {}={} do not fit; expected a rank from 0 to size - 1", rank_name,
                                      *rank, size_name, *size));
  }
  Claim made;
  made.rank_name = rank_name;
  made.variables.launcher = launcher;
  made.variables.rank = *rank;
  made.variables.size = *size;
  made.variables.local_rank = local_rank.value_or(*rank);
  made.variables.local_size = local_size.value_or(*size);
  if (made.variables.local_size < 1 || made.variables.local_size > *size ||
      made.variables.local_rank >= made.variables.local_size) {
    throw InvalidArgument(fmt::format(
        "{} says local rank {} of {} on this node, in a world of {}; expected a local rank below the local size",
        launcher, made.variables.local_rank, made.variables.local_size, *size));
  }
  return made;
}

// MASTER_ADDR and MASTER_PORT are understood under every launcher.
std::string master_rendezvous() {
  const std::string host = text("MASTER_ADDR");
  const std::optional<int> port = number("MASTER_PORT");
  if (host.empty() || !port) return {};
  if (*port < 1 || *port > 65535) {
    throw InvalidArgument(fmt::format("MASTER_PORT='{}' is no port; expected 1 to 65535", *port));
  }
  const bool literal_six = host.find(':') != std::string::npos;
  return fmt::format("tcp://{}:{}", (literal_six ? "[" + host + "]" : host),
                     id_exchange_port(*port + launcher_port_offset, 0));
}

// The meeting point: MASTER_ADDR, or, for ranks of one host, a file. The file's name depends on the job, so the job
// must be unlike every other one of this user; whoever started the ranks here is, where the launcher has no name for it
// (MPICH's mpiexec.hydra). Without either, there is no meeting point.
void meet(LauncherVariables& variables, bool on_one_node, bool job_is_named,
          std::span<const char* const> rank_variables) {
  variables.rendezvous = master_rendezvous();
  if (!variables.rendezvous.empty() || !on_one_node) return;
  if (!job_is_named) {
    const std::string parent = launching_process(rank_variables);
    if (parent.empty()) return;
    variables.job += " " + parent;
  }
  // A folder of this user alone, in which nobody can take the name before; most login sessions have one.
  std::filesystem::path folder = text("XDG_RUNTIME_DIR");
  struct stat info {};
  if (!folder.is_absolute() || stat(folder.c_str(), &info) != 0 || info.st_uid != geteuid() || !distrust(info).empty())
    folder = TemporaryFolder::place();
  const std::string name = fmt::format("arbiter-{}-{}", geteuid(), variables.launcher);
  variables.rendezvous = "file://" + (folder / name).string();
}

std::optional<Claim> read_arbiter() {
  std::optional<Claim> made =
      claim("arbiter", "ARBITER_WORKER_RANK", "ARBITER_WORKER_SIZE", std::nullopt, std::nullopt);
  if (!made) return made;
  made->variables.rendezvous = text("ARBITER_WORKER_RENDEZVOUS");
  if (made->variables.rendezvous.empty())
    throw InvalidArgument("ARBITER_WORKER_RANK is set, but ARBITER_WORKER_RENDEZVOUS is not");
  made->variables.job = made->variables.rendezvous;
  return made;
}

std::optional<Claim> read_torchrun() {
  std::optional<Claim> made = claim("torchrun", "RANK", "WORLD_SIZE", number("LOCAL_RANK"), number("LOCAL_WORLD_SIZE"));
  if (!made) return made;
  // torchrun sets its run id; RANK and WORLD_SIZE alone may also have been exported by hand.
  made->proven = present("TORCHELASTIC_RUN_ID");
  made->variables.rendezvous = master_rendezvous();
  made->variables.job = "torchrun " + text("TORCHELASTIC_RUN_ID") + " " + text("TORCHELASTIC_RESTART_COUNT") + " " +
                        text("MASTER_ADDR") + " " + text("MASTER_PORT");
  return made;
}

std::optional<Claim> read_open_mpi() {
  std::optional<Claim> made = claim("open_mpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                    number("OMPI_COMM_WORLD_LOCAL_RANK"), number("OMPI_COMM_WORLD_LOCAL_SIZE"));
  if (!made) return made;
  LauncherVariables& variables = made->variables;
  variables.job = "open_mpi " + text("PMIX_NAMESPACE") + " " + text("OMPI_MCA_ess_base_jobid");
  constexpr std::array names{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE"};
  meet(variables, variables.local_size == variables.size,
       present("PMIX_NAMESPACE") || present("OMPI_MCA_ess_base_jobid"), names);
  return made;
}

std::optional<Claim> read_mvapich2() {
  std::optional<Claim> made = claim("mvapich2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
                                    number("MV2_COMM_WORLD_LOCAL_RANK"), number("MV2_COMM_WORLD_LOCAL_SIZE"));
  if (!made) return made;
  made->variables.job = "mvapich2 " + text("MPIRUN_ID") + " " + text("PMI_PORT");
  constexpr std::array names{"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MPIRUN_ID"};
  const bool on_one_node = present("MV2_COMM_WORLD_LOCAL_SIZE") && made->variables.local_size == made->variables.size;
  meet(made->variables, on_one_node, present("PMI_PORT"), names);
  return made;
}

// Flux does not say how many tasks a node has: on one node all, else an even share, which is how it spreads them.
std::optional<Claim> read_flux() {
  const std::optional<int> size = number("FLUX_JOB_SIZE");
  const std::optional<int> local_rank = number("FLUX_TASK_LOCAL_ID");
  const int nodes = std::max(1, number("FLUX_JOB_NNODES").value_or(1));
  std::optional<int> local_size;
  if (size) local_size = std::max((*size + nodes - 1) / nodes, local_rank.value_or(0) + 1);
  std::optional<Claim> made = claim("flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", local_rank, local_size);
  if (!made) return made;
  made->variables.job = "flux " + text("FLUX_JOB_ID");
  constexpr std::array names{"FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_JOB_ID"};
  meet(made->variables, present("FLUX_JOB_NNODES") && nodes == 1, present("FLUX_JOB_ID"), names);
  return made;
}

std::optional<Claim> read_slurm() {
  // A batch script has SLURM_PROCID=0 and SLURM_NTASKS too, but is no task: only srun sets a step.
  if (!present("SLURM_STEP_ID") && !present("SLURM_STEPID")) return std::nullopt;
  const char* size_name = present("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  const std::string per_node =
      present("SLURM_STEP_TASKS_PER_NODE") ? text("SLURM_STEP_TASKS_PER_NODE") : text("SLURM_TASKS_PER_NODE");
  std::optional<int> local_size;
  if (const std::optional<int> node = number("SLURM_NODEID")) local_size = slurm_tasks_of_node(per_node, *node);
  const std::optional<int> local_rank = number("SLURM_LOCALID");
  if (!local_size && local_rank) {
    // Unknown: at least as many as this task's own number says.
    local_size = first_number({"SLURM_NTASKS_PER_NODE"});
    if (!local_size) local_size = number(size_name);
  }
  std::optional<Claim> made = claim("slurm", "SLURM_PROCID", size_name, local_rank, local_size);
  if (!made) return made;
  const std::string job =
      text("SLURM_JOB_ID") + "." + (present("SLURM_STEP_ID") ? text("SLURM_STEP_ID") : text("SLURM_STEPID"));
  LauncherVariables& variables = made->variables;
  variables.job = "slurm " + job;
  variables.rendezvous = master_rendezvous();
  if (!variables.rendezvous.empty()) return made;
  // Rank 0 runs on the first node of the step. The launch node may be a login node, so it is only the second choice.
  const std::string nodes = present("SLURM_STEP_NODELIST") ? text("SLURM_STEP_NODELIST") : text("SLURM_JOB_NODELIST");
  std::string host = variables.local_size == variables.size ? "127.0.0.1" : slurm_first_node(nodes);
  if (host.empty()) host = text("SLURM_LAUNCH_NODE_IPADDR");
  if (host.empty()) return made;
  // Below the ports that the system hands out by itself, and different for jobs that share a node.
  const int port = 20000 + static_cast<int>(job_number(job) % 10000);
  variables.rendezvous = fmt::format("tcp://{}:{}", host, port);
  return made;
}

std::optional<Claim> read_pmi() {
  std::optional<Claim> made = claim("pmi", "PMI_RANK", "PMI_SIZE", first_number({"MPI_LOCALRANKID", "PMI_LOCAL_RANK"}),
                                    first_number({"MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"}));
  if (!made) return made;
  LauncherVariables& variables = made->variables;
  variables.job = "pmi " + text("PMI_PORT") + " " + text("PMIX_NAMESPACE");
  constexpr std::array names{"PMI_RANK", "PMI_SIZE", "PMI_FD", "PMI_PORT"};
  const bool counted = present("MPI_LOCALNRANKS") || present("PMI_LOCAL_SIZE");
  meet(variables, counted && variables.local_size == variables.size, present("PMI_PORT") || present("PMIX_NAMESPACE"),
       names);
  return made;
}

std::string describe(const Claim& made) {
  return fmt::format("{} says rank {} of {} ({})", made.variables.launcher, made.variables.rank, made.variables.size,
                     made.rank_name);
}

}  // namespace

LauncherVariables read_launcher_variables() {
  if (const std::optional<Claim> own = read_arbiter()) return own->variables;
  std::vector<Claim> claims;
  for (std::optional<Claim> made :
       {read_torchrun(), read_open_mpi(), read_mvapich2(), read_slurm(), read_flux(), read_pmi()}) {
    if (made) claims.push_back(std::move(*made));
  }
  // A single rank (an interactive step of Slurm, RANK=0 and WORLD_SIZE=1 of a pod) is where others were started from.
  if (std::any_of(claims.begin(), claims.end(), [](const Claim& made) { return made.variables.several(); })) {
    std::erase_if(claims, [](const Claim& made) { return !made.variables.several(); });
  }
  if (claims.empty()) return {};
  const Claim& chosen = claims.front();
  for (const Claim& other : claims) {
    if (other.variables.size == chosen.variables.size && other.variables.rank == chosen.variables.rank) continue;
    // One process per node under srun, each of which started the real ranks.
    if (chosen.proven && other.variables.size < chosen.variables.size) continue;
    throw Disagreement("two launchers disagree: " + describe(chosen) + ", " + describe(other) +
                       "; unset the variables of the one that did not start this process");
  }
  return chosen.variables;
}

}  // namespace arbiter
