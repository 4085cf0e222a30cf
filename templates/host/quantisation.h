// What quantisations need besides, on top of small_floats.h: the same names as device/quantisation.cuh.
ARBITER_DEVICE unsigned larger_halves(unsigned a, unsigned b) {
  const unsigned hi = (a & 0xffff0000u) > (b & 0xffff0000u) ? a : b, lo = (a & 0xffffu) > (b & 0xffffu) ? a : b;
  return (hi & 0xffff0000u) | (lo & 0xffffu);
}
ARBITER_DEVICE unsigned pack_e4m3(float lo, float hi) { return e4m3_bits(lo) | e4m3_bits(hi) << 8; }
constexpr bool converts_to_e2m1 = false;
ARBITER_DEVICE unsigned pack_e2m1(const float (&)[8]) { return 0; }  // nobody asks
