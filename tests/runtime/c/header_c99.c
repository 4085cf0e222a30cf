/* arbiter.h as C99 sees it: every macro, every function. Compiled with -pedantic; never run. */
#include "arbiter.h"

int arbiter_header_as_c99(arbiter_communicator* communicator, arbiter_handle* handle);
int arbiter_header_as_c99(arbiter_communicator* communicator, arbiter_handle* handle) {
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  arbiter_callbacks callbacks = ARBITER_CALLBACKS_INIT;
  arbiter_family family = ARBITER_FAMILY_INIT;
  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  arbiter_status status = arbiter_create_from_callbacks(&callbacks, &options, &communicator);
  if (status == ARBITER_SUCCESS) status = arbiter_prepare_handle(communicator, &family, &handle);
  if (status == ARBITER_SUCCESS) status = arbiter_run(handle, &tensors, 1, NULL);
  arbiter_destroy(communicator);
  return status == ARBITER_SUCCESS && arbiter_abi_version() == ARBITER_ABI_VERSION ? 0 : 1;
}
