// Environment variables for the length of a test.
#pragma once

#include <cstdlib>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <utility>

namespace arbiter::test {

/// Unsets every variable that a launcher may have left in the test's own environment, sets the given ones, and restores
/// everything at the end.
class LauncherEnvironment {
 public:
  LauncherEnvironment(std::initializer_list<std::pair<const char*, const char*>> variables) {
    for (const char* name : {"ARBITER_WORKER_RANK",
                             "ARBITER_WORKER_SIZE",
                             "ARBITER_WORKER_RENDEZVOUS",
                             "RANK",
                             "WORLD_SIZE",
                             "LOCAL_RANK",
                             "LOCAL_WORLD_SIZE",
                             "MASTER_ADDR",
                             "MASTER_PORT",
                             "TORCHELASTIC_RUN_ID",
                             "TORCHELASTIC_RESTART_COUNT",
                             "OMPI_COMM_WORLD_RANK",
                             "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK",
                             "OMPI_COMM_WORLD_LOCAL_SIZE",
                             "OMPI_MCA_ess_base_jobid",
                             "PMIX_NAMESPACE",
                             "SLURM_STEP_ID",
                             "SLURM_STEPID",
                             "SLURM_PROCID",
                             "SLURM_NTASKS",
                             "SLURM_STEP_NUM_TASKS",
                             "SLURM_LOCALID",
                             "SLURM_NODEID",
                             "SLURM_TASKS_PER_NODE",
                             "SLURM_STEP_TASKS_PER_NODE",
                             "SLURM_NTASKS_PER_NODE",
                             "SLURM_JOB_ID",
                             "SLURM_STEP_NODELIST",
                             "SLURM_JOB_NODELIST",
                             "SLURM_LAUNCH_NODE_IPADDR",
                             "PMI_RANK",
                             "PMI_SIZE",
                             "PMI_PORT",
                             "PMI_FD",
                             "MV2_COMM_WORLD_RANK",
                             "MV2_COMM_WORLD_SIZE",
                             "MV2_COMM_WORLD_LOCAL_RANK",
                             "MV2_COMM_WORLD_LOCAL_SIZE",
                             "MPIRUN_ID",
                             "FLUX_TASK_RANK",
                             "FLUX_TASK_LOCAL_ID",
                             "FLUX_JOB_SIZE",
                             "FLUX_JOB_NNODES",
                             "FLUX_JOB_ID",
                             "MPI_LOCALRANKID",
                             "MPI_LOCALNRANKS",
                             "PMI_LOCAL_RANK",
                             "PMI_LOCAL_SIZE"}) {
      change(name, nullptr);
    }
    for (const auto& [name, value] : variables) change(name, value);
  }
  ~LauncherEnvironment() {
    for (const auto& [name, value] : saved_) {
      if (value) {
        setenv(name.c_str(), value->c_str(), 1);
      } else {
        unsetenv(name.c_str());
      }
    }
  }
  LauncherEnvironment(const LauncherEnvironment&) = delete;
  LauncherEnvironment& operator=(const LauncherEnvironment&) = delete;

 private:
  void change(const char* name, const char* value) {
    const char* now = std::getenv(name);
    saved_.try_emplace(name, now == nullptr ? std::nullopt : std::optional<std::string>(now));
    if (value == nullptr) {
      unsetenv(name);
    } else {
      setenv(name, value, 1);
    }
  }
  std::map<std::string, std::optional<std::string>> saved_;
};

}  // namespace arbiter::test
