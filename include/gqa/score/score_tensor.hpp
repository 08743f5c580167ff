// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

#include "gqa/core/tensor.hpp"
#include "gqa/score/extent.hpp"

namespace gqa {

/// A value for each score: batch x heads x queries x keys, keys contiguous (PyTorch's and ONNX's layout of
/// masks and biases). Batch, heads and queries may be 1 and then count for all. Strides count elements.
///
/// Key column j is position j. Query row i is position `first_q_position + i`; left out, the last row is on
/// the last key, as queries are. Throws std::invalid_argument for a negative size.
template <class T>
class ScoreTensor {
 public:
  struct Sizes {
    Index batch = 1, heads = 1, q_tokens = 1, kv_tokens = 0;
  };
  struct Strides {
    Index batch, head, q_token;
  };

  ScoreTensor(const T* data, const Sizes& sizes, const Strides& strides,
              std::optional<Index> first_q_position = {})
      : data_(data),
        sizes_(sizes),
        strides_{sizes.batch == 1 ? 0 : strides.batch, sizes.heads == 1 ? 0 : strides.head,
                 sizes.q_tokens == 1 ? 0 : strides.q_token},
        aligned_to_end_(!first_q_position),
        first_q_position_(first_q_position.value_or(sizes.kv_tokens - sizes.q_tokens)) {
    GQA_CHECK(sizes.batch >= 0 && sizes.heads >= 0 && sizes.q_tokens >= 0 && sizes.kv_tokens >= 0,
              std::invalid_argument,
              "score tensor: sizes are " << sizes.batch << " x " << sizes.heads << " x " << sizes.q_tokens
                                         << " x " << sizes.kv_tokens << ", expected none to be negative");
  }

  /// Packed.
  ScoreTensor(const T* data, const Sizes& sizes, std::optional<Index> first_q_position = {})
      : ScoreTensor(data, sizes,
                    {checked_mul(checked_mul(sizes.heads, sizes.q_tokens, "score tensor"), sizes.kv_tokens,
                                 "score tensor"),
                     checked_mul(sizes.q_tokens, sizes.kv_tokens, "score tensor"), sizes.kv_tokens},
                    first_q_position) {}

  const Sizes& sizes() const { return sizes_; }

  /// The positions that have a row: all of them where one row counts for all.
  Range q_positions() const {
    if (sizes_.q_tokens == 1) return {-max_rows, max_rows};
    return {first_q_position_, first_q_position_ + sizes_.q_tokens};
  }
  Range kv_positions() const { return {0, sizes_.kv_tokens}; }

  /// The row of a query, `sizes().kv_tokens` long; the position must lie in q_positions().
  const T* row(Index seq, Index q_head, Index q_pos) const {
    return data_ + seq * strides_.batch + q_head * strides_.head +
           (q_pos - first_q_position_) * strides_.q_token;
  }

  /// Throws std::invalid_argument unless the tensor has the shape of the call or broadcasts to it.
  void check(const AttentionExtent& extent, const char* what) const {
    check_size(what, "batch", sizes_.batch, extent.num_seqs);
    check_size(what, "heads", sizes_.heads, extent.num_q_heads);
    if (aligned_to_end_) {
      check_size(what, "q_tokens", sizes_.q_tokens, extent.q.size());
      GQA_CHECK(sizes_.kv_tokens == extent.kv.end, std::invalid_argument,
                what << ": kv_tokens is " << sizes_.kv_tokens << ", expected " << extent.kv.end);
    }
    GQA_CHECK(sizes_.kv_tokens >= extent.kv.end, std::invalid_argument,
              what << ": kv_tokens is " << sizes_.kv_tokens << ", expected at least " << extent.kv.end);
    GQA_CHECK(extent.q.empty() || intersect(extent.q, q_positions()) == extent.q, std::invalid_argument,
              what << ": its rows are positions " << q_positions().begin << " to " << q_positions().end - 1
                   << ", expected " << extent.q.begin << " to " << extent.q.end - 1);
  }

 private:
  static constexpr Index max_rows = std::numeric_limits<Index>::max() / 4;

  static void check_size(const char* what, const char* dimension, Index size, Index expected) {
    GQA_CHECK(size == 1 || size == expected, std::invalid_argument,
              what << ": " << dimension << " is " << size << ", expected " << expected << " or 1");
  }

  const T* data_;
  Sizes sizes_;
  Strides strides_;
  bool aligned_to_end_;
  Index first_q_position_;
};

namespace detail {

/// A tensor of rank 3 (heads x queries x keys) or 4 (batch first), whose dimensions a TensorView calls (batch
/// x) tokens x heads x dim.
template <TensorLike Tensor>
auto as_score_tensor(const Tensor& tensor, std::optional<Index> first_q_position) {
  const auto view = as_view(tensor);
  using T = std::remove_const_t<typename decltype(view)::value_type>;
  return ScoreTensor<T>(view.data, {view.batch, view.tokens, view.heads, view.dim},
                        {view.batch_stride, view.token_stride, view.head_stride}, first_q_position);
}

}  // namespace detail

}  // namespace gqa
