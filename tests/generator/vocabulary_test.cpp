#include "arbiter/vocabulary.hpp"

#include <array>

#include "arbiter/error.hpp"
#include "expect_error.hpp"

namespace arbiter {
namespace {

using test::expect_error;

TEST(Vocabulary, SpellingsRoundTrip) {
  for (const Dtype value : {Dtype::bf16, Dtype::fp16, Dtype::fp32}) EXPECT_EQ(parse_dtype(to_string(value)), value);
  for (const Mode value : {Mode::graph, Mode::eager}) EXPECT_EQ(parse_mode(to_string(value)), value);
  for (const Backend value :
       {Backend::automatic, Backend::trtllm, Backend::mnnvl, Backend::custom, Backend::nvls, Backend::nccl})
    EXPECT_EQ(parse_backend(to_string(value)), value);
  for (const Numerics value : {Numerics::rank_order_fp32, Numerics::multimem, Numerics::nccl, Numerics::fp8_transport})
    EXPECT_EQ(parse_numerics(to_string(value)), value);
  EXPECT_EQ(to_string(Backend::automatic), "auto");
}

TEST(Vocabulary, RefusesOtherSpellings) {
  expect_error<InvalidArgument>([] { parse_dtype("bf61"); },
                                {"unknown dtype 'bf61'", "bf16, fp16, fp32", "did you mean 'bf16'?"});
  expect_error<InvalidArgument>([] { parse_backend("automatic"); }, {"'automatic'", "did you mean 'auto'?"});
  for (const char* word : {"", "BF16", " bf16", "bf16 "}) EXPECT_THROW(parse_dtype(word), InvalidArgument) << word;
  EXPECT_THROW(parse_mode("auto"), InvalidArgument);
  EXPECT_THROW(parse_numerics("fp32"), InvalidArgument);
}

TEST(Vocabulary, OutOfRangeValuesPrint) { EXPECT_EQ(to_string(static_cast<Dtype>(77)), "invalid"); }

TEST(Vocabulary, NearestIsTheSmallestEditDistance) {
  constexpr std::array<std::string_view, 3> valid{"oneshot_push", "twoshot_push", "twoshot_barrier"};
  EXPECT_EQ(nearest("twoshotpush", valid), "twoshot_push");
  EXPECT_EQ(nearest("onshot_psh", valid), "oneshot_push");
  EXPECT_EQ(nearest("barrier", valid), "twoshot_barrier");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Vocabulary, MessagesStayReadable) {
  EXPECT_EQ(unknown_name_message("thing", "x", {}), "unknown thing 'x'; valid: none");
  const std::string message =
      unknown_name_message("thing", std::string(100000, 'x'), std::array<std::string_view, 1>{"a"});
  EXPECT_LT(message.size(), 200u);
  // Nothing in common: no suggestion.
  EXPECT_EQ(unknown_name_message("thing", "x", std::array<std::string_view, 1>{"a"}), "unknown thing 'x'; valid: a");
}

TEST(Vocabulary, Sizes) {
  EXPECT_EQ(element_bytes(Dtype::bf16), 2u);
  EXPECT_EQ(vector_elements(Dtype::fp16), 8u);
  EXPECT_EQ(vector_elements(Dtype::fp32), 4u);
}

}  // namespace
}  // namespace arbiter
