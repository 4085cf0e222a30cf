// Elements, vectors and their rounding.

{{#dtype_fp32}}
constexpr unsigned elements = 4;  // of a vector
{{/dtype_fp32}}
{{^dtype_fp32}}
constexpr unsigned elements = 8;  // of a vector
{{/dtype_fp32}}

// A vector as fp32 values.
struct Values {
  float at[elements];
};

ARBITER_DEVICE Values unpack(const Vector& v) {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
{{#dtype_fp32}}
    x.at[i] = bits_to_float(v.word[i]);
{{/dtype_fp32}}
{{^dtype_fp32}}
    x.at[2 * i] = {{dtype}}_lo(v.word[i]);
    x.at[2 * i + 1] = {{dtype}}_hi(v.word[i]);
{{/dtype_fp32}}
  }
  return x;
}

// Rounds to nearest even, once.
ARBITER_DEVICE Vector pack(const Values& x) {
  Vector v;
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
{{#dtype_fp32}}
    v.word[i] = float_to_bits(x.at[i]);
{{/dtype_fp32}}
{{^dtype_fp32}}
    v.word[i] = pack_{{dtype}}(x.at[2 * i], x.at[2 * i + 1]);
{{/dtype_fp32}}
  }
  return v;
}

ARBITER_DEVICE Values zero() {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < elements; ++i) x.at[i] = 0.0f;
  return x;
}

ARBITER_DEVICE Values plus(const Values& a, const Values& b) {
  Values x;
#pragma unroll
  for (unsigned i = 0; i < elements; ++i) x.at[i] = add(a.at[i], b.at[i]);
  return x;
}

ARBITER_DEVICE Vector zero_vector() { return Vector{ {0u, 0u, 0u, 0u} }; }

// The sentinel is compared and replaced as an integer, word by word: no payload may look like "nothing has arrived".
ARBITER_DEVICE Vector sanitised(Vector v) {
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) v.word[i] = v.word[i] == sentinel_word ? 0u : v.word[i];
  return v;
}
ARBITER_DEVICE bool arrived(const Vector& v) {
  return v.word[0] != sentinel_word && v.word[1] != sentinel_word && v.word[2] != sentinel_word &&
         v.word[3] != sentinel_word;
}
ARBITER_DEVICE Vector sentinel() { return Vector{ {sentinel_word, sentinel_word, sentinel_word, sentinel_word} }; }

// The sum as every algorithm returns it: fp32 in rank order starting from +0, rounded once, sanitised.
ARBITER_DEVICE Vector rounded_sum(const Values& sum) { return sanitised(pack(sum)); }
