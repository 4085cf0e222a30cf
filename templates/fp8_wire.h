// 8-bit transport: what a push carries when every value is sent as FP8 e4m3, with one scale for every group of 128
// consecutive elements of the message. A warp works together: its 32 vectors of 16-bit values become 16 vectors of
// codes and one of scales, those of fp32 values 8 and one. That is 17/32, or 9/32, of the bytes.
//
// The scale is the least power of two that brings the largest magnitude of the group to at most 448, so scaling and
// scaling back round nothing, and one byte carries it. A power of two costs no accuracy: e4m3 has the same relative
// error over 15 binades whatever the largest value is. A group with an infinity or a NaN has the exponent 255, and
// arrives as NaN in all of its elements.
//
// No word on the wire can look like "nothing has arrived". Codes are sanitised as every payload is: the one word of
// four codes that equals the sentinel is (+0, +0, +0, -0), and becomes four times +0, which is the same number. A word
// of scales is below 2^16. Each vector is polled word by word and re-armed by the thread that owns its slot, so a scale
// is one more vector of the same wait and no step of its own; nothing is used before the whole warp has what it needs.

constexpr unsigned fp8_group = 128;            // elements that share a scale
constexpr unsigned code_words = elements / 4;  // of a vector's codes
constexpr unsigned lanes_per_wire_vector = 4 / code_words;
constexpr unsigned group_lanes = fp8_group / elements;  // 16 or 32: groups lie in a warp
constexpr unsigned scale_lane = 1;                      // has no codes to send
constexpr unsigned not_finite = 255;

struct Codes {
  unsigned word[code_words];
  unsigned exponent;  // the scale is 2^(exponent - 127)
};

// From the largest magnitude of a group. 2^(k - 8) is enough up to 1.75 * 2^k. Never below 1, so that 1 / scale exists.
ARBITER_DEVICE unsigned wire_exponent(unsigned magnitude) {
  const unsigned up = (magnitude + 0x1fffffu) >> 23;
  return magnitude >= 0x7f800000u ? not_finite : (up > 9u ? up : 9u) - 8u;
}

// By all threads of a warp, and so is everything below that shuffles. `here`: whether the thread has a vector.
ARBITER_DEVICE Codes encode(const Vector& vector, bool here) {
  const Vector v = here ? vector : zero_vector();
  unsigned peak = peak_of(v);
  if (group_lanes == 32) {
    peak = warp_max(peak);
  } else {
    const bool upper = thread_index() % 32 >= 16;
    const unsigned of_lower = warp_max(upper ? 0u : peak), of_upper = warp_max(upper ? peak : 0u);
    peak = upper ? of_upper : of_lower;
  }
  Codes codes;
  codes.exponent = wire_exponent(peak);
  const Values x = scaled(unpack(v), bits_to_float((254u - codes.exponent) << 23));
#pragma unroll
  for (unsigned i = 0; i < code_words; ++i) {
    const unsigned word = pack_e4m3(x.at[4 * i], x.at[4 * i + 1]) | pack_e4m3(x.at[4 * i + 2], x.at[4 * i + 3]) << 16;
    codes.word[i] = word == sentinel_word ? 0u : word;
  }
  return codes;
}

// Exact in fp32, unless what it stands for is not: a magnitude that was rounded up to 2^128 becomes infinite.
ARBITER_DEVICE Values decode(const Codes& codes) {
  const float scale = bits_to_float(codes.exponent == not_finite ? 0x7fffffffu : codes.exponent << 23);
  Values x;
#pragma unroll
  for (unsigned i = 0; i < code_words; ++i) {
    unpack_e4m3(codes.word[i] & 0xffffu, x.at[4 * i], x.at[4 * i + 1]);
    unpack_e4m3(codes.word[i] >> 16, x.at[4 * i + 2], x.at[4 * i + 3]);
  }
  return scaled(x, scale);
}

// The vector that this thread sends, if it sends one: the codes of as many threads as fill it, or the scales.
ARBITER_DEVICE Vector wire_vector(const Codes& codes) {
  Vector v = zero_vector();
#pragma unroll
  for (unsigned j = 0; j < lanes_per_wire_vector; ++j) {
#pragma unroll
    for (unsigned i = 0; i < code_words; ++i)
      v.word[j * code_words + i] = j == 0 ? codes.word[i] : shuffle_xor(codes.word[i], j);
  }
  const unsigned exponents = group_lanes == 32 ? codes.exponent : codes.exponent | shuffle_xor(codes.exponent, 16) << 8;
  if (thread_index() % 32 == scale_lane) {
    v = Vector{};
    v.word[0] = exponents;
  }
  return v;
}

// The own part of what the threads of a warp have received.
ARBITER_DEVICE Codes received(const Vector& v) {
  const unsigned lane = thread_index() % 32;
  Codes codes;
#pragma unroll
  for (unsigned i = 0; i < code_words; ++i) codes.word[i] = v.word[i];
#pragma unroll
  for (unsigned j = 1; j < lanes_per_wire_vector; ++j) {
#pragma unroll
    for (unsigned i = 0; i < code_words; ++i) {
      const unsigned word = shuffle_xor(v.word[j * code_words + i], j);
      if (lane % lanes_per_wire_vector == j) codes.word[i] = word;
    }
  }
  const unsigned exponents = warp_max(lane == scale_lane ? v.word[0] : 0u);
  codes.exponent = lane < group_lanes ? exponents & 255u : exponents >> 8;
  return codes;
}

// Whether this thread has a vector on the wire, for its k-th column of a row.
ARBITER_DEVICE bool carries(const Arguments& arguments, unsigned row, unsigned k) {
  const unsigned lane = thread_index() % 32;
  if (lane == scale_lane) return in_message(arguments, row, column(k) - scale_lane);
  return lane % lanes_per_wire_vector == 0 && in_message(arguments, row, column(k));
}

// The sum in rank order of what every rank has sent, this one's as its peers get it: in fp32, rounded once.
template <unsigned kRank>
ARBITER_DEVICE Vector sum_of_codes(const Codes& own, const Vector (&of_rank)[config::world]) {
  Values total = zero();
#pragma unroll
  for (unsigned r = 0; r < config::world; ++r) total = plus(total, decode(r == kRank ? own : received(of_rank[r])));
  return pack(total);
}

// A push whose warps have the slots that they use side by side.
template <unsigned kRank, unsigned kLegs>
struct Fp8Push : Push<kRank, kLegs, false> {
  ARBITER_DEVICE Fp8Push(const Arguments& a, const Arguments& constants) : Push<kRank, kLegs, false>(a, constants) {
    const unsigned lane = thread_index() % 32;
    // The scales behind the codes; the other lanes use none.
    const unsigned slot = lane == scale_lane ? 32 / lanes_per_wire_vector : lane / lanes_per_wire_vector;
    this->first_place = in_register(this->first_place + slot * sizeof(Vector) - lane * sizeof(Vector));
  }

  // What every peer that is wanted has sent, for those threads that carry something.
  ARBITER_DEVICE void receive_codes(unsigned leg, unsigned k, const bool (&wanted)[config::world],
                                    Vector (&data)[config::world], Wait& wait) const {
    bool any = false;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      data[r] = zero_vector();
      any = any || (r != kRank && wanted[r]);
    }
    if (any) this->receive(leg, k, wanted, data, wait);
  }
};
