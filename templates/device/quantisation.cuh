// What quantisations need besides, on top of small_floats.h.
// Two e4m3 in the low half of a word; `lo` is the one with the smaller index.
ARBITER_DEVICE unsigned pack_e4m3(float lo, float hi) {
#if __CUDA_ARCH__ >= 890
  unsigned short pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(hi), "f"(lo));
  return pair;
#else
  return e4m3_bits(lo) | e4m3_bits(hi) << 8;
#endif
}
// The larger of each pair of 16-bit halves.
ARBITER_DEVICE unsigned larger_halves(unsigned a, unsigned b) {
#if __CUDA_ARCH__ >= 900
  unsigned word;
  asm("max.u16x2 %0, %1, %2;" : "=r"(word) : "r"(a), "r"(b));
  return word;
#else
  return __vmaxu2(a, b);
#endif
}
// Eight e2m1. The instruction exists only in code for one architecture or one family.
#if __CUDA_ARCH__ >= 1000 && (defined(__CUDA_ARCH_SPECIFIC__) || defined(__CUDA_ARCH_FAMILY_SPECIFIC__))
constexpr bool converts_to_e2m1 = true;
#else
constexpr bool converts_to_e2m1 = false;
#endif
ARBITER_DEVICE unsigned pack_e2m1([[maybe_unused]] const float (&x)[8]) {
#if __CUDA_ARCH__ >= 1000 && (defined(__CUDA_ARCH_SPECIFIC__) || defined(__CUDA_ARCH_FAMILY_SPECIFIC__))
  unsigned word;
  asm("{.reg .b8 a, b, c, d;"
      "cvt.rn.satfinite.e2m1x2.f32 a, %2, %1; cvt.rn.satfinite.e2m1x2.f32 b, %4, %3;"
      "cvt.rn.satfinite.e2m1x2.f32 c, %6, %5; cvt.rn.satfinite.e2m1x2.f32 d, %8, %7;"
      "mov.b32 %0, {a, b, c, d};}"
      : "=r"(word)
      : "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "f"(x[4]), "f"(x[5]), "f"(x[6]), "f"(x[7]));
  return word;
#else
  return 0;  // nobody asks
#endif
}
