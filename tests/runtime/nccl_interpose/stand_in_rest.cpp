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
