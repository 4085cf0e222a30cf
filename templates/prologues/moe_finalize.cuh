// What this rank contributes: the sum over the top k permuted rows of a token of weight * row, then the optional shared
// expert. A map entry that names no row (-1) is skipped.
ARBITER_DEVICE Vector contribution(const Arguments& arguments, unsigned row, unsigned col) {
  const auto place = [&](unsigned j) { return row * arguments.moe_count + j; };
  const auto source = [&](unsigned j) {
    const unsigned index = load_word(reinterpret_cast<const unsigned*>(arguments.moe_row_map) + place(j));
    return index < arguments.moe_rows ? index : no_row;
  };
  return weighted_sum(arguments, row, col, source, place);
}
