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

template <unsigned kRank>
struct Push {
  const Arguments& arguments;
  unsigned long long slot_stride;  // bytes between two slots of one thread
  unsigned long long place;        // of this thread's slot 0, from the start of the workspace

  ARBITER_DEVICE explicit Push(const Arguments& a) : arguments(a) {
    slot_stride = static_cast<unsigned long long>(grid_blocks()) * config::threads * sizeof(Vector);
  }

  ARBITER_DEVICE void select(unsigned epoch) {
    place = arguments.push_offset + (epoch % push_buffers) * arguments.push_stride +
            (static_cast<unsigned long long>(block_index()) * config::threads + thread_index()) * sizeof(Vector);
  }
  ARBITER_DEVICE unsigned char* slot(unsigned rank, unsigned index) const {
    return arguments.workspace[rank] + place + index * slot_stride;
  }
  ARBITER_DEVICE void send(unsigned peer, unsigned index, const Vector& sanitised_vector) const {
    store_shared_vector(slot(peer, index), sanitised_vector);
  }
  ARBITER_DEVICE void rearm(unsigned index) const { store_shared_vector(slot(kRank, index), sentinel()); }

  // Fill data[i] from slot first + i * config::vectors + k for every peer rank i that is wanted; the own rank is left
  // alone. All slots are polled together, so that the wait is one round trip and not one per peer.
  ARBITER_DEVICE void receive(unsigned first, unsigned k, const bool (&wanted)[config::world],
                              Vector (&data)[config::world], Watchdog<kRank>& watchdog, Phase phase) const {
    bool missing = false;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (r == kRank || !wanted[r]) continue;
      data[r] = load_polled(slot(kRank, first + r * config::vectors + k));
    }
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) missing |= r != kRank && wanted[r] && !arrived(data[r]);
    if (!missing || watchdog.given_up) return;
    watchdog.begin_wait();
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
      if (missing && watchdog.expired(waited_for, phase)) return;
    } while (missing);
  }
};
