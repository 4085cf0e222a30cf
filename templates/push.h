// The push protocol: data is its own flag. A rank stores vectors into slots of a peer's rotating buffer; the owner of
// the slot polls its local copy until no word is the sentinel, takes the vector, and puts the sentinel back.
//
// An epoch is what goes through one rotating buffer: the iterations of a launch, up to `push_iterations` side by side.
// Nothing else is needed, because a slot is read and re-armed by one thread, and is stored to again only when the peer
// knows that this has happened:
// - Within a launch, a fence at the first store of an epoch orders everything re-armed so far before it. It waits for
// the
//   links and is expensive, so there is one an epoch and not one an iteration. Between launches the end of the kernel
//   does the same.
// - A rank sends iteration i + 1 before it takes iteration i, so it may be two iterations ahead of a peer. An epoch of
// a
//   launch with several of them holds at least two iterations: a rank that enters the next one knows of its peers'
//   entry into this launch.
// - What a peer may still hold dirty when a launch begins are the last epochs of its launch before: the one in which it
//   waits; the one before, where its re-arming is not yet ordered; and, because the last rows of a message leave some
//   threads without work, one more. Hence four buffers. (With three of
//   one iteration each, the link model of the CPU device finds a seed that corrupts.)
// - All of it holds for any sequence of grids and algorithms, because the epoch is one number for all of them.

// Slots of an iteration: every leg has one per peer (not for the own rank) and vector of a thread.
//
// With kMulticast the last leg is stored once and the switch delivers it to all, to the sender too. So its slots are at
// the same place at every receiver, one per sender, and the sender waits for its own vector like everybody else: until
// it is there it may still arrive, and undo the re-arming.
template <unsigned kRank, unsigned kLegs, bool kMulticast>
struct Push {
  static constexpr unsigned leg_slots = (config::world - 1) * config::vectors;
  static constexpr unsigned iteration_slots = kLegs * leg_slots + (kMulticast ? config::vectors : 0);

  const Arguments& arguments;  // in registers
  const Arguments& constants;  // the kernel's parameter, for the slow path
  unsigned* epochs;            // one per block: what the next launch begins with
  unsigned slot_stride;        // bytes between two slots of one thread
  unsigned buffer_stride;
  unsigned iterations_per_epoch;
  unsigned long long first_place;  // of this thread's slot 0 in buffer 0, from the start of the workspace
  unsigned long long place;        // the same for the current iteration
  unsigned char* multicast;        // all workspaces; only with kMulticast
  unsigned epoch;
  unsigned in_epoch = 0;  // iterations of this epoch behind us

  // Everything that does not depend on the epoch is computed here, while the previous kernel still runs.
  ARBITER_DEVICE Push(const Arguments& a, const Arguments& constants_) : arguments(a), constants(constants_) {
    epochs = in_register(epochs_of(a, kRank));
    slot_stride = in_register(grid_blocks() * config::threads * static_cast<unsigned>(sizeof(Vector)));
    buffer_stride = in_register(a.push_stride);
    iterations_per_epoch = in_register(a.push_iterations);
    first_place = in_register(a.push_offset + (block_index() * config::threads + thread_index()) *
                                                  static_cast<unsigned>(sizeof(Vector)));
    if (kMulticast) multicast = in_register(a.multicast);
  }

  // The epoch that this launch begins with.
  ARBITER_DEVICE unsigned first_epoch() const { return load_word(&epochs[block_index()]); }
  ARBITER_DEVICE void begin(unsigned first) {
    epoch = first;
    place = first_place + static_cast<unsigned long long>(first % push_buffers) * buffer_stride;
  }
  // Once a launch, when all threads of the block have read the epoch: what the next launch begins with.
  ARBITER_DEVICE void end(unsigned first) const {
    count_call(control_of(arguments, kRank));
    advance_epochs(epochs, first + constants.push_epochs);
  }
  // The next iteration's slots. With a new epoch comes the fence.
  ARBITER_DEVICE void advance() {
    if (++in_epoch == iterations_per_epoch) {
      in_epoch = 0;
      fence_system();
      begin(epoch + 1);
    } else {
      place += static_cast<unsigned long long>(slot_stride) * iteration_slots;
    }
  }

  ARBITER_DEVICE void step_to(const Push& next) {
    place = next.place;
    epoch = next.epoch;
    in_epoch = next.in_epoch;
  }

  static constexpr bool by_multicast(unsigned leg) { return kMulticast && leg == kLegs - 1; }
  static constexpr bool comes_by_link(unsigned leg, unsigned sender) { return sender != kRank || by_multicast(leg); }

