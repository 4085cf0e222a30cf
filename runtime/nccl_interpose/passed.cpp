// Collectives that NCCL does, on a communicator that Arbiter may serve too: a stream that Arbiter did not use last
// waits for what it did, as NCCL's own collectives wait for each other.
#include <cstddef>

#include "comm_registry.hpp"
#include "real_library.hpp"

namespace arbiter::nccl_interpose {
namespace {

void pass(NcclComm comm, cudaStream_t stream) {
  if (const std::shared_ptr<FollowedComm> entry = followed(comm)) entry->pass(stream);
}

}  // namespace
}  // namespace arbiter::nccl_interpose

using arbiter::NcclComm;
using std::size_t;

// All of them end in a communicator and a stream.
#define ARBITER_NCCL_PASS(name, parameters, ...)                                                           \
  extern "C" __attribute__((visibility("default"))) int name parameters {                                  \
    static const auto real = reinterpret_cast<int(*) parameters>(arbiter::nccl_interpose::resolve(#name)); \
    arbiter::nccl_interpose::pass(comm, stream);                                                           \
    return real(__VA_ARGS__);                                                                              \
  }
#include "passed.def"
