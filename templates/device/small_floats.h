// Roundings to FP8 e4m3 and FP4 e2m1 in plain arithmetic: the bits of the conversion instructions, for targets without
// them and for the CPU device. Both round to nearest even and saturate; NaN becomes 0x7f and 0x7 whatever its sign.
ARBITER_DEVICE unsigned e4m3_bits(float x) {
  const unsigned bits = float_to_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448 and above
  if (magnitude < 0x3c800000u) {  // below 2^-6: a multiple of 2^-9, rounded by adding and removing 2^14
    return sign | (float_to_bits(add(bits_to_float(magnitude), 16384.0f)) - 0x46800000u);
  }
  return sign | ((magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20);
}

// The e2m1 code of a magnitude of at most 6.9 in the lowest 3 bits; above them 20 zeros, then anything. Adding 2^22
// times the power of two at or below it (at least 1) leaves the rounded fraction there, and two for every power come
// with it.
ARBITER_DEVICE unsigned e2m1_code(float magnitude) {
  const unsigned bits = float_to_bits(magnitude), least = bits > 0x3f800000u ? bits : 0x3f800000u;
  return float_to_bits(add(magnitude, bits_to_float((least >> 23) * 0x800002u + ((22u << 23) - 254u))));
}

// Eight e2m1 of eight magnitudes. `signs`: bit 3 of every code. `ordinary`: all magnitudes are below 7.
ARBITER_DEVICE unsigned e2m1_codes(float (&magnitude)[8], unsigned signs, bool ordinary) {
  if (!ordinary) {
    for (unsigned e = 0; e < 8; ++e) {
      const unsigned bits = float_to_bits(magnitude[e]);
      if (bits > 0x7f800000u) signs &= ~(8u << (4 * e));
      magnitude[e] = bits_to_float(bits < 0x40c00000u ? bits : 0x40c00000u);  // 6
    }
  }
  unsigned half[2];
  for (unsigned h = 0; h < 2; ++h) {
    half[h] = e2m1_code(magnitude[4 * h]) + e2m1_code(magnitude[4 * h + 1]) * 16u +
              e2m1_code(magnitude[4 * h + 2]) * 256u + e2m1_code(magnitude[4 * h + 3]) * 4096u;
  }
  return bytes_of(half[0], half[1], 0x5410) | signs;
}

// A positive e4m3 as fp32: its bits, moved into place, are 2^120 times too small. 0x7f, which is NaN, gives 480.
ARBITER_DEVICE float e4m3_value(unsigned code) { return multiply(bits_to_float(code << 20), 0x1p120f); }

// x is positive, and neither quotient nor remainder of it and an e4m3 overflow or are subnormal.
ARBITER_DEVICE bool divides_plainly(float x) {
  return (float_to_bits(x) >> 23) - 27u < 200u;  // from 2^-100 to below 2^100
}
// The correctly rounded quotient of such an x: what a division does, without its special cases.
ARBITER_DEVICE float plain_quotient(float x, float divisor) {
  const float estimate = reciprocal_estimate(divisor);
  const float inverse = multiply_add(multiply_add(estimate, -divisor, 1.0f), estimate, estimate);
  const float quotient = multiply(x, inverse);
  return multiply_add(multiply_add(-divisor, quotient, x), inverse, quotient);
}

// The least power of two not below bits / 448, as the exponent of UE8M0, for the bits of a magnitude. It is 2^(k - 8)
// up to 1.75 * 2^k; no rounding of the quotient crosses that. 1e-10 and less give 2^-33, infinity and NaN 255.
ARBITER_DEVICE unsigned ue8m0_of_448th(unsigned magnitude) {
  const unsigned up = (magnitude + 0x1fffffu) >> 23;
  return magnitude >= 0x7f800000u ? 255u : (up > 102u ? up : 102u) - 8u;
}

// x / 448, correctly rounded where that is not subnormal: an estimate and one correction, without the special cases
// that a division has. x is not negative.
ARBITER_DEVICE float over_448(float x) {
  constexpr float inverse = 1.0f / 448.0f;
  const float estimate = multiply(x, inverse);
  const float quotient = multiply_add(multiply_add(-448.0f, estimate, x), inverse, estimate);
  return float_to_bits(x) >= 0x7f800000u ? x : quotient;  // infinite or NaN
}
