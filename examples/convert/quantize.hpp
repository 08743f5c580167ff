// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>

#include "tensor_type.hpp"

namespace convert {

using generate::TensorType;
using gqa::Index;

/// Whether quantize() makes blocks of this type.
bool can_quantize(TensorType type);

/// Writes values as whole blocks of F32, F16 (each rounded to the nearest) or Q8_0: 32 values share a scale
/// d = max |x| / 127, kept as F16, and are x / d rounded to the nearest, halves away from zero, as ggml does.
///
/// Throws std::invalid_argument for sizes that do not belong together, another type, NaN, infinity and a
/// value that is too large for the type.
void quantize(TensorType type, std::span<const float> values, std::span<std::byte> blocks);

}  // namespace convert
