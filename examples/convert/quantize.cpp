// SPDX-License-Identifier: Apache-2.0
#include "quantize.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"

namespace convert {
namespace {

constexpr std::size_t q8_values = 32, q8_bytes = 34;

template <class T>
void store(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof(T));
}

gqa::half rounded(float value, std::size_t at, const char* type) {
  const gqa::half result(value);
  GQA_CHECK(Eigen::numext::isfinite(result), std::invalid_argument,
            "value " << at << " needs " << value << ", which is too large for " << type);
  return result;
}

void block_q8_0(std::span<const float> x, std::size_t first, std::byte* block) {
  float largest = 0;
  for (const float value : x) largest = std::max(largest, std::abs(value));
  const float scale = largest / 127;
  const gqa::half stored = rounded(scale, first, "the scale of a Q8_0 block");
  store(stored, block);
  // Where the scale is too small for F16 all values are 0, and its inverse need not be a number.
  const float inverse = static_cast<float>(stored) > 0 ? 1 / scale : 0;
  for (std::size_t j = 0; j < x.size(); ++j)
    block[2 + j] = static_cast<std::byte>(static_cast<std::int8_t>(std::round(x[j] * inverse)));
}

}  // namespace

bool can_quantize(TensorType type) {
  return type == TensorType::f32 || type == TensorType::f16 || type == TensorType::q8_0;
}

void quantize(TensorType type, std::span<const float> values, std::span<std::byte> blocks) {
  GQA_CHECK(
      can_quantize(type), std::invalid_argument,
      "type is " << generate::type_name(static_cast<std::uint32_t>(type)) << ", expected F32, F16 or Q8_0");
  const auto format = *generate::block_format(static_cast<std::uint32_t>(type));
  const auto block_values = static_cast<std::size_t>(format.values);
  GQA_CHECK(values.size() % block_values == 0 &&
                blocks.size() == values.size() / block_values * static_cast<std::size_t>(format.bytes),
            std::invalid_argument,
            values.size() << " values in " << blocks.size() << " bytes of " << format.name << " blocks of "
                          << format.values << " values in " << format.bytes << " bytes");
  for (std::size_t i = 0; i < values.size(); ++i)
    GQA_CHECK(std::isfinite(values[i]), std::invalid_argument,
              "value " << i << " is " << values[i] << ", expected a finite number");
  if (type == TensorType::f32) {
    if (!values.empty()) std::memcpy(blocks.data(), values.data(), blocks.size());
  } else if (type == TensorType::f16) {
    for (std::size_t i = 0; i < values.size(); ++i)
      store(rounded(values[i], i, "F16"), blocks.data() + 2 * i);
  } else {
    for (std::size_t i = 0; i < values.size() / q8_values; ++i)
      block_q8_0(values.subspan(i * q8_values, q8_values), i * q8_values, blocks.data() + i * q8_bytes);
  }
}

}  // namespace convert
