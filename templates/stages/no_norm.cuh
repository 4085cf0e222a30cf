// No norm.
struct Norm {
  static constexpr unsigned reductions = 0;
  ARBITER_DEVICE void prepare(const Arguments&) {}
  template <unsigned kRows>
  ARBITER_DEVICE void apply(const Arguments&, const unsigned (&)[kRows], Vector (&)[kRows][config::vectors], unsigned) {
  }
};
