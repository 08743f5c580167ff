// SPDX-License-Identifier: Apache-2.0
#include "tensor_type.hpp"

#include <Eigen/Core>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"

namespace generate {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

float load_half(const std::byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return static_cast<float>(Eigen::numext::bit_cast<gqa::half>(bits));
}

float load_bfloat16(const std::byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

int low_nibble(std::byte b) { return std::to_integer<int>(b & std::byte{15}); }
int high_nibble(std::byte b) { return std::to_integer<int>(b >> 4); }
int signed_byte(std::byte b) { return std::to_integer<std::int8_t>(b); }

// 32 values: f16 scale, then 16 bytes; the low nibbles are the first 16 values, the high ones the rest.
void block_q4_0(const std::byte* block, float* y) {
  const float scale = load_half(block);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(low_nibble(block[2 + j]) - 8) * scale;
    y[j + 16] = static_cast<float>(high_nibble(block[2 + j]) - 8) * scale;
  }
}

// As q4_0 with an f16 minimum after the scale in place of the -8.
void block_q4_1(const std::byte* block, float* y) {
  const float scale = load_half(block), minimum = load_half(block + 2);
  for (int j = 0; j < 16; ++j) {
    y[j] = static_cast<float>(low_nibble(block[4 + j])) * scale + minimum;
    y[j + 16] = static_cast<float>(high_nibble(block[4 + j])) * scale + minimum;
  }
}

/// Value j of 32: four bits of 16 bytes as in q4_0, the fifth bit j of four more.
int five_bits(const std::byte* low, std::uint32_t high, int j) {
  const int four = j < 16 ? low_nibble(low[j]) : high_nibble(low[j - 16]);
  return four | static_cast<int>(high >> j & 1) << 4;
}

std::uint32_t load_bits(const std::byte* at) {
  std::uint32_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return bits;
}

// 32 values: f16 scale, the fifth bits, the low four.
void block_q5_0(const std::byte* block, float* y) {
  const float scale = load_half(block);
  const std::uint32_t high = load_bits(block + 2);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(five_bits(block + 6, high, j) - 16) * scale;
}

// As q5_0 with an f16 minimum after the scale in place of the -16.
void block_q5_1(const std::byte* block, float* y) {
  const float scale = load_half(block), minimum = load_half(block + 2);
  const std::uint32_t high = load_bits(block + 4);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(five_bits(block + 8, high, j)) * scale + minimum;
}

// 32 values: f16 scale, 32 signed bytes.
void block_q8_0(const std::byte* block, float* y) {
  const float scale = load_half(block);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(signed_byte(block[2 + j])) * scale;
}

/// What the values of one of 8 runs are multiplied by and what is taken off, in units of the block's scales.
struct RunScale {
  int scale, minimum;
};

/// Six bits each in 12 bytes: those of the first four runs in a byte each, scales first; those of the others
/// in the nibbles of four bytes more, their two high bits in the bits that the first eight bytes have left.
RunScale run_scale(const std::byte* scales, int run) {
  const auto byte = [&](int i) { return std::to_integer<int>(scales[i]); };
  if (run < 4) return {byte(run) & 63, byte(run + 4) & 63};
  return {(byte(run + 4) & 15) | byte(run - 4) >> 6 << 4, byte(run + 4) >> 4 | byte(run) >> 6 << 4};
}

/// 256 values in 8 runs of 32: the f16 scales of scales and of minima, then 12 bytes of those. Two runs share
/// 32 bytes of `low`, the first in the low nibbles; run r's fifth bits, if there are any, are bit r of
/// `high`.
void block_k(const std::byte* block, const std::byte* low, const std::byte* high, float* y) {
  const float scale = load_half(block), minimum = load_half(block + 2);
  for (int run = 0; run < 8; ++run) {
    const RunScale units = run_scale(block + 4, run);
    const float run_scale = scale * static_cast<float>(units.scale);
    const float run_minimum = minimum * static_cast<float>(units.minimum);
    for (int j = 0; j < 32; ++j) {
      const std::byte packed = low[run / 2 * 32 + j];
      const int four = run % 2 == 0 ? low_nibble(packed) : high_nibble(packed);
      const int fifth = high != nullptr ? std::to_integer<int>(high[j] >> run) & 1 : 0;
      y[run * 32 + j] = run_scale * static_cast<float>(four | fifth << 4) - run_minimum;
    }
  }
}

void block_q4_k(const std::byte* block, float* y) { block_k(block, block + 16, nullptr, y); }
void block_q5_k(const std::byte* block, float* y) { block_k(block, block + 48, block + 16, y); }

// 256 values: the low 4 bits (128 bytes), the high 2 bits (64), 16 signed scales of 16 values each, an f16
// scale of the scales. Each half of 128 values interleaves four runs of 32: run r takes its low bits from the
// nibbles of 64 bytes and its high bits from bit pair r of 32 bytes.
void block_q6_k(const std::byte* block, float* y) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const float scale = load_half(block + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32, scales += 8, y += 128) {
    for (int run = 0; run < 4; ++run) {
      for (int j = 0; j < 32; ++j) {
        const std::byte packed = low[(run % 2) * 32 + j];
        const int low_bits = run < 2 ? low_nibble(packed) : high_nibble(packed);
        const int high_bits = std::to_integer<int>(high[j] >> (2 * run)) & 3;
        const float run_scale = scale * static_cast<float>(signed_byte(scales[2 * run + j / 16]));
        y[run * 32 + j] = run_scale * static_cast<float>((low_bits | high_bits << 4) - 32);
      }
    }
  }
}

}  // namespace

