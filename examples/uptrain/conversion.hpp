// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gqa/convert/calibration.hpp"
#include "method.hpp"
#include "shape.hpp"
#include "transformer.hpp"

namespace uptrain {

/// What the attention of each layer of a model reads, over batches of the training text.
std::vector<gqa::convert::Calibration> calibrate(Transformer<float>& model, std::span<const float> parameters,
                                                 std::span<const Batch> batches);

/// A model of fewer KV heads, or of the same ones at the cache of fewer.
struct Converted {
  Shape shape;
  std::vector<float> parameters;
  Index cache_elements = 0;  ///< for one token of all layers
};

/// Converts each layer of an MHA model to `kv_heads` KV heads, which as many query heads read as another.
/// `seed` is that of Method::random. Throws std::invalid_argument as gqa::convert does.
Converted convert(const Shape& shape, std::span<const float> parameters, Method method, Index kv_heads,
                  std::span<const gqa::convert::Calibration> calibrations, std::uint64_t seed);

}  // namespace uptrain
