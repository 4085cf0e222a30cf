// How a rank finds the tensors of its peers. A rank says with its first barrier where its contribution of this call
// lies, as the peer addresses it: the input itself, if peers can address that (zero copy), or a copy in its workspace.
// Every rank decides for itself and the others read what it said, so it does not matter whether they decide alike.

// What a rank says: two numbers. They hold for the launch whose first barrier follows (Barrier::meet).
template <unsigned kRank>
struct PlacesOf {
  enum : unsigned { input, output };

  // Before the first barrier. Every block says the same; only its own barrier makes it known to the peer's block.
  template <class Input, class Output>
  static ARBITER_DEVICE void publish(const Arguments& constants, const Input& input_for, const Output& output_for) {
    const unsigned peer = thread_index();
    if (peer >= config::world || peer == kRank) return;
    Control* theirs = control_of(constants, peer);
    store_relaxed(&theirs->place[input][kRank], input_for(peer));
    store_relaxed(&theirs->place[output][kRank], output_for(peer));
  }

  // Behind the first barrier. 0 for a peer that has not come in time, or whose message is of another length.
  static ARBITER_DEVICE unsigned long long find(const Arguments& constants, const Barrier<kRank>& barrier,
                                                unsigned what, unsigned r) {
    const Control* control = control_of(constants, kRank);
    const unsigned long long place = load_relaxed(&control->place[what][r]);
    return barrier.has_met(r) ? place : 0;
  }
};

template <unsigned kRank>
struct Pull {
  using Places = PlacesOf<kRank>;

  const Arguments& arguments;  // in registers
  const Arguments& constants;
  const bool staged;  // the contribution is a copy

  // `overwritten`: the kernel writes its input before all peers have read it. What a prologue makes lies nowhere yet.
  ARBITER_DEVICE Pull(const Arguments& a, const Arguments& constants_, bool overwritten)
      : arguments(a),
        constants(constants_),
        staged(config::prologue || constants_.input_at[kRank] == nullptr || overwritten) {}

  ARBITER_DEVICE unsigned char* own_copy() const { return arguments.workspace[kRank] + constants.staging_offset; }
  ARBITER_DEVICE unsigned char* results_of(unsigned r) const {
    return arguments.workspace[r] + constants.results_offset;
  }

  // The contribution, if it has to be copied.
  template <unsigned kRows>
  ARBITER_DEVICE void stage(unsigned iterations) const {
    if (staged) stage_tiles<kRows>(arguments, own_copy(), iterations);
  }

  ARBITER_DEVICE void publish() const {
    Places::publish(
        constants,
        [&](unsigned peer) {
          return address_bits(staged ? constants.workspace_at[peer] + constants.staging_offset
                                     : constants.input_at[peer]);
        },
        [&](unsigned peer) { return address_bits(constants.output_at[peer]); });
  }

  // The contributions of all ranks; the own one for a peer that has said nothing, because nobody needs the sum then.
  ARBITER_DEVICE void find_inputs(const Barrier<kRank>& barrier, const unsigned char* (&input)[config::world]) const {
    const unsigned char* mine = staged ? own_copy() : static_cast<const unsigned char*>(arguments.input);
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      const unsigned char* theirs = r == kRank ? mine : address_of(Places::find(constants, barrier, Places::input, r));
      input[r] = theirs == nullptr ? mine : theirs;
    }
  }

  // Where each rank wants a plain sum: in its output, if this rank can address that, or in its workspace.
  ARBITER_DEVICE void find_outputs(const Barrier<kRank>& barrier, unsigned char* (&output)[config::world]) const {
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      output[r] =
          r == kRank ? constants.output_at[kRank] : address_of(Places::find(constants, barrier, Places::output, r));
      if (output[r] == nullptr) output[r] = results_of(r);
    }
  }
};
