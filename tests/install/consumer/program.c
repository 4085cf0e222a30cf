#include <arbiter.h>
#include <stdio.h>

int main(void) {
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  arbiter_communicator* alone = NULL;
  options.device = ARBITER_DEVICE_CPU;
  if (arbiter_create_in_process(1, &options, &alone) != ARBITER_SUCCESS) {
    fprintf(stderr, "%s\n", arbiter_last_error(NULL));
    return 1;
  }
  printf("rank %d\n", arbiter_rank(alone));
  arbiter_destroy(alone);
  return 0;
}
