// SPDX-License-Identifier: Apache-2.0
// One key, or value, in place of a block of them.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/layer/linear.hpp"

namespace native_sparse {

using gqa::Index;
using Tokens = gqa::TensorView<const float>;  ///< tokens x heads x dim

/// Makes one token of a block of tokens, for all KV heads: block x G x dim to 1 x G x dim.
using Compress = std::function<void(const Tokens& block, const gqa::TensorView<float>& out)>;

/// out[g, d] = sum_j block[j, g, d] / block
inline void mean(const Tokens& block, const gqa::TensorView<float>& out) {
  for (Index g = 0; g < block.heads; ++g)
    for (Index d = 0; d < block.dim; ++d) {
      float sum = 0;
      for (Index j = 0; j < block.tokens; ++j) sum += block.at(0, j, g)[d];
      out.at(0, 0, g)[d] = sum / static_cast<float>(block.tokens);
    }
}

/// A learned one, the same for all heads: out[g] = W concat_j(block[j, g]) + b. W is dim x (block * dim), the
/// elements of a token side by side; what an encoding of the position within the block adds is in b.
class LinearCompression {
 public:
  /// Throws std::invalid_argument for sizes that do not belong together.
  LinearCompression(Index block, Index dim, std::vector<float> weight, std::vector<float> bias)
      : block_(block), dim_(dim), weight_(std::move(weight)), bias_(std::move(bias)) {
    GQA_CHECK(std::ssize(weight_) == dim * block * dim, std::invalid_argument,
              "weight: size is " << weight_.size() << ", expected " << dim << " x " << block * dim);
    GQA_CHECK(std::ssize(bias_) == dim, std::invalid_argument,
              "bias: size is " << bias_.size() << ", expected " << dim);
  }

  void operator()(const Tokens& block, const gqa::TensorView<float>& out) const {
    GQA_CHECK(
        block.tokens == block_ && block.dim == dim_, std::invalid_argument,
        "block: size is " << block.tokens << " x " << block.dim << ", expected " << block_ << " x " << dim_);
    const Index length = block_ * dim_;
    std::vector<float> x(static_cast<std::size_t>(block.heads * length));
    for (Index g = 0; g < block.heads; ++g)
      for (Index j = 0; j < block_; ++j)
        std::copy_n(block.at(0, j, g), dim_, x.data() + g * length + j * dim_);
    gqa::linear(gqa::MatrixView(x.data(), block.heads, length), gqa::MatrixView(weight_.data(), dim_, length),
                bias_, gqa::MatrixOut(out.data, block.heads, dim_, out.head_stride));
  }

 private:
  Index block_, dim_;
  std::vector<float> weight_, bias_;
};

}  // namespace native_sparse
