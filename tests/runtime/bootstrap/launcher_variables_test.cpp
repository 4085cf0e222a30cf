#include <gtest/gtest.h>

#include "arbiter/bootstrap.hpp"
#include "arbiter/error.hpp"
#include "bootstrap/id_exchange.hpp"
#include "bootstrap/slurm_lists.hpp"
#include "runtime/launcher_environment.hpp"

namespace arbiter {
namespace {

using test::LauncherEnvironment;

template <typename Exception>
std::string message_of_reading() {
  try {
    read_launcher_variables();
  } catch (const Exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(LauncherVariables, AreEmptyWithoutALauncher) {
  const LauncherEnvironment environment({});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "");
  EXPECT_EQ(read.rank, 0);
  EXPECT_EQ(read.size, 1);
  EXPECT_EQ(read.rendezvous, "");
}

TEST(LauncherVariables, OfTorchrun) {
  const LauncherEnvironment environment({{"RANK", "9"},
                                         {"WORLD_SIZE", "16"},
                                         {"LOCAL_RANK", "1"},
                                         {"LOCAL_WORLD_SIZE", "8"},
                                         {"MASTER_ADDR", "node7"},
                                         {"MASTER_PORT", "29500"},
                                         {"TORCHELASTIC_RUN_ID", "none"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "torchrun");
  EXPECT_EQ(read.rank, 9);
  EXPECT_EQ(read.size, 16);
  EXPECT_EQ(read.local_rank, 1);
  EXPECT_EQ(read.local_size, 8);
  EXPECT_EQ(read.rendezvous, "tcp://node7:30500");  // MASTER_PORT itself belongs to torchrun's store
}

TEST(LauncherVariables, PortsStayPorts) {
  const LauncherEnvironment environment(
      {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "65535"}});
  EXPECT_EQ(read_launcher_variables().rendezvous, "tcp://[::1]:2023");
  for (int port : {1, 1024, 29500, 65535}) {
    for (int attempt = 0; attempt < id_exchange_port_count; ++attempt) {
      EXPECT_GE(id_exchange_port(port, attempt), 1024);
      EXPECT_LE(id_exchange_port(port, attempt), 65535);
    }
  }
}

TEST(LauncherVariables, OfOpenMpiOnOneNodeMeetInAFile) {
  const LauncherEnvironment environment({{"OMPI_COMM_WORLD_RANK", "1"},
                                         {"OMPI_COMM_WORLD_SIZE", "4"},
                                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                                         {"PMIX_NAMESPACE", "prterun-17@1"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "open_mpi");
  EXPECT_EQ(read.rank, 1);
  EXPECT_TRUE(read.rendezvous.starts_with("file:///")) << read.rendezvous;
  EXPECT_NE(read.job.find("prterun-17@1"), std::string::npos) << read.job;
}

TEST(LauncherVariables, OfOpenMpiOnTwoNodesNeedAMeetingPoint) {
  const LauncherEnvironment environment({{"OMPI_COMM_WORLD_RANK", "1"},
                                         {"OMPI_COMM_WORLD_SIZE", "4"},
                                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.rendezvous, "");
  IdExchange exchange;
  exchange.rank = read.rank;
  exchange.size = read.size;
  try {
    exchange_id(exchange, {});
    FAIL() << "expected InvalidArgument";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("MASTER_ADDR"), std::string::npos) << error.what();
  }
}

TEST(LauncherVariables, OfSlurmMeetOnTheFirstNode) {
  const LauncherEnvironment environment({{"SLURM_STEP_ID", "0"},
                                         {"SLURM_JOB_ID", "4711"},
                                         {"SLURM_PROCID", "5"},
                                         {"SLURM_NTASKS", "7"},
                                         {"SLURM_LOCALID", "1"},
                                         {"SLURM_NODEID", "1"},
                                         {"SLURM_STEP_TASKS_PER_NODE", "4,3"},
                                         {"SLURM_STEP_NODELIST", "gpu[08-09]"},
                                         {"SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "slurm");
  EXPECT_EQ(read.rank, 5);
  EXPECT_EQ(read.size, 7);
  EXPECT_EQ(read.local_rank, 1);
  EXPECT_EQ(read.local_size, 3);
  EXPECT_TRUE(read.rendezvous.starts_with("tcp://gpu08:2")) << read.rendezvous;
  EXPECT_EQ(read.job, "slurm 4711.0");
}

TEST(LauncherVariables, OfABatchScriptAreNoTask) {
  const LauncherEnvironment environment({{"SLURM_JOB_ID", "4711"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}});
  EXPECT_EQ(read_launcher_variables().launcher, "");
}

TEST(LauncherVariables, OfPmi) {
  const LauncherEnvironment environment({{"PMI_RANK", "2"},
                                         {"PMI_SIZE", "3"},
                                         {"MPI_LOCALRANKID", "2"},
                                         {"MPI_LOCALNRANKS", "3"},
                                         {"PMI_PORT", "node:4242"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "pmi");
  EXPECT_EQ(read.rank, 2);
  EXPECT_EQ(read.local_size, 3);
  EXPECT_TRUE(read.rendezvous.starts_with("file:///")) << read.rendezvous;
}

TEST(LauncherVariables, OfMvapich2) {
  const LauncherEnvironment environment({{"MV2_COMM_WORLD_RANK", "3"},
                                         {"MV2_COMM_WORLD_SIZE", "4"},
                                         {"MV2_COMM_WORLD_LOCAL_RANK", "3"},
                                         {"MV2_COMM_WORLD_LOCAL_SIZE", "4"},
                                         {"PMI_PORT", "node:4242"},
                                         {"PMI_RANK", "3"},
                                         {"PMI_SIZE", "4"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "mvapich2");
  EXPECT_EQ(read.rank, 3);
  EXPECT_EQ(read.local_size, 4);
  EXPECT_TRUE(read.rendezvous.starts_with("file:///")) << read.rendezvous;
  EXPECT_NE(read.job.find("node:4242"), std::string::npos) << read.job;
}

TEST(LauncherVariables, OfMvapich2OnTwoNodesNeedAMeetingPoint) {
  const LauncherEnvironment environment({{"MV2_COMM_WORLD_RANK", "3"},
                                         {"MV2_COMM_WORLD_SIZE", "4"},
                                         {"MV2_COMM_WORLD_LOCAL_RANK", "1"},
                                         {"MV2_COMM_WORLD_LOCAL_SIZE", "2"},
                                         {"PMI_PORT", "node:4242"}});
  EXPECT_EQ(read_launcher_variables().rendezvous, "");
}

TEST(LauncherVariables, OfFlux) {
  const LauncherEnvironment one_node({{"FLUX_TASK_RANK", "5"},
                                      {"FLUX_JOB_SIZE", "8"},
                                      {"FLUX_TASK_LOCAL_ID", "5"},
                                      {"FLUX_JOB_NNODES", "1"},
                                      {"FLUX_JOB_ID", "f23dLpxA"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "flux");
  EXPECT_EQ(read.rank, 5);
  EXPECT_EQ(read.local_rank, 5);
  EXPECT_EQ(read.local_size, 8);
  EXPECT_EQ(read.job, "flux f23dLpxA");
  EXPECT_TRUE(read.rendezvous.starts_with("file:///")) << read.rendezvous;

  const LauncherEnvironment two_nodes({{"FLUX_TASK_RANK", "6"},
                                       {"FLUX_JOB_SIZE", "7"},
                                       {"FLUX_TASK_LOCAL_ID", "2"},
                                       {"FLUX_JOB_NNODES", "2"},
                                       {"FLUX_JOB_ID", "f23dLpxA"},
                                       {"MASTER_ADDR", "node1"},
                                       {"MASTER_PORT", "29500"}});
  EXPECT_EQ(read_launcher_variables().local_rank, 2);
  EXPECT_EQ(read_launcher_variables().local_size, 4);
  EXPECT_EQ(read_launcher_variables().rendezvous, "tcp://node1:30500");
}

TEST(LauncherVariables, OfASingleRankDoNotHideALauncherOfMore) {
  // mpiexec.hydra inside an interactive step of Slurm, and mpirun inside a pod.
  const LauncherEnvironment step({{"SLURM_STEP_ID", "4294967290"},
                                  {"SLURM_PROCID", "0"},
                                  {"SLURM_NTASKS", "1"},
                                  {"PMI_RANK", "3"},
                                  {"PMI_SIZE", "8"}});
  EXPECT_EQ(read_launcher_variables().launcher, "pmi");
  EXPECT_EQ(read_launcher_variables().rank, 3);
  const LauncherEnvironment pod(
      {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "8"}});
  EXPECT_EQ(read_launcher_variables().launcher, "open_mpi");
  EXPECT_TRUE(read_launcher_variables().several());
  const LauncherEnvironment alone({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  EXPECT_EQ(read_launcher_variables().launcher, "torchrun");
  EXPECT_FALSE(read_launcher_variables().several());
}

TEST(LauncherVariables, OfOurOwnWorkersWinOverEverything) {
  const LauncherEnvironment environment({{"ARBITER_WORKER_RANK", "3"},
                                         {"ARBITER_WORKER_SIZE", "4"},
                                         {"ARBITER_WORKER_RENDEZVOUS", "file:///run/x"},
                                         {"SLURM_STEP_ID", "0"},
                                         {"SLURM_PROCID", "0"},
                                         {"SLURM_NTASKS", "1"},
                                         {"RANK", "nonsense"}});
  const LauncherVariables read = read_launcher_variables();
  EXPECT_EQ(read.launcher, "arbiter");
  EXPECT_EQ(read.rank, 3);
  EXPECT_EQ(read.local_rank, 3);
  EXPECT_EQ(read.rendezvous, "file:///run/x");
}

TEST(LauncherVariables, OfTwoLaunchersThatDisagreeAreRefused) {
  const LauncherEnvironment environment(
      {{"RANK", "0"}, {"WORLD_SIZE", "8"}, {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "8"}});
  const std::string message = message_of_reading<Disagreement>();
  EXPECT_NE(message.find("torchrun says rank 0 of 8"), std::string::npos) << message;
  EXPECT_NE(message.find("slurm says rank 3 of 8"), std::string::npos) << message;
}

TEST(LauncherVariables, HandSetVariablesDoNotHideALauncherOfFewerRanks) {
  // RANK and WORLD_SIZE that were exported by hand prove nothing; those of torchrun itself do.
  const LauncherEnvironment hand(
      {{"RANK", "0"}, {"WORLD_SIZE", "8"}, {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "2"}});
  EXPECT_THROW(read_launcher_variables(), Disagreement);
  const LauncherEnvironment nested({{"RANK", "5"},
                                    {"WORLD_SIZE", "8"},
                                    {"TORCHELASTIC_RUN_ID", "x"},
                                    {"SLURM_STEP_ID", "0"},
                                    {"SLURM_PROCID", "1"},
                                    {"SLURM_NTASKS", "2"}});
  EXPECT_EQ(read_launcher_variables().launcher, "torchrun");
  EXPECT_EQ(read_launcher_variables().rank, 5);
}

TEST(LauncherVariables, TwoLaunchersThatAgreeAreFine) {
  const LauncherEnvironment environment(
      {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"PMI_RANK", "1"}, {"PMI_SIZE", "2"}});
  EXPECT_EQ(read_launcher_variables().launcher, "open_mpi");
}

TEST(LauncherVariables, MalformedNumbersAreNamed) {
  for (const char* bad : {"one", "1x", "-1", "1.5", " 1", "99999999999"}) {
    const LauncherEnvironment environment({{"RANK", bad}, {"WORLD_SIZE", "2"}});
    const std::string message = message_of_reading<InvalidArgument>();
    EXPECT_NE(message.find(std::string("RANK='") + bad + "'"), std::string::npos) << message;
  }
}

TEST(LauncherVariables, HalvesAndImpossibleRanksAreRefused) {
  const LauncherEnvironment half({{"WORLD_SIZE", "2"}});
  EXPECT_NE(message_of_reading<InvalidArgument>().find("RANK is not"), std::string::npos);
  const LauncherEnvironment beyond({{"RANK", "2"}, {"WORLD_SIZE", "2"}});
  EXPECT_THROW(read_launcher_variables(), InvalidArgument);
  const LauncherEnvironment empty_world({{"RANK", "0"}, {"WORLD_SIZE", "0"}});
  EXPECT_THROW(read_launcher_variables(), InvalidArgument);
  const LauncherEnvironment local({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "3"}, {"LOCAL_WORLD_SIZE", "2"}});
  EXPECT_THROW(read_launcher_variables(), InvalidArgument);
  const LauncherEnvironment port({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "x"}, {"MASTER_PORT", "70000"}});
  EXPECT_THROW(read_launcher_variables(), InvalidArgument);
  const LauncherEnvironment no_meeting({{"ARBITER_WORKER_RANK", "0"}, {"ARBITER_WORKER_SIZE", "2"}});
  EXPECT_THROW(read_launcher_variables(), InvalidArgument);
}

TEST(SlurmLists, FirstNode) {
  EXPECT_EQ(slurm_first_node("gpu[03-07,09],login1"), "gpu03");
  EXPECT_EQ(slurm_first_node("node5"), "node5");
  EXPECT_EQ(slurm_first_node("a,b"), "a");
  EXPECT_EQ(slurm_first_node("rack[1-2]node[01-16]"), "rack1node01");
  EXPECT_EQ(slurm_first_node("n[7]-ib"), "n7-ib");
  EXPECT_EQ(slurm_first_node(""), "");
  EXPECT_EQ(slurm_first_node("broken[1-2"), "");
  EXPECT_EQ(slurm_first_node("broken[]"), "");
}

TEST(SlurmLists, TasksOfNode) {
  EXPECT_EQ(slurm_tasks_of_node("4(x2),3", 0), 4);
  EXPECT_EQ(slurm_tasks_of_node("4(x2),3", 1), 4);
  EXPECT_EQ(slurm_tasks_of_node("4(x2),3", 2), 3);
  EXPECT_EQ(slurm_tasks_of_node("4(x2),3", 3), std::nullopt);
  EXPECT_EQ(slurm_tasks_of_node("8", 0), 8);
  for (const char* broken : {"", "x", "4(x", "4(x2", "4;3", "0"})
    EXPECT_EQ(slurm_tasks_of_node(broken, 1), std::nullopt) << broken;
}

}  // namespace
}  // namespace arbiter
