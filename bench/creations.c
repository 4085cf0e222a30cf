/* One rank of a group that meets in each of the ways that arbiter.h has for launched processes, and reduces.
 *   creations environment                        torchrun, mpirun, srun or their variables say who this is
 *   creations unique_id FILE                     rank 0 writes the id to FILE, which the others wait for
 *   creations nccl FILE                          the same for an ncclComm_t that this program creates itself
 * bench/creations.sh starts the ranks. Ends with 0 if every sum was right. */
#define _POSIX_C_SOURCE 200809L
#include <arbiter.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { count = 65536, hidden = 1024 };

static void require(arbiter_status status, const arbiter_communicator* communicator, const char* what) {
  if (status == ARBITER_SUCCESS) return;
  fprintf(stderr, "%s: %s: %s\n", what, arbiter_status_name(status), arbiter_last_error(communicator));
  exit(1);
}

static int variable(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text == NULL ? otherwise : atoi(text);
}

/* The id of rank 0, through a file that appears whole. */
static void share_id(const char* path, int rank, void* id) {
  char temporary[4096];
  if (rank == 0) {
    require(arbiter_get_unique_id(id), NULL, "arbiter_get_unique_id");
    snprintf(temporary, sizeof temporary, "%s.new", path);
    FILE* file = fopen(temporary, "wb");
    if (file == NULL || fwrite(id, ARBITER_UNIQUE_ID_BYTES, 1, file) != 1 || fclose(file) != 0 ||
        rename(temporary, path) != 0) {
      perror(path);
      exit(1);
    }
    return;
  }
  for (int tries = 0; tries < 600; ++tries) {
    FILE* file = fopen(path, "rb");
    const struct timespec pause = {0, 100000000};
    if (file != NULL) {
      const size_t got = fread(id, ARBITER_UNIQUE_ID_BYTES, 1, file);
      fclose(file);
      if (got == 1) return;
    }
    nanosleep(&pause, NULL);
  }
  fprintf(stderr, "rank 0 wrote no id to %s\n", path);
  exit(1);
}

