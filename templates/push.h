// The push protocol: data is its own flag. A rank stores vectors into slots of a peer's rotating buffer; the owner of
// the slot polls its local copy until no word is the sentinel, takes the vector, and puts the sentinel back.
//
// An epoch is what goes through one rotating buffer: up to `push_iterations` iterations of a launch side by side. Why
// three buffers are enough, and why nothing else is needed:
// - A slot is read and re-armed by one thread. The peer's next store to the same slot is three epochs later, and a rank
//   finishes an epoch only with data from every peer, so it is at most one epoch ahead.
// - Within a launch, a fence orders the re-arming of one epoch before the stores of the next (it waits for the links
//   and is expensive, so there is one an epoch, not one an iteration); between launches, the end of the kernel does.
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

// Slots of an iteration: every leg has one per peer (not for the own rank) and vector of a thread.
template <unsigned kRank, unsigned kLegs>
struct Push {
  static constexpr unsigned leg_slots = (config::world - 1) * config::vectors;

  const Arguments& arguments;       // in registers
  const Arguments& constants;       // the kernel's parameter, for the slow path
  unsigned slot_stride;             // bytes between two slots of one thread
  unsigned buffer_stride;
  unsigned iterations_per_epoch;
  unsigned long long first_place;   // of this thread's slot 0 in buffer 0, from the start of the workspace
  unsigned long long place;         // the same for the current iteration
  PushEpoch epoch;
  unsigned in_epoch = 0;            // iterations of this epoch behind us

  // Everything that does not depend on the epoch is computed here, while the previous kernel still runs.
  ARBITER_DEVICE Push(const Arguments& a, const Arguments& constants_) : arguments(a), constants(constants_) {
    slot_stride = pinned(grid_blocks() * config::threads * static_cast<unsigned>(sizeof(Vector)));
    buffer_stride = pinned(a.push_stride);
    iterations_per_epoch = pinned(a.push_iterations);
    first_place = pinned(a.push_offset + (block_index() * config::threads + thread_index()) *
                                             static_cast<unsigned>(sizeof(Vector)));
  }

  ARBITER_DEVICE void begin(PushEpoch first) {
    epoch = first;
    place = first_place + static_cast<unsigned long long>(first.buffer()) * buffer_stride;
  }
  // The epoch that the next launch begins with.
  ARBITER_DEVICE PushEpoch behind(PushEpoch first) const {
    return first.after(constants.push_epochs);
  }
  // The next iteration's slots. With a new epoch comes the fence.
  ARBITER_DEVICE void advance() {
    if (++in_epoch == iterations_per_epoch) {
      in_epoch = 0;
      fence_system();
      begin(epoch.next());
    } else {
      place += static_cast<unsigned long long>(slot_stride) * (kLegs * leg_slots);
    }
  }

  ARBITER_DEVICE void step_to(const Push& next) {
    place = next.place;
    epoch = next.epoch;
    in_epoch = next.in_epoch;
  }

  ARBITER_DEVICE unsigned long long slot(unsigned leg, unsigned receiver, unsigned sender, unsigned k) const {
    const unsigned index = leg * leg_slots + (sender < receiver ? sender : sender - 1) * config::vectors + k;
    return place + static_cast<unsigned long long>(index) * slot_stride;
  }
  ARBITER_DEVICE void send(unsigned leg, unsigned peer, unsigned k, const Vector& sanitised_vector) const {
    store_shared_vector(arguments.workspace[peer] + slot(leg, peer, kRank, k), sanitised_vector);
  }
  ARBITER_DEVICE Vector poll(unsigned leg, unsigned peer, unsigned k) const {
    return load_polled(arguments.workspace[kRank] + slot(leg, kRank, peer, k));
  }

  // Fill data[r] with what peer r has sent, for every peer that is wanted, and re-arm those slots; the own rank is left
  // alone. All slots are polled together, so that the wait is one round trip and not one per peer.
  ARBITER_DEVICE void receive(unsigned leg, unsigned k, const bool (&wanted)[config::world],
                              Vector (&data)[config::world], Wait& wait) const {
    unsigned waited_for = 0;
    bool missing;
    wait.polls = 0;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (r != kRank && wanted[r]) data[r] = sentinel();
    }
    do {
      missing = false;
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (r != kRank && wanted[r] && !arrived(data[r])) data[r] = poll(leg, r, k);
      }
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (r == kRank || !wanted[r] || arrived(data[r])) continue;
        missing = true;
        waited_for = r;
      }
    } while (missing && !wait.given_up &&
             !expired<kRank>(constants, wait, waited_for, leg == 0 ? phase_push : phase_broadcast, epoch.word >> 2));
    // Ordered before a peer's next store to the same slots by the fence or the end of the kernel: an ordinary store.
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (r != kRank && wanted[r]) store_symmetric_local(arguments.workspace[kRank] + slot(leg, kRank, r, k), sentinel());
    }
  }
};
