// SPDX-License-Identifier: Apache-2.0
#include "tensor_type.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace generate {
namespace {

std::vector<std::byte> from_hex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(Dequantize, AgreesWithTheGgufPackage) {
  std::ifstream file(GENERATE_TEST_DATA "/dequantize.json");
  std::set<int> types;
  for (const auto& vector : nlohmann::json::parse(file)) {
    const int type = vector["type"];
    types.insert(type);
    const auto expected = vector["values"].get<std::vector<float>>();
    std::vector<float> values(expected.size());
    dequantize(static_cast<TensorType>(type), from_hex(vector["bytes"]), values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_FLOAT_EQ(values[i], expected[i]) << "type " << type << ", value " << i;
    }
  }
  EXPECT_EQ(types, (std::set<int>{0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30}));
}

TEST(Dequantize, RefusesSizesThatDoNotBelongTogether) {
  std::vector<std::byte> blocks(36);
  std::vector<float> values(64);
  EXPECT_NO_THROW(dequantize(TensorType::q4_0, blocks, values));
  EXPECT_THROW(dequantize(TensorType::q4_0, std::span(blocks).first(35), values), std::invalid_argument);
  EXPECT_THROW(dequantize(TensorType::q4_0, blocks, std::span(values).first(63)), std::invalid_argument);
  EXPECT_THROW(dequantize(static_cast<TensorType>(10), blocks, values), std::invalid_argument);
}

TEST(TypeName, NamesWhatIsNotSupported) {
  EXPECT_EQ(type_name(14), "Q6_K");
  EXPECT_EQ(type_name(10), "Q2_K");
  EXPECT_EQ(type_name(77), "unknown type 77");
  EXPECT_FALSE(block_format(10).has_value());
  EXPECT_EQ(supported_types(), "F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K and BF16");
}

}  // namespace
}  // namespace generate
