// Roundings to FP8 e4m3 and FP4 e2m1 in plain arithmetic: the bits of the conversion instructions, for targets without
// them and for the CPU device. Both round to nearest even and saturate; NaN becomes 0x7f and 0x7 whatever its sign.
ARBITER_DEVICE unsigned e4m3_bits(float x) {
  const unsigned bits = float_to_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448 and above
  if (magnitude < 0x3c800000u) {                      // below 2^-6: a multiple of 2^-9, rounded by adding and removing 2^14
    return sign | (float_to_bits(add(bits_to_float(magnitude), 16384.0f)) - 0x46800000u);
  }
  return sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

// Adding 2^22 times the power of two at or below x (at least 1) leaves the rounded fraction in the lowest bits of the sum.
ARBITER_DEVICE unsigned e2m1_bits(float x) {
  const unsigned bits = float_to_bits(x), magnitude = bits & 0x7fffffffu;
  const unsigned sign = magnitude > 0x7f800000u ? 0u : bits >> 28 & 8u;
  const unsigned clamped = magnitude < 0x40c00000u ? magnitude : 0x40c00000u;  // 6
  const unsigned power = clamped & 0x7f800000u, scale = power > 0x3f800000u ? power : 0x3f800000u;
  const unsigned sum = float_to_bits(add(bits_to_float(clamped), bits_to_float(scale + (22u << 23))));
  return sign | ((sum + (scale >> 22) + 2u) & 7u);
}

// An e4m3 as fp32: its bits, moved into place, are 2^120 times too small.
ARBITER_DEVICE float e4m3_value(unsigned bits) {
  const unsigned sign = (bits & 0x80u) << 24, magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return bits_to_float(0x7fffffffu);
  return bits_to_float(sign | float_to_bits(multiply(bits_to_float(magnitude << 20), 0x1p120f)));
}

// x / 448, correctly rounded where that is not subnormal: an estimate and one correction, without the special cases that a
// division has. x is not negative.
ARBITER_DEVICE float over_448(float x) {
  constexpr float inverse = 1.0f / 448.0f;
  const float estimate = multiply(x, inverse);
  const float quotient = multiply_add(multiply_add(-448.0f, estimate, x), inverse, estimate);
  return float_to_bits(x) >= 0x7f800000u ? x : quotient;  // infinite or NaN
}
