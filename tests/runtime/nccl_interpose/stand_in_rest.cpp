#include <cstddef>
#include <type_traits>

// Every other function of NCCL that is passed on, weak so that stand_in.cpp may define it: returns a number that
// depends on its name and on every argument, in registers, in vector registers and on the stack.
namespace {

constexpr long named(const char* name) {
  long hash = 17;
  for (; *name != '\0'; ++name) hash = (hash * 31 + *name) % 1000003;
  return hash;
}

}  // namespace

#define ARBITER_NCCL_FORWARD(name)                                                                                    \
  extern "C" __attribute__((visibility("default"), weak)) long name(long a, long b, long c, long d, long e, long f,   \
                                                                    double x, double y, long g, long h) {             \
    return named(#name) + a + 3 * b + 5 * c + 7 * d + 11 * e + 13 * f + 17 * g + 19 * h + static_cast<long>(23 * x) + \
           static_cast<long>(29 * y);                                                                                 \
  }
#include "names.def"
#undef ARBITER_NCCL_FORWARD

// Collectives that keep their streams in order have the arguments of their declarations.
namespace {

template <typename Argument>
constexpr long number(Argument argument) {
  if constexpr (std::is_pointer_v<Argument>) {
    return reinterpret_cast<long>(argument);
  } else {
    return static_cast<long>(argument);
  }
}

template <typename... Arguments>
constexpr int weighted_sum(Arguments... arguments) {
  long sum = 0;
  long factor = 1;
  ((sum += factor * number(arguments), factor += 2), ...);
  return static_cast<int>(sum);
}

}  // namespace

using std::size_t;
using NcclComm = struct ncclComm*;
using cudaStream_t = struct CUstream_st*;
#define ARBITER_NCCL_PASS(name, parameters, ...)                                \
  extern "C" __attribute__((visibility("default"), weak)) int name parameters { \
    return static_cast<int>(named(#name)) + weighted_sum(__VA_ARGS__);          \
  }
#include "passed.def"
