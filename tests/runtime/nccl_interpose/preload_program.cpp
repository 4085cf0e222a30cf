// A program that was linked to NCCL (the stand-in) and knows nothing of Arbiter: two processes, some allreduces.
// Prints, per rank, how many elements were wrong and how many allreduces reached the NCCL that it was linked to.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>

#include "nccl_calls.hpp"

extern "C" {
int ncclGetUniqueId(arbiter::test::UniqueId* id);
int ncclCommInitRank(arbiter::test::Comm* comm, int size, arbiter::test::UniqueId id, int rank);
int ncclAllReduce(const void* input, void* output, std::size_t count, int type, int op, arbiter::test::Comm comm,
                  void* stream);
int ncclCommDestroy(arbiter::test::Comm comm);
}

namespace {

using namespace arbiter::test;

int run_rank(int rank, const UniqueId& id) {
  Comm comm = nullptr;
  if (ncclCommInitRank(&comm, 2, id, rank) != 0) return 1;
  std::size_t wrong = 0;
  for (int i = 0; i < 4; ++i) {
    Message message(type_bf16, 512, rank);
    if (ncclAllReduce(message.input(), message.output(), 512, type_bf16, op_sum, comm, nullptr) != 0) return 2;
    wrong += message.wrong(message.output(), {0, 1});
  }
  if (ncclCommDestroy(comm) != 0) return 3;
  // As JAX finds NCCL; the count is the stand-in's own function, which only its own file has.
  void* by_name = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (by_name == nullptr || dlsym(by_name, "ncclAllReduce") != reinterpret_cast<void*>(&ncclAllReduce)) return 4;
  void* file = dlopen(STAND_IN, RTLD_NOW | RTLD_LOCAL);
  const auto count = reinterpret_cast<int (*)()>(dlsym(file, "stand_in_allreduces"));
  std::printf("rank %d: %zu wrong, %d forwarded\n", rank, wrong, count());
  return 0;
}

}  // namespace

int main() {
  UniqueId id;
  if (ncclGetUniqueId(&id) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) {
    const int result = run_rank(1, id);
    std::fflush(stdout);
    _exit(result);
  }
  const int result = run_rank(0, id);
  int status = 0;
  waitpid(child, &status, 0);
  return result != 0 ? result : WEXITSTATUS(status);
}
