// What follows the sum, stage by stage: residual, norm, quantisation. A row goes from one to the next as vectors that
// are rounded as if they had been written and read back, so the result is that of the separate operations.
template <unsigned kRows>
struct Epilogue {
  // Reductions over a row in one iteration, in order of execution: they share two buffers in turn.
  static constexpr unsigned reductions = Norm::reductions + Quantisation::reductions;

  Vector x[kRows][config::vectors];
  Norm norm;
  Quantisation quantisation;

  // First thing in the kernel.
  ARBITER_DEVICE void begin() {
    if (reductions != 0) row_reductions_begin();
  }

  // Once per launch, after the inputs may be read.
  ARBITER_DEVICE void prepare(const Arguments& arguments) {
    norm.prepare(arguments);
    quantisation.prepare(arguments);
  }

  // Once per iteration, before the wait for the peers.
  ARBITER_DEVICE void prefetch(const Arguments& arguments, const unsigned (&row)[kRows]) {
    prefetch_residual(arguments, row, x);
  }

  ARBITER_DEVICE void apply(const Arguments& arguments, const unsigned (&row)[kRows],
                            const Vector (&sum)[kRows][config::vectors], unsigned iteration) {
    add_residual(arguments, row, sum, x);
    norm.apply(arguments, row, x, iteration * reductions);
    quantisation.apply(arguments, row, x, iteration * reductions + Norm::reductions);
  }
};
