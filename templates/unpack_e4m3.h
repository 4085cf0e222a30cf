// An e4m3 as fp32: its bits, moved into place, are 2^120 times too small. NaN gives 480, and nobody asks for it.
ARBITER_DEVICE float e4m3_signed(unsigned code) {
  return multiply(bits_to_float((code & 0x80u) << 24 | (code & 0x7fu) << 20), 0x1p120f);
}
