// What this rank contributes: the sum over its experts of weight * token, then the optional token of the dense part.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  const auto place = [&](unsigned expert) { return expert * arguments.rows + row; };  // of the input and of the weights
  return weighted_sum(arguments, row, col, place, place);
}