  ARBITER_DEVICE unsigned long long slot(unsigned leg, unsigned receiver, unsigned sender, unsigned k) const {
    const unsigned column = by_multicast(leg) || sender < receiver ? sender : sender - 1;
    const unsigned index = leg * leg_slots + column * config::vectors + k;
    return place + static_cast<unsigned long long>(index) * slot_stride;
  }
  ARBITER_DEVICE void send(unsigned leg, unsigned peer, unsigned k, const Vector& sanitised_vector) const {
    store_shared_vector(arguments.workspace[peer] + slot(leg, peer, kRank, k), sanitised_vector);
  }
  // To every peer.
  ARBITER_DEVICE void broadcast(unsigned k, const Vector& sanitised_vector) const {
    constexpr unsigned leg = kLegs - 1;
    if (kMulticast) {
      store_multicast(multicast + slot(leg, kRank, kRank, k), sanitised_vector);
      return;
    }
#pragma unroll
    for (unsigned distance = 1; distance < config::world; ++distance) {
      send(leg, (kRank + distance) % config::world, k, sanitised_vector);
    }
  }
  ARBITER_DEVICE Vector poll(unsigned leg, unsigned peer, unsigned k) const {
    return load_polled(arguments.workspace[kRank] + slot(leg, kRank, peer, k));
  }

  // Fill data[r] with what peer r has sent, for every peer that is wanted, and re-arm those slots; the own rank is left
  // alone unless its vector comes by multicast. All slots are polled together, so that the wait is one round trip and
  // not one per peer.
  ARBITER_DEVICE void receive(unsigned leg, unsigned k, const bool (&wanted)[config::world],
                              Vector (&data)[config::world], Wait& wait) const {
    unsigned waited_for = 0;
    bool missing;
    wait.polls = 0;
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (comes_by_link(leg, r) && wanted[r]) data[r] = sentinel();
    }
    do {
      missing = false;
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (comes_by_link(leg, r) && wanted[r] && !arrived(data[r])) data[r] = poll(leg, r, k);
      }
#pragma unroll
      for (unsigned r = 0; r < config::world; ++r) {
        if (!comes_by_link(leg, r) || !wanted[r] || arrived(data[r])) continue;
        missing = true;
        waited_for = r;
      }
    } while (missing && !wait.given_up &&
             !expired<kRank>(constants, wait, waited_for, leg == 0 ? phase_push : phase_broadcast, epoch));
    // Ordered before a peer's next store to the same slots by the fence or the end of the kernel: an ordinary store.
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) {
      if (!comes_by_link(leg, r) || !wanted[r]) continue;
      store_symmetric_local(arguments.workspace[kRank] + slot(leg, kRank, r, k), sentinel());
    }
  }
  // The same from every peer.
  ARBITER_DEVICE void receive_all(unsigned leg, unsigned k, Vector (&data)[config::world], Wait& wait) const {
    bool wanted[config::world];
#pragma unroll
    for (unsigned r = 0; r < config::world; ++r) wanted[r] = true;
    receive(leg, k, wanted, data, wait);
  }
};

// The loop of the push algorithms. The next tile leaves before this one is waited for, so that the links never rest.
// They differ in what they send where:
//   legs                                    their Push;
//   send(to, iteration, tile)               the first leg; this rank contributes tile[k][r] to the r-th row;
//   forwards, forward(to, iteration, ...)   whether something must leave before the next tile does, and what;
//   collect(from, row, tile, sum, wait)     the sums of all rows of the tile.
template <class Algorithm>
ARBITER_DEVICE void push_tiles(Algorithm& algorithm, Epilogue<Algorithm::rows>& epilogue, unsigned iterations) {
  constexpr unsigned rows = Algorithm::rows, vectors = config::vectors;
  auto& legs = algorithm.legs;
  const Arguments& arguments = legs.arguments;
  Wait wait;
  const unsigned first = legs.first_epoch();
  Vector mine[vectors][rows];
  read_tile(arguments, 0, mine);
  legs.begin(first);
  algorithm.send(legs, 0, mine);
  epilogue.prepare(arguments);
  block_barrier();  // every thread of the block has read the epoch
  legs.end(first);

  for (unsigned iteration = 0; iteration < iterations; ++iteration) {
    const bool more = iteration + 1 < iterations;
    Vector following[vectors][rows], sum[rows][vectors];
    if constexpr (Algorithm::forwards) {
      if (more) read_tile(arguments, iteration + 1, following);
      algorithm.forward(legs, iteration, mine, sum, wait);
    }
    auto next = legs;
    if (more) {
      if constexpr (!Algorithm::forwards) read_tile(arguments, iteration + 1, following);
      next.advance();
      algorithm.send(next, iteration + 1, following);
    }
    unsigned row[rows];
    tile_rows(iteration, row);
    epilogue.prefetch(arguments, row);
    algorithm.collect(legs, row, mine, sum, wait);
    epilogue.apply(arguments, row, sum, iteration);

    legs.step_to(next);
#pragma unroll
    for (unsigned k = 0; k < vectors; ++k) {
#pragma unroll
      for (unsigned r = 0; r < rows; ++r) mine[k][r] = following[k][r];
    }
  }
}
