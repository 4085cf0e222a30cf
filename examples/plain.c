/* Plain allreduce from C: four ranks, one thread each. On the CPU device, which needs no GPU. */
#include <arbiter.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ranks = 4, count = 1000 };

static arbiter_communicator* communicators[ranks];

static void require(arbiter_status status, const arbiter_communicator* communicator, const char* what) {
  if (status == ARBITER_SUCCESS) return;
  fprintf(stderr, "%s: %s: %s\n", what, arbiter_status_name(status), arbiter_last_error(communicator));
  exit(1);
}

static void* rank_main(void* argument) {
  arbiter_communicator* communicator = argument;
  const int rank = arbiter_rank(communicator);

  /* Everything that will be called, up to the largest size. Collective, before any capture. */
  arbiter_family family = ARBITER_FAMILY_INIT;
  family.pattern = "allreduce";
  family.dtype = ARBITER_FP32;
  family.hidden = count;
  family.max_tokens = 1;
  require(arbiter_prepare(communicator, &family, 1), communicator, "prepare");

  /* Memory that all ranks can address; any device memory of the rank serves as well. */
  void* memory = NULL;
  require(arbiter_allocate_symmetric(communicator, count * sizeof(float), &memory), communicator, "allocate");
  float* data = memory; /* on the CPU device, the host can touch it */
  for (int i = 0; i < count; ++i) data[i] = (float)(rank + i);

  require(arbiter_all_reduce(communicator, data, data, count, ARBITER_FP32, NULL), communicator, "all_reduce");
  require(arbiter_check(communicator), communicator, "check");

  for (int i = 0; i < count; ++i) {
    const float expected = (float)(ranks * i + ranks * (ranks - 1) / 2);
    if (data[i] != expected) {
      fprintf(stderr, "rank %d: element %d is %g, expected %g\n", rank, i, (double)data[i], (double)expected);
      exit(1);
    }
  }
  arbiter_destroy(communicator);
  return NULL;
}

int main(void) {
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  options.device = ARBITER_DEVICE_CPU; /* threads and host memory: leave it out, and use cudaMemcpy, on GPUs */
  require(arbiter_create_in_process(ranks, &options, communicators), NULL, "create");
  pthread_t threads[ranks];
  for (int rank = 0; rank < ranks; ++rank) pthread_create(&threads[rank], NULL, rank_main, communicators[rank]);
  for (int rank = 0; rank < ranks; ++rank) pthread_join(threads[rank], NULL);
  printf("arbiter %s: %d ranks reduced %d elements\n", arbiter_version(), ranks, count);
  return 0;
}