std::optional<BlockFormat> block_format(std::uint32_t type) {
  switch (static_cast<TensorType>(type)) {
    case TensorType::f32:
      return BlockFormat{"F32", 1, 4};
    case TensorType::f16:
      return BlockFormat{"F16", 1, 2};
    case TensorType::bf16:
      return BlockFormat{"BF16", 1, 2};
    case TensorType::q4_0:
      return BlockFormat{"Q4_0", 32, 18};
    case TensorType::q4_1:
      return BlockFormat{"Q4_1", 32, 20};
    case TensorType::q5_0:
      return BlockFormat{"Q5_0", 32, 22};
    case TensorType::q5_1:
      return BlockFormat{"Q5_1", 32, 24};
    case TensorType::q8_0:
      return BlockFormat{"Q8_0", 32, 34};
    case TensorType::q4_k:
      return BlockFormat{"Q4_K", 256, 144};
    case TensorType::q5_k:
      return BlockFormat{"Q5_K", 256, 176};
    case TensorType::q6_k:
      return BlockFormat{"Q6_K", 256, 210};
  }
  return std::nullopt;
}

std::string supported_types() {
  std::string names;
  for (std::uint32_t type = 0; type <= static_cast<std::uint32_t>(TensorType::bf16); ++type) {
    if (const auto format = block_format(type))
      names += (names.empty() ? "" : ", ") + std::string(format->name);
  }
  return names.replace(names.rfind(","), 1, " and");
}

namespace {

/// Types that files hold and this program does not compute with (ggml's table of sizes).
constexpr std::pair<std::uint32_t, BlockFormat> others[] = {
    {10, {"Q2_K", 256, 84}},    {11, {"Q3_K", 256, 110}},   {15, {"Q8_K", 256, 292}},
    {16, {"IQ2_XXS", 256, 66}}, {17, {"IQ2_XS", 256, 74}},  {18, {"IQ3_XXS", 256, 98}},
    {19, {"IQ1_S", 256, 50}},   {20, {"IQ4_NL", 32, 18}},   {21, {"IQ3_S", 256, 110}},
    {22, {"IQ2_S", 256, 82}},   {23, {"IQ4_XS", 256, 136}}, {24, {"I8", 1, 1}},
    {25, {"I16", 1, 2}},        {26, {"I32", 1, 4}},        {27, {"I64", 1, 8}},
    {28, {"F64", 1, 8}},        {29, {"IQ1_M", 256, 56}},   {34, {"TQ1_0", 256, 54}},
    {35, {"TQ2_0", 256, 66}},   {39, {"MXFP4", 32, 17}}};

}  // namespace

std::optional<BlockFormat> stored_format(std::uint32_t type) {
  if (const auto format = block_format(type)) return format;
  for (const auto& [number, format] : others)
    if (number == type) return format;
  return std::nullopt;
}

std::string type_name(std::uint32_t type) {
  const auto format = stored_format(type);
  return format ? format->name : "unknown type " + std::to_string(type);
}

void dequantize(TensorType type, std::span<const std::byte> blocks, std::span<float> values) {
  const auto format = block_format(static_cast<std::uint32_t>(type));
  GQA_CHECK(format.has_value(), std::invalid_argument, "dequantize: type is not supported");
  const Index count = std::ssize(blocks) / format->bytes;
  GQA_CHECK(count * format->bytes == std::ssize(blocks) && count * format->values == std::ssize(values),
            std::invalid_argument,
            "dequantize: " << blocks.size() << " bytes of " << format->name << " do not hold "
                           << values.size() << " values");
  const auto each_block = [&](auto decode) {
    for (Index i = 0; i < count; ++i)
      decode(blocks.data() + i * format->bytes, values.data() + i * format->values);
  };
  switch (type) {
    case TensorType::f32:
      if (!values.empty()) std::memcpy(values.data(), blocks.data(), blocks.size());
      break;
    case TensorType::f16:
      each_block([](const std::byte* block, float* y) { *y = load_half(block); });
      break;
    case TensorType::bf16:
      each_block([](const std::byte* block, float* y) { *y = load_bfloat16(block); });
      break;
    case TensorType::q4_0:
      each_block(block_q4_0);
      break;
    case TensorType::q4_1:
      each_block(block_q4_1);
      break;
    case TensorType::q5_0:
      each_block(block_q5_0);
      break;
    case TensorType::q5_1:
      each_block(block_q5_1);
      break;
    case TensorType::q8_0:
      each_block(block_q8_0);
      break;
    case TensorType::q4_k:
      each_block(block_q4_k);
      break;
    case TensorType::q5_k:
      each_block(block_q5_k);
      break;
    case TensorType::q6_k:
      each_block(block_q6_k);
      break;
  }
}

}  // namespace generate
