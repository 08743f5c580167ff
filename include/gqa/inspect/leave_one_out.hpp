// SPDX-License-Identifier: Apache-2.0
// What a model loses with each head.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/tensor.hpp"

namespace gqa {

/// A query head of a model.
struct HeadPlace {
  Index layer = 0, head = 0;
};

/// Clears one head of a layer's attention, tokens x num_q_heads x value_dim, before the output projection
/// reads it: the model goes on as if the head were not there. Throws std::invalid_argument for a head that is
/// not there.
template <class T>
void leave_out(const TensorView<T>& attended, Index head) {
  GQA_CHECK(head >= 0 && head < attended.heads, std::invalid_argument,
            "leave_out: head is " << head << ", expected at least 0 and less than " << attended.heads);
  for (Index b = 0; b < attended.batch; ++b)
    for (Index t = 0; t < attended.tokens; ++t) {
      T* row =
          attended.data + b * attended.batch_stride + t * attended.token_stride + head * attended.head_stride;
      std::fill_n(row, attended.dim, T{});
    }
}

/// The importance of heads by leaving each out (Michel et al. 2019): loss without it - loss with all.
struct HeadImportance {
  double loss = 0;             ///< with all heads
  std::vector<double> change;  ///< layers x heads; below 0 where the model is better without
  Index num_heads = 0;

  double operator()(Index layer, Index head) const {
    return change[static_cast<std::size_t>(layer * num_heads + head)];
  }
};

/// `loss(std::optional<HeadPlace>)` runs the model without that head, or with all, and returns what is to be
/// small; it is called 1 + layers x heads times. Throws std::invalid_argument for no layers or heads.
template <class Loss>
HeadImportance leave_one_out(Index num_layers, Index num_heads, Loss&& loss) {
  GQA_CHECK(num_layers >= 1 && num_heads >= 1, std::invalid_argument,
            "leave_one_out: sizes are " << num_layers << " layers of " << num_heads
                                        << " heads, expected at least 1");
  HeadImportance result{.loss = loss(std::optional<HeadPlace>()), .change = {}, .num_heads = num_heads};
  for (Index layer = 0; layer < num_layers; ++layer)
    for (Index head = 0; head < num_heads; ++head)
      result.change.push_back(loss(std::optional(HeadPlace{layer, head})) - result.loss);
  return result;
}

}  // namespace gqa
