// What an NCCL may have that this version of Arbiter has not heard of.
extern "C" {
__attribute__((visibility("default"))) int ncclInTheFuture() { return 0; }
__attribute__((visibility("default"))) int pncclInTheFuture() { return 0; }
}