static void* function_of(void* library, const char* name) {
  void* function = dlsym(library, name);
  if (function == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  return function;
}

static void require_zero(int code, const char* what) {
  if (code == 0) return;
  fprintf(stderr, "%s failed: %d\n", what, code);
  exit(1);
}

/* As a host program with CUDA and NCCL of its own: their functions by name, so that neither is needed to build this. */
typedef struct {
  char bytes[ARBITER_UNIQUE_ID_BYTES];
} unique_id;
static int (*destroy_comm)(void*);

static void* own_nccl_comm(const char* path, int rank, int size, int ordinal) {
  unique_id id;
  void *driver, *nccl, *context = NULL, *comm = NULL;
  int device = 0;
  int (*init)(unsigned), (*get)(int*, int), (*retain)(void**, int), (*set)(void*);
  int (*create)(void**, int, unique_id, int);
  if (rank != 0) {
    unique_id unused;
    require(arbiter_get_unique_id(unused.bytes), NULL, "arbiter_get_unique_id"); /* opens NCCL */
  }
  share_id(path, rank, id.bytes);
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  nccl = dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (driver == NULL || nccl == NULL) {
    fprintf(stderr, "no driver, or no NCCL in this process: %s\n", dlerror());
    exit(1);
  }
  *(void**)&init = function_of(driver, "cuInit");
  *(void**)&get = function_of(driver, "cuDeviceGet");
  *(void**)&retain = function_of(driver, "cuDevicePrimaryCtxRetain");
  *(void**)&set = function_of(driver, "cuCtxSetCurrent");
  *(void**)&create = function_of(nccl, "ncclCommInitRank");
  *(void**)&destroy_comm = function_of(nccl, "ncclCommDestroy");
  require_zero(init(0), "cuInit");
  require_zero(get(&device, ordinal), "cuDeviceGet");
  require_zero(retain(&context, device), "cuDevicePrimaryCtxRetain");
  require_zero(set(context), "cuCtxSetCurrent");
  require_zero(create(&comm, size, id, rank), "ncclCommInitRank");
  return comm;
}

static void reduce(arbiter_communicator* communicator) {
  const int rank = arbiter_rank(communicator), size = arbiter_size(communicator);
  float* host = malloc(count * sizeof *host);
  void* data = NULL;
  arbiter_handle* handle = NULL;
  arbiter_family family = ARBITER_FAMILY_INIT;
  arbiter_tensors tensors = ARBITER_TENSORS_INIT;
  char why[2048];
  family.dtype = ARBITER_FP32;
  family.hidden = hidden;
  family.max_tokens = count / hidden;
  require(arbiter_prepare_handle(communicator, &family, &handle), communicator, "arbiter_prepare_handle");
  require(arbiter_device_allocate(communicator, count * sizeof *host, &data), communicator, "arbiter_device_allocate");
  tensors.input = data;
  tensors.output = data;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const int tokens = repeat % (count / hidden) + 1;
    for (int i = 0; i < count; ++i) host[i] = (float)(i % 100 + rank + repeat);
    require(arbiter_device_copy(communicator, data, host, count * sizeof *host, NULL), communicator, "copy");
    require(arbiter_run(handle, &tensors, tokens, NULL), communicator, "arbiter_run");
    require(arbiter_device_copy(communicator, host, data, count * sizeof *host, NULL), communicator, "copy");
    require(arbiter_device_synchronize(communicator, NULL), communicator, "synchronize");
    require(arbiter_check(communicator), communicator, "arbiter_check");
    for (int i = 0; i < tokens * hidden; ++i) {
      const float expected = (float)(size * (i % 100 + repeat) + size * (size - 1) / 2);
      if (host[i] == expected) continue;
      fprintf(stderr, "rank %d: element %d of %d tokens is %g; expected %g\n", rank, i, tokens, host[i], expected);
      exit(1);
    }
  }
  require(arbiter_explain(communicator, &family, 8, why, sizeof why, NULL), communicator, "arbiter_explain");
  if (rank == 0) printf("%d ranks, all sums are right; 8 tokens: %s\n", size, why);
  require(arbiter_device_release(communicator, data), communicator, "arbiter_device_release");
  free(host);
}

int main(int argc, char** argv) {
  const char* way = argc > 1 ? argv[1] : "";
  const int rank = variable("RANK", 0), size = variable("WORLD_SIZE", 1), ordinal = variable("LOCAL_RANK", 0);
  arbiter_communicator_options options = ARBITER_COMMUNICATOR_OPTIONS_INIT;
  arbiter_communicator* communicator = NULL;
  void* comm = NULL;
  if (strcmp(way, "environment") == 0 && argc == 2) {
    require(arbiter_create_from_environment(&options, &communicator), NULL, "arbiter_create_from_environment");
  } else if (strcmp(way, "unique_id") == 0 && argc == 3) {
    char id[ARBITER_UNIQUE_ID_BYTES];
    share_id(argv[2], rank, id);
    options.ordinal = ordinal;
    require(arbiter_create_from_unique_id(id, rank, size, &options, &communicator), NULL,
            "arbiter_create_from_unique_id");
  } else if (strcmp(way, "nccl") == 0 && argc == 3) {
    comm = own_nccl_comm(argv[2], rank, size, ordinal);
    require(arbiter_create_from_nccl(comm, &options, &communicator), NULL, "arbiter_create_from_nccl");
  } else {
    fprintf(stderr, "usage: creations environment | unique_id FILE | nccl FILE\n");
    return 2;
  }
  reduce(communicator);
  arbiter_destroy(communicator);
  if (comm != NULL) require_zero(destroy_comm(comm), "ncclCommDestroy");
  return 0;
}
