// Two e4m3 in the low half of a word as fp32; `lo` is the one with the smaller index.
ARBITER_DEVICE void unpack_e4m3(unsigned pair, float& lo, float& hi) {
#if __CUDA_ARCH__ >= 890
  unsigned halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<unsigned short>(pair)));
  lo = fp16_lo(halves);
  hi = fp16_hi(halves);
#else
  lo = e4m3_signed(pair & 0xffu);
  hi = e4m3_signed(pair >> 8);
#endif
}
