// The same name as device/unpack_e4m3.cuh.
ARBITER_DEVICE void unpack_e4m3(unsigned pair, float& lo, float& hi) {
  lo = e4m3_signed(pair & 0xffu);
  hi = e4m3_signed(pair >> 8);
}
