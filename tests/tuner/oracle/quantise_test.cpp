// The oracle of the quantising kernels, against values worked out by hand and against the definition of each layout.
#include "oracle/quantise.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "oracle/composition.hpp"
#include "oracle/quantised_formats.hpp"

namespace arbiter::tuning {
namespace {

Bytes rows_of(const std::vector<float>& values, Dtype dtype = Dtype::fp32) {
  Bytes rows(values.size() * element_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) formats::write(rows.data(), i, dtype, values[i]);
  return rows;
}

Quantisation parsed(std::string_view name, int hidden) {
  const std::optional<Quantisation> how = parse_quantisation(name, hidden);
  EXPECT_TRUE(how) << name;
  return how.value_or(Quantisation{});
}

float float_at(const Bytes& bytes, std::size_t index) {
  float value = 0;
  std::memcpy(&value, bytes.data() + index * 4, 4);
  return value;
}

TEST(Quantise, ReadsEveryNameOfTheContractAndNoOther) {
  EXPECT_EQ(parsed("fp8_group24_fp32", 48).group, 24);
  EXPECT_EQ(parsed("fp8_token", 48).group, 48);
  for (const char* name : {"", "fp8", "fp8_group", "fp8_group0_fp32", "fp8_group-8_fp32", "fp8_group8", "nvfp4",
                           "fp8_group8_ue8m0x", "fp8_group99999999999_fp32"}) {
    EXPECT_FALSE(parse_quantisation(name, 48)) << name;
  }
}

TEST(Quantise, StaticMultipliesByTheInverseOfTheScale) {
  const Quantisation how = parsed("fp8_static", 4);
  const QuantisedRows result = quantise(rows_of({1, -3, 1000, NAN}), Dtype::fp32, 4, how, 2.0F);
  EXPECT_EQ(result.values, (Bytes{formats::to_e4m3(0.5F), formats::to_e4m3(-1.5F), 0x7e, 0x7f}));
  EXPECT_TRUE(result.scales.empty());
  // 1 / 7 is rounded first, and upwards: the product is above the tie that the quotient would be.
  EXPECT_EQ(quantise(rows_of({10.9375F, 0, 0, 0}), Dtype::fp32, 4, how, 7.0F).values[0], formats::to_e4m3(1.625F));
}

TEST(Quantise, TokenScalesHaveAFloorThatNanIgnores) {
  const Quantisation how = parsed("fp8_token", 2);
  const QuantisedRows result = quantise(rows_of({896, -448, 0, 0, NAN, 1, -HUGE_VALF, 1}), Dtype::fp32, 2, how, 0.0F);
  EXPECT_EQ(float_at(result.scales, 0), 2.0F);
  EXPECT_EQ(float_at(result.scales, 1), 0x1p-9F / 448.0F);
  EXPECT_TRUE(std::isnan(float_at(result.scales, 2)));
  EXPECT_EQ(float_at(result.scales, 3), HUGE_VALF);
  EXPECT_EQ(result.values[0], 0x7e);
  EXPECT_EQ(result.values[1], formats::to_e4m3(-224.0F));
  EXPECT_EQ(result.values[2], 0);
  EXPECT_EQ(result.values[4], 0x7f);
  EXPECT_EQ(result.values[5], 0x7f) << "a row with a NaN is NaN";
  EXPECT_EQ(result.values[6], 0x7f) << "infinity times 1 / infinity";
  EXPECT_EQ(result.values[7], 0);
}

TEST(Quantise, Ue8m0ScalesArePowersOfTwoAndPackedByColumn) {
  const int hidden = 10;  // 5 groups: two words, three pads
  const Quantisation how = parsed("fp8_group2_ue8m0", hidden);
  std::vector<float> values;
  for (int i = 0; i < 30; ++i) values.push_back(i % 2 == 0 ? std::ldexp(448.0F, i / 2) : 0.0F);
  values[29] = 449.0F * 0x1p14F;  // just above: the next power
  const QuantisedRows tile = quantise(rows_of(values), Dtype::fp32, hidden, how, 0.0F);
  for (std::size_t i = 0; i < 14; ++i) EXPECT_EQ(tile.scales[i], 127 + i);
  EXPECT_EQ(tile.scales[14], 127 + 15);
  EXPECT_EQ(tile.values[0], 0x7e);
  EXPECT_EQ(tile.values[28], formats::to_e4m3(224.0F));

  const Bytes array = arrange_scales(tile, how, hidden, 3);
  ASSERT_EQ(array.size(), 2U * 4 * 4);  // 2 words across, 3 tokens padded to 4
  for (std::size_t row = 0; row < 4; ++row) {
    for (std::size_t group = 0; group < 8; ++group) {
      const unsigned expected = row < 3 && group < 5 ? static_cast<unsigned>(tile.scales[row * 5 + group]) : 0U;
      EXPECT_EQ(array[(group / 4 * 4 + row) * 4 + group % 4], expected) << row << " " << group;
    }
  }
  EXPECT_EQ(quantise(rows_of({0, 0, 0, 0}), Dtype::fp32, 2, how, 0.0F).scales[0], formats::to_ue8m0(1e-10F));
}

TEST(Quantise, GroupsWithFp32ScalesAreRowMajor) {
  const Quantisation how = parsed("fp8_group3_fp32", 6);
  const QuantisedRows tile =
      quantise(rows_of({448, 0, 0, 0, 0, -44.8F, 0, 0, 0, 1e-20F, 0, 0}), Dtype::fp32, 6, how, 0.0F);
  const Bytes array = arrange_scales(tile, how, 6, 2);
  EXPECT_EQ(array, tile.scales);
  EXPECT_EQ(float_at(array, 0), 1.0F);
  EXPECT_EQ(float_at(array, 1), 44.8F / 448.0F);
  EXPECT_EQ(float_at(array, 2), 1e-10F);
  EXPECT_EQ(float_at(array, 3), 1e-10F);
}

TEST(Quantise, Nvfp4PacksTheEvenElementLowAndRoundsItsScaleToE4m3) {
  const Quantisation how = parsed("nvfp4_linear", 32);
  std::vector<float> values(32, 0.0F);
  values[0] = 6;
  values[1] = -0.5F;
  values[2] = 2.5F;  // a tie between 2 and 3: the even code is 2
  values[15] = -6;
  values[16] = NAN;
  const QuantisedRows result = quantise(rows_of(values, Dtype::bf16), Dtype::bf16, 32, how, 1.0F);
  EXPECT_EQ(result.scales, (Bytes{0x38, 0x7f}));
  EXPECT_EQ(result.values[0], 0x97);
  EXPECT_EQ(result.values[1], 0x04);
  EXPECT_EQ(result.values[7], 0xf0);
  EXPECT_EQ(result.values[8], 0x77) << "NaN becomes +6, and so does all of its group";
  EXPECT_EQ(result.values[15], 0x77);
  // A group that is too small for its scale is zero, with the signs of its elements.
  const QuantisedRows small = quantise(rows_of(std::vector<float>(16, -1e-6F)), Dtype::fp32, 16, how, 1.0F);
  EXPECT_EQ(small.scales[0], 0);
  EXPECT_EQ(small.values, Bytes(8, 0x88));
  // The global scale multiplies the stored scale, and is taken out again.
  const QuantisedRows scaled = quantise(rows_of(std::vector<float>(16, 6.0F)), Dtype::fp32, 16, how, 32.0F);
  EXPECT_EQ(scaled.scales[0], formats::to_e4m3(32.0F));
  EXPECT_EQ(scaled.values, Bytes(8, 0x77));
}

/// Every scale has a place of its own inside the array, and every other byte is a pad.
TEST(Quantise, LayoutsAreInjectiveAndTheirPadsAreZero) {
  for (const char* name :
       {"fp8_token", "fp8_group16_fp32", "fp8_group16_ue8m0", "nvfp4_linear", "nvfp4_128x4", "nvfp4_8x4"}) {
    for (const int hidden : {16, 48, 64, 80, 144}) {
      for (const std::int64_t tokens : {1, 3, 4, 7, 8, 9, 33, 127, 128, 129, 257}) {
        const Quantisation how = parsed(name, hidden);
        const int groups = hidden / how.group;
        const std::size_t size = scale_array_bytes(how, hidden, tokens);
        std::set<std::size_t> taken;
        for (std::int64_t row = 0; row < tokens; ++row) {
          for (int group = 0; group < groups; ++group) {
            const std::size_t at = scale_offset(how, hidden, tokens, row, group);
            ASSERT_TRUE(at % how.scale_bytes() == 0 && taken.insert(at).second) << name << " " << row << " " << group;
          }
        }
        ASSERT_LE(*taken.rbegin() + how.scale_bytes(), size) << name << " " << hidden << " " << tokens;
        QuantisedRows tile;
        tile.scales = Bytes(3 * static_cast<std::size_t>(groups) * how.scale_bytes(), 0xab);
        const Bytes array = arrange_scales(tile, how, hidden, tokens);
        const auto written = std::count(array.begin(), array.end(), 0xab);
        ASSERT_EQ(static_cast<std::size_t>(written), taken.size() * how.scale_bytes());
        ASSERT_EQ(static_cast<std::size_t>(std::count(array.begin(), array.end(), 0)),
                  size - taken.size() * how.scale_bytes());
      }
    }
  }
}

TEST(Quantise, SwizzledPlacesAreThoseOfTheTensorCores) {
  const Quantisation large = parsed("nvfp4_128x4", 16 * 6);
  EXPECT_EQ(scale_array_bytes(large, 96, 1), 1024U);
  EXPECT_EQ(scale_offset(large, 96, 200, 0, 1), 1U);
  EXPECT_EQ(scale_offset(large, 96, 200, 1, 0), 16U);
  EXPECT_EQ(scale_offset(large, 96, 200, 32, 0), 4U);
  EXPECT_EQ(scale_offset(large, 96, 200, 127, 3), 511U);
  EXPECT_EQ(scale_offset(large, 96, 200, 0, 4), 512U);
  EXPECT_EQ(scale_offset(large, 96, 200, 128, 0), 1024U);
  const Quantisation small = parsed("nvfp4_8x4", 16 * 6);
  EXPECT_EQ(scale_array_bytes(small, 96, 9), 128U);
  EXPECT_EQ(scale_offset(small, 96, 9, 1, 0), 4U);
  EXPECT_EQ(scale_offset(small, 96, 9, 7, 3), 31U);
  EXPECT_EQ(scale_offset(small, 96, 9, 0, 4), 32U);
  EXPECT_EQ(scale_offset(small, 96, 9, 8, 0), 64U);
}

TEST(Composition, NamesAreReadPartByPart) {
  const Composition all = read_composition("moe_finalize_allreduce_residual_layernorm_fp8_group32_ue8m0", 64);
  EXPECT_EQ(all.prologue, Composition::Prologue::moe_finalize);
  EXPECT_TRUE(all.residual);
  EXPECT_EQ(all.norm, Composition::Norm::layernorm);
  EXPECT_EQ(all.quantisation->group, 32);
  EXPECT_TRUE(all.unknown.empty());
  const Composition none = read_composition("allreduce", 64);
  EXPECT_FALSE(none.moe() || none.stages());
  EXPECT_FALSE(read_composition("moe_reduce_allreduce", 64).stages());
  EXPECT_TRUE(read_composition("allreduce_nvfp4_8x4", 64).quantisation);
  EXPECT_EQ(read_composition("allreduce_residual_int4", 64).unknown, "int4");
}

}  // namespace
}  // namespace arbiter::tuning
