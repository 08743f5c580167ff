// SPDX-License-Identifier: Apache-2.0
// What a model's weights take.
#pragma once

#include <algorithm>
#include <cctype>
#include <optional>
#include <string>

#include "cache_size.hpp"
#include "tensor_type.hpp"

namespace cache_size {

/// What is known of a model's weights.
struct Weights {
  std::optional<Index> bytes;       ///< as a file holds them
  std::optional<Index> parameters;  ///< how many there are
  std::string dtype = "bf16";       ///< of those, unless another is asked for
  std::string how;                  ///< how that is known, or why it is not
};

/// How values of that name are stored: f32, bf16, fp8, int4, or a type of GGUF such as q4_k, whose blocks
/// bring their scales. Throws std::invalid_argument for an unknown name.
inline generate::BlockFormat weight_format(const std::string& dtype) {
  if (dtype == "fp8" || dtype == "int8") return {"8 bits", 1, 1};
  if (dtype == "int4") return {"4 bits", 2, 1};
  std::string upper = dtype;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return std::toupper(c); });
  for (std::uint32_t type = 0; type < 64; ++type) {
    const auto format = generate::stored_format(type);
    if (format && upper == format->name) return *format;
  }
  GQA_CHECK(false, std::invalid_argument,
            "weights-dtype is '" << dtype
                                 << "', expected f64, f32, f16, bf16, fp8, int8, int4 or a type of GGUF such "
                                    "as q8_0, q4_k or mxfp4");
}

/// Bytes of so many values, in whole blocks.
inline Index bytes_in(Index parameters, const generate::BlockFormat& format) {
  return checked_mul(gqa::ceil_div(parameters, format.values), format.bytes, "bytes of the weights");
}

/// In `dtype` if it is given, else as they are; nothing where that is not known.
inline std::optional<Index> weight_bytes(const Weights& weights, const std::optional<std::string>& dtype) {
  if (!dtype && weights.bytes) return weights.bytes;
  if (!weights.parameters) return std::nullopt;
  return bytes_in(*weights.parameters, weight_format(dtype.value_or(weights.dtype)));
}

}  // namespace cache_size
