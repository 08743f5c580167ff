// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "gqa/core/shape.hpp"

namespace generate {

using gqa::Index;

/// How the values of a tensor are stored; the numbers are those of the GGUF format.
enum class TensorType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

/// Values come in blocks that share their scales; a row is a whole number of blocks.
struct BlockFormat {
  const char* name;
  Index values;  ///< values in a block
  Index bytes;   ///< bytes of a block
};

/// The block format of a type number as a file gives it, or nothing if this program cannot read it.
std::optional<BlockFormat> block_format(std::uint32_t type);

/// The same of every type number of GGUF whose size is known, readable or not: for who counts bytes.
std::optional<BlockFormat> stored_format(std::uint32_t type);

/// The names of all types this program reads, as in a sentence: for messages.
std::string supported_types();

/// The name of any type number known to GGUF, supported or not: for messages.
std::string type_name(std::uint32_t type);

/// Writes the values of whole blocks as f32: each is exactly the value the format defines, rounded once.
/// Throws std::invalid_argument when the sizes do not belong together.
void dequantize(TensorType type, std::span<const std::byte> blocks, std::span<float> values);

}  // namespace generate
