// SPDX-License-Identifier: Apache-2.0
#include "quantize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <stdexcept>
#include <vector>

namespace convert {
namespace {

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    text += "0123456789abcdef"[std::to_integer<int>(b >> 4)];
    text += "0123456789abcdef"[std::to_integer<int>(b & std::byte{15})];
  }
  return text;
}

std::vector<std::byte> blocks_of(TensorType type, std::span<const float> values) {
  const auto format = *generate::block_format(static_cast<std::uint32_t>(type));
  std::vector<std::byte> blocks(values.size() / static_cast<std::size_t>(format.values) *
                                static_cast<std::size_t>(format.bytes));
  quantize(type, values, blocks);
  return blocks;
}

std::vector<float> there_and_back(TensorType type, std::span<const float> values) {
  std::vector<float> back(values.size());
  generate::dequantize(type, blocks_of(type, values), back);
  return back;
}

TEST(Quantize, MakesTheBlocksOfTheGgufPackage) {
  std::ifstream file(CONVERT_TEXTS "/quantize.json");
  std::set<int> types;
  for (const auto& vector : nlohmann::json::parse(file)) {
    const int type = vector["type"];
    types.insert(type);
    const auto values = vector["values"].get<std::vector<float>>();
    EXPECT_EQ(hex(blocks_of(static_cast<TensorType>(type), values)), vector["bytes"].get<std::string>());
  }
  EXPECT_EQ(types, (std::set<int>{1, 8}));
}

TEST(Quantize, KeepsF32) {
  const std::vector<float> values{1, -0.0F, 1e-45F, std::numeric_limits<float>::max()};
  const auto back = there_and_back(TensorType::f32, values);
  EXPECT_EQ(std::memcmp(back.data(), values.data(), 16), 0);
}

// Half a step, and what rounding the scale to F16 (11 bits, or multiples of 2^-24) does to 127 of them.
TEST(Quantize, IsOffByHalfAStep) {
  std::mt19937 random(3);
  for (const float size : {1e-3F, 1.0F, 1e5F}) {
    std::normal_distribution<float> normal(0, size);
    std::vector<float> values(32 * 50);
    for (float& x : values) x = normal(random);
    const auto back = there_and_back(TensorType::q8_0, values);
    for (std::size_t b = 0; b < 50; ++b) {
      float largest = 0;
      for (std::size_t j = 0; j < 32; ++j) largest = std::max(largest, std::abs(values[b * 32 + j]));
      const float step = largest / 127;
      for (std::size_t j = 0; j < 32; ++j)
        ASSERT_LE(std::abs(back[b * 32 + j] - values[b * 32 + j]),
                  1.0001F * (step / 2 + 127 * std::max(step / 2048, std::ldexp(1.0F, -25))));
    }
  }
}

TEST(Quantize, MakesNothingOfValuesTooSmallForTheirScale) {
  for (const float tiny : {1e-7F, 1e-39F, std::numeric_limits<float>::denorm_min()}) {
    const std::vector<float> values(32, tiny);
    EXPECT_EQ(there_and_back(TensorType::q8_0, values), std::vector<float>(32, 0.0F));
    const auto blocks = blocks_of(TensorType::q8_0, values);
    EXPECT_EQ(std::ranges::count(blocks, std::byte{0}), 34);
  }
}

TEST(Quantize, RefusesWhatIsNoNumberOrTooLarge) {
  for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::q8_0}) {
    for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()}) {
      std::vector<float> values(64, 1.0F);
      values[37] = wrong;
      try {
        blocks_of(type, values);
        ADD_FAILURE() << wrong;
      } catch (const std::invalid_argument& error) {
        EXPECT_NE(std::string(error.what()).find("value 37 is"), std::string::npos) << error.what();
      }
    }
  }
  const std::vector<float> large(32, 65'519.0F), larger(32, 65'520.0F);
  EXPECT_EQ(there_and_back(TensorType::f16, large), std::vector<float>(32, 65'504.0F));
  EXPECT_THROW(blocks_of(TensorType::f16, larger), std::invalid_argument);
  EXPECT_NO_THROW(blocks_of(TensorType::q8_0, larger));
  EXPECT_THROW(blocks_of(TensorType::q8_0, std::vector<float>(32, 8.4e6F)), std::invalid_argument);
  EXPECT_NO_THROW(blocks_of(TensorType::f32, std::vector<float>(1, 3e38F)));
}

TEST(Quantize, RefusesSizesAndTypes) {
  std::vector<float> values(64);
  std::vector<std::byte> blocks(68);
  EXPECT_NO_THROW(quantize(TensorType::q8_0, values, blocks));
  EXPECT_THROW(quantize(TensorType::q8_0, std::span(values).first(63), blocks), std::invalid_argument);
  EXPECT_THROW(quantize(TensorType::q8_0, values, std::span(blocks).first(67)), std::invalid_argument);
  EXPECT_THROW(quantize(TensorType::f16, values, blocks), std::invalid_argument);
  EXPECT_NO_THROW(quantize(TensorType::f32, {}, {}));
  EXPECT_THROW(quantize(TensorType::q4_0, values, std::span(blocks).first(36)), std::invalid_argument);
  EXPECT_FALSE(can_quantize(TensorType::bf16));
}

}  // namespace
}  // namespace convert
