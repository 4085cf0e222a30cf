// What the host hands to the kernel that compares, by value. As with args.h, the same text is compiled on both sides.

namespace arbiter_abi {

// Ranges of one launch: what fits into the 4 KiB of arguments that every GPU takes.
constexpr unsigned max_compared_ranges = 127;

struct ComparedRange {
  const unsigned char* found;
  const unsigned char* expected;
  unsigned long long bytes;   // of found
  unsigned long long period;  // of expected, which found repeats; may be longer than found, and is not 0
};

struct Comparison {
  unsigned long long* equal;  // [ranges]: how many bytes of each are as expected is added to it
  unsigned ranges;
  unsigned threads;  // per block
  ComparedRange range[max_compared_ranges];
};

}  // namespace arbiter_abi
