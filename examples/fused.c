/* What a tensor-parallel layer calls: residual_out = allreduce(input) + residual_in; norm_out = rmsnorm(residual_out).
 * Two ranks, and a loop as an engine makes it: several token counts through one handle, nothing decided in between. On
 * a GPU, the calls between arbiter_prepare_handle() and arbiter_check() may be captured into a CUDA graph as they are.
 */
#include <arbiter.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { ranks = 2, hidden = 256, max_tokens = 16 };

static arbiter_communicator* communicators[ranks];

static void require(arbiter_status status, const arbiter_communicator* communicator, const char* what) {
  if (status == ARBITER_SUCCESS) return;
  fprintf(stderr, "%s: %s: %s\n", what, arbiter_status_name(status), arbiter_last_error(communicator));
  exit(1);
}

static float* tensor(arbiter_communicator* communicator, size_t elements) {
  void* memory = NULL;
  require(arbiter_allocate_symmetric(communicator, elements * sizeof(float), &memory), communicator, "allocate");
  return memory;
}

static void* rank_main(void* argument) {
  arbiter_communicator* communicator = argument;
  arbiter_family family = ARBITER_FAMILY_INIT;
  family.pattern = "allreduce_residual_rmsnorm";
  family.dtype = ARBITER_FP32;
  family.hidden = hidden;
  family.max_tokens = max_tokens;
  arbiter_handle* layer = NULL;
  require(arbiter_prepare_handle(communicator, &family, &layer), communicator, "prepare");

  float* partial = tensor(communicator, (size_t)max_tokens * hidden);
  float* residual = tensor(communicator, (size_t)max_tokens * hidden);
  float* normed = tensor(communicator, (size_t)max_tokens * hidden);
  float* weight = tensor(communicator, hidden);
  for (int i = 0; i < hidden; ++i) weight[i] = 1.0F;

  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  tensors.input = partial;
  tensors.residual_in = residual;
  tensors.residual_out = residual; /* in place */
  tensors.gamma = weight;
  tensors.norm_out = normed;
  tensors.epsilon = 1e-6F;

  for (int tokens = 1; tokens <= max_tokens; tokens *= 2) {
    for (int i = 0; i < tokens * hidden; ++i) {
      partial[i] = (float)(i % 5) + 1.0F;
      residual[i] = (float)(i % 3);
    }
    require(arbiter_run(layer, &tensors, tokens, NULL), communicator, "run");
    require(arbiter_check(communicator), communicator, "check");
    for (int row = 0; row < tokens; ++row) {
      double squares = 0;
      for (int i = row * hidden; i < (row + 1) * hidden; ++i) squares += (double)residual[i] * residual[i];
      for (int i = row * hidden; i < (row + 1) * hidden; ++i) {
        const double sum = ranks * ((i % 5) + 1.0) + i % 3;
        const double norm = sum / sqrt(squares / hidden + 1e-6);
        if (residual[i] != (float)sum || fabs(normed[i] - norm) > 1e-4) {
          fprintf(stderr, "%d tokens, element %d: %g and %g, expected %g and %g\n", tokens, i, (double)residual[i],
                  (double)normed[i], sum, norm);
          exit(1);
        }
      }
    }
  }
  if (arbiter_rank(communicator) == 0) {
    char text[4096];
    require(arbiter_stats(communicator, text, sizeof text, NULL), communicator, "stats");
    printf("%s\n", text);
  }
  arbiter_destroy(communicator);
  return NULL;
}

int main(void) {
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  options.device = ARBITER_DEVICE_CPU;
  require(arbiter_create_in_process(ranks, &options, communicators), NULL, "create");
  pthread_t threads[ranks];
  for (int rank = 0; rank < ranks; ++rank) pthread_create(&threads[rank], NULL, rank_main, communicators[rank]);
  for (int rank = 0; rank < ranks; ++rank) pthread_join(threads[rank], NULL);
  return 0;
}
