#include "oracle/quantised_formats.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace arbiter::formats {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The oracle only writes this format.
float from_e2m1(std::uint8_t code) noexcept {
  constexpr float magnitudes[] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  const float magnitude = magnitudes[code & 7];
  return (code & 8) != 0 ? -magnitude : magnitude;
}

/// The positive values of a format, by code.
std::vector<float> values_of(float (*from)(std::uint8_t), int codes) {
  std::vector<float> values;
  for (int code = 0; code < codes; ++code) values.push_back(from(static_cast<std::uint8_t>(code)));
  return values;
}

TEST(QuantisedFormats, TheValuesOfE4m3AreThoseOfTheStandard) {
  EXPECT_EQ(from_e4m3(0x00), 0.0F);
  EXPECT_EQ(from_e4m3(0x01), 0x1p-9F);
  EXPECT_EQ(from_e4m3(0x07), 7 * 0x1p-9F);
  EXPECT_EQ(from_e4m3(0x08), 0x1p-6F);
  EXPECT_EQ(from_e4m3(0x38), 1.0F);
  EXPECT_EQ(from_e4m3(0x7e), 448.0F);
  EXPECT_EQ(from_e4m3(0xfe), -448.0F);
  EXPECT_TRUE(std::isnan(from_e4m3(0x7f)) && std::isnan(from_e4m3(0xff)));
}

/// Rounding is monotonic, so its whole graph is known from the points where it steps: right below, at, and right above
/// each middle between neighbours.
void expect_nearest_even(const std::vector<float>& values, std::uint8_t (*to)(float), int sign_bit) {
  for (std::size_t code = 0; code < values.size(); ++code) {
    ASSERT_EQ(to(values[code]), code);
    ASSERT_EQ(to(-values[code]), code | static_cast<std::size_t>(sign_bit));
    if (code + 1 == values.size()) break;
    const float middle = (values[code] + values[code + 1]) / 2;  // exact
    const std::size_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(to(middle), even) << middle;
    ASSERT_EQ(to(std::nextafter(middle, 0.0F)), code) << middle;
    ASSERT_EQ(to(std::nextafter(middle, infinity)), code + 1) << middle;
    ASSERT_EQ(to(-middle), even | static_cast<std::size_t>(sign_bit));
  }
}

void expect_monotonic(std::uint8_t (*to)(float), float (*from)(std::uint8_t)) {
  float last = 0;
  for (std::uint32_t bits = 0; bits < 0x7f800000U; bits += 997) {
    const float value = from(to(float_of(bits)));
    ASSERT_GE(value, last) << float_of(bits);
    last = value;
  }
}

TEST(QuantisedFormats, E4m3RoundsToNearestEvenEverywhere) {
  expect_nearest_even(values_of(from_e4m3, 0x7f), to_e4m3, 0x80);
  expect_monotonic(to_e4m3, from_e4m3);
}

TEST(QuantisedFormats, E2m1RoundsToNearestEvenEverywhere) {
  expect_nearest_even(values_of(from_e2m1, 8), to_e2m1, 8);
  expect_monotonic(to_e2m1, from_e2m1);
}

TEST(QuantisedFormats, SaturatesAndGivesNanItsPlace) {
  for (const float large : {448.0F, 449.0F, 464.0F, 465.0F, 1e30F, infinity}) {
    EXPECT_EQ(to_e4m3(large), 0x7e) << large;
    EXPECT_EQ(to_e4m3(-large), 0xfe) << large;
  }
  for (const float large : {6.0F, 6.5F, 7.0F, 1e30F, infinity}) {
    EXPECT_EQ(to_e2m1(large), 0x7) << large;
    EXPECT_EQ(to_e2m1(-large), 0xf) << large;
  }
  for (const std::uint32_t nan : {0x7fc00000U, 0xffc00000U, 0x7f800001U, 0xffffffffU}) {
    EXPECT_EQ(to_e4m3(float_of(nan)), 0x7f) << "the sign is dropped";
    EXPECT_EQ(to_e2m1(float_of(nan)), 0x7);
    EXPECT_EQ(to_ue8m0(float_of(nan)), 0xff);
  }
  EXPECT_EQ(to_e4m3(-0.0F), 0x80);
  EXPECT_EQ(to_e2m1(-0.0F), 0x8);
  EXPECT_EQ(to_e4m3(0x1p-149F), 0);
  EXPECT_EQ(to_e2m1(-0x1p-149F), 0x8);
}

TEST(QuantisedFormats, Ue8m0IsThePowerOfTwoThatIsNotBelow) {
  for (std::uint32_t exponent = 1; exponent < 254; ++exponent) {
    const float power = float_of(exponent << 23);
    EXPECT_EQ(to_ue8m0(power), exponent);
    EXPECT_EQ(to_ue8m0(std::nextafter(power, infinity)), exponent + 1);
    EXPECT_EQ(to_ue8m0(std::nextafter(power, 0.0F)), exponent == 1 ? 1U : exponent);
    EXPECT_EQ(inverse_of_ue8m0(static_cast<std::uint8_t>(exponent)) * power, 1.0F) << exponent;
  }
  EXPECT_EQ(to_ue8m0(std::numeric_limits<float>::max()), 254) << "no finite value becomes NaN";
  EXPECT_EQ(to_ue8m0(infinity), 255);
  EXPECT_EQ(inverse_of_ue8m0(254), 0x1p-127F);
  EXPECT_TRUE(std::isnan(inverse_of_ue8m0(255)));
}

}  // namespace
}  // namespace arbiter::formats
