// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <span>

#include "gqa/core/tensor.hpp"

namespace gqa {

/// Normalises each head of each token in place, `x * weights / sqrt(mean(x^2) + epsilon)`: the QK-norm of
/// Qwen 3 and Gemma 3, for q and for k, before RoPE. `weights` has head_dim entries shared by all heads
/// (Gemma stores them less 1), or none for all ones. Throws std::invalid_argument for another number of
/// weights.
template <TensorLike Tensor, class W = float>
void qk_norm(Tensor&& x, std::span<const W> weights = {}, double epsilon = 1e-6) {
  const auto view = as_view(x);
  using T = typename decltype(view)::value_type;
  using Acc = Accumulator<T>;
  GQA_CHECK(weights.empty() || static_cast<Index>(weights.size()) == view.dim, std::invalid_argument,
            "qk_norm: weights has " << weights.size() << " entries, expected " << view.dim);
  for (Index b = 0; b < view.batch; ++b) {
    for (Index t = 0; t < view.tokens; ++t) {
      for (Index h = 0; h < view.heads; ++h) {
        T* row = view.at(b, t, h);
        Acc sum = 0;
        for (Index d = 0; d < view.dim; ++d) sum += static_cast<Acc>(row[d]) * static_cast<Acc>(row[d]);
        const Acc factor = 1 / std::sqrt(sum / static_cast<Acc>(view.dim) + static_cast<Acc>(epsilon));
        for (Index d = 0; d < view.dim; ++d) {
          const Acc weight =
              weights.empty() ? Acc{1} : static_cast<Acc>(weights[static_cast<std::size_t>(d)]);
          row[d] = static_cast<T>(static_cast<Acc>(row[d]) * factor * weight);
        }
      }
    }
  }
}

}  // namespace gqa
