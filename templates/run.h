// The beginning of every kernel. An algorithm is a struct that says what comes then:
//   rows           of a tile that what follows the sum takes at once;
//   single_path    whether a launch of one iteration is worth code of its own;
//   Algorithm(arguments, constants)   what can be computed while the previous kernel still runs: it touches no memory;
//   run(epilogue, iterations)         the rest, when inputs may be read and outputs written.
// `arguments` are those in registers; `constants` are the kernel's parameter, for what is used late or never.
template <unsigned kRank, bool kSingle>
ARBITER_DEVICE void exchange(const Arguments& arguments, const Arguments& constants) {
  Algorithm<kRank> algorithm(arguments, constants);
  Epilogue<Algorithm<kRank>::rows> epilogue;
  epilogue.begin();
  grid_dependency_wait();
  if (config::early_trigger != 0) grid_dependency_trigger();
  algorithm.run(epilogue, kSingle ? 1 : arguments.iterations);
}

template <unsigned kRank>
ARBITER_DEVICE void run(const Arguments& constants) {
  const Arguments arguments = in_registers(constants);
  if (config::single_path && Algorithm<kRank>::single_path && arguments.iterations == 1) {
    exchange<kRank, true>(arguments, constants);
  } else {
    exchange<kRank, false>(arguments, constants);
  }
}
