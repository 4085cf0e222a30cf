// The push protocol: data is its own flag. A rank stores vectors into slots of a peer's rotating buffer; the owner of
// the slot polls its local copy until no word is the sentinel, takes the vector, and puts the sentinel back.
//
// Why three buffers are enough, and why nothing else is needed:
// - A slot is read and re-armed by one thread. The peer's next store to the same slot is three epochs later, and a rank
//   finishes an epoch only with data from every peer, so it is at most one epoch ahead.
// - Within a launch, a fence orders the re-arming of one epoch before the stores of the next; between launches, the
//   end of the kernel does.
// - The last rows of a message may leave threads without work in a launch's last epoch; such a thread may lag one more
//   epoch behind, which is what the third buffer is for.
// - All of it holds for any sequence of grids and algorithms, because the epoch is one number for all of them.

// The protocol state of a block: the epoch in the upper 30 bits, the buffer it uses (epoch mod 3) in the lower two, so
// that nothing has to be divided between reading it and the first store.
struct PushEpoch {
  unsigned word;
  ARBITER_DEVICE unsigned buffer() const { return word & 3u; }
  ARBITER_DEVICE PushEpoch next() const {
    return PushEpoch{(word & ~3u) + 4u + (buffer() + 1u == push_buffers ? 0u : buffer() + 1u)};
  }
  ARBITER_DEVICE PushEpoch after(unsigned epochs) const {
    return PushEpoch{(word & ~3u) + 4u * epochs + (buffer() + epochs) % push_buffers};
  }
};

template <unsigned kRank>
struct Push {
  const Arguments& arguments;
  unsigned slot_stride;             // bytes between two slots of one thread
  unsigned long long buffer_place;  // of this thread's slot 0 in the current buffer, from the start of the workspace
  unsigned long long first_place;   // the same in buffer 0
  PushEpoch epoch;

  // Everything that does not depend on the epoch is computed here, while the previous kernel still runs.
  ARBITER_DEVICE explicit Push(const Arguments& a) : arguments(a) {
    slot_stride = grid_blocks() * config::threads * static_cast<unsigned>(sizeof(Vector));
    first_place = a.push_offset + (block_index() * config::threads + thread_index()) * static_cast<unsigned>(sizeof(Vector));
  }

  ARBITER_DEVICE void select(PushEpoch e) {
    epoch = e;
    buffer_place = first_place + static_cast<unsigned long long>(e.buffer()) * arguments.push_stride;
  }
  ARBITER_DEVICE unsigned char* slot(unsigned rank, unsigned index) const {
    return arguments.workspace[rank] + buffer_place + static_cast<unsigned long long>(index) * slot_stride;
  }
  ARBITER_DEVICE void send(unsigned peer, unsigned index, const Vector& sanitised_vector) const {
    store_shared_vector(slot(peer, index), sanitised_vector);
  }
  // Ordered before the next epoch's stores by a fence or by the end of the kernel, hence an ordinary store.
  ARBITER_DEVICE void rearm(unsigned index) const { store_symmetric_local(slot(kRank, index), sentinel()); }

  // Fill data[r] from slot first + r * config::vectors + k for every peer r that is wanted; the own rank is left alone.
  // All slots are polled together, so that the wait is one round trip and not one per peer.
  ARBITER_DEVICE void receive(unsigned first, unsigned k, const bool (&wanted)[config::world],
                              Vector (&data)[config::world], Wait& wait, Phase phase) const {
    bool missing = false;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (r == kRank || !wanted[r]) continue;
      data[r] = load_polled(slot(kRank, first + r * config::vectors + k));
    }
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) missing |= r != kRank && wanted[r] && !arrived(data[r]);
    if (!missing || wait.given_up) return;
    wait.polls = 0;
    do {
      missing = false;
      unsigned waited_for = 0;
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (r == kRank || !wanted[r]) continue;
        if (!arrived(data[r])) data[r] = load_polled(slot(kRank, first + r * config::vectors + k));
      }
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (r == kRank || !wanted[r] || arrived(data[r])) continue;
        missing = true;
        waited_for = r;
      }
      if (missing && expired<kRank>(arguments, wait, waited_for, phase, epoch.word >> 2)) return;
    } while (missing);
  }
};
