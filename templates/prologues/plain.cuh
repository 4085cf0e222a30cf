// What this rank contributes to the sum: its input.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  return load(vector_at(arguments.input, row, col));
}
