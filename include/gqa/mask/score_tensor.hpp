// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>
#include <type_traits>

#include "gqa/core/tensor.hpp"
#include "gqa/mask/mask_concept.hpp"

namespace gqa {

/// A value for each score: batch x heads x queries x keys, keys contiguous (PyTorch's and ONNX's layout of
/// masks and biases). Each may be 1 and then counts for all. Strides count elements. Refers to the caller's
/// memory.
///
/// Key column j is position j. Query row i is position `first_q_position + i`; left out, it is the sequence's
/// query i of a call, so that the last row is on the last key unless there is a q_offset; in a batch of
/// sequences of different lengths there are as many rows and columns as the longest one needs. Throws
/// std::invalid_argument for a negative size.
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
        first_q_position_(first_q_position) {
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

  /// The positions that have a row, all of them where one row counts for all, in a call whose queries begin
  /// at `first_query`; unless that is known, the last row is on the last key.
  Range q_positions(std::optional<Index> first_query = {}) const {
    if (sizes_.q_tokens == 1) return {-max_position, max_position};
    const Index first = first_q_position_.value_or(first_query.value_or(sizes_.kv_tokens - sizes_.q_tokens));
    Index end = 0;
    return {first,
            __builtin_add_overflow(first, sizes_.q_tokens, &end) ? std::numeric_limits<Index>::max() : end};
  }
  /// The positions that have a column, all of them where one key counts for all.
  Range kv_positions() const { return broadcasts_keys() ? all_positions : Range{0, sizes_.kv_tokens}; }
  bool broadcasts_keys() const { return sizes_.kv_tokens == 1; }

  /// The first row of a sequence and head, which the tensor must have, `sizes().kv_tokens` long; the others
  /// follow at `q_stride()`.
  const T* plane(Index seq, Index q_head) const {
    return data_ + seq * strides_.batch + q_head * strides_.head;
  }
  Index q_stride() const { return strides_.q_token; }

  /// Throws std::invalid_argument unless the tensor has such a plane.
  void check_plane(Index seq, Index q_head, const char* what) const {
    GQA_CHECK(sizes_.batch == 1 || (seq >= 0 && seq < sizes_.batch), std::invalid_argument,
              what << ": sequence " << seq << ", expected less than batch, which is " << sizes_.batch);
    GQA_CHECK(sizes_.heads == 1 || (q_head >= 0 && q_head < sizes_.heads), std::invalid_argument,
              what << ": query head " << q_head << ", expected less than heads, which is " << sizes_.heads);
  }

  /// Throws std::invalid_argument unless the tensor has the shape of the call or broadcasts to it.
  void check(const AttentionExtent& extent, const char* what) const {
    check_size(what, "batch", sizes_.batch, extent.num_seqs);
    check_size(what, "heads", sizes_.heads, extent.num_q_heads);
    if (!first_q_position_) {
      check_padded_size(what, "queries", sizes_.q_tokens, extent.q.size(), extent.most_q_tokens);
      check_padded_size(what, "keys", sizes_.kv_tokens, extent.kv.end, extent.most_kv_tokens);
      return;
    }
    GQA_CHECK(
        broadcasts_keys() || sizes_.kv_tokens >= extent.kv.end, std::invalid_argument,
        what << ": keys is " << sizes_.kv_tokens << ", expected at least " << extent.kv.end << ", or 1");
    const Range rows = q_positions();
    GQA_CHECK(extent.q.empty() || intersect(extent.q, rows) == extent.q, std::invalid_argument,
              what << ": its " << sizes_.q_tokens << " queries begin at position " << rows.begin
                   << ", expected positions " << extent.q.begin << " to " << extent.q.end - 1);
  }

 private:
  static void check_size(const char* what, const char* dimension, Index size, Index expected) {
    GQA_CHECK(size == 1 || size == expected, std::invalid_argument,
              what << ": " << dimension << " is " << size << ", expected " << expected << " or 1");
  }
  /// Shorter sequences of a batch use the front of what the longest one needs.
  static void check_padded_size(const char* what, const char* dimension, Index size, Index expected,
                                Index most) {
    if (size < expected || size > most) check_size(what, dimension, size, std::max(expected, most));
  }

  const T* data_;
  Sizes sizes_;
  Strides strides_;
  std::optional<Index> first_q_position_;
};

namespace detail {

/// One sequence's and head's plane of a ScoreTensor, in a call whose queries begin at `first_query`.
template <class T>
class ScorePlane {
 public:
  ScorePlane(const ScoreTensor<T>& tensor, Index seq, Index q_head, std::optional<Index> first_query)
      : first_row_(tensor.plane(seq, q_head)),
        stride_(tensor.q_stride()),
        q_(tensor.q_positions(first_query)),
        kv_(tensor.kv_positions()),
        one_row_(tensor.sizes().q_tokens == 1),
        one_key_(tensor.broadcasts_keys()) {}

  Range q_positions() const { return q_; }
  Range kv_positions() const { return kv_; }
  bool one_row() const { return one_row_; }
  bool one_key() const { return one_key_; }

  /// The row of a query, whose position must lie in q_positions().
  const T* row(Index q_pos) const {
    return one_row_ ? first_row_ : first_row_ + (q_pos - q_.begin) * stride_;
  }

 private:
  const T* first_row_;
  Index stride_;
  Range q_, kv_;
  bool one_row_, one_key_;
};

/// A tensor of keys, queries x keys, heads x queries x keys or batch x heads x queries x keys. A TensorView
/// calls its dimensions batch x tokens x heads x dim.
template <TensorLike Tensor>
auto as_score_tensor(const Tensor& tensor, std::optional<Index> first_q_position) {
  if constexpr (tensor_view<Tensor>::value) {
    using T = std::remove_const_t<typename Tensor::value_type>;
    return ScoreTensor<T>(tensor.data, {tensor.batch, tensor.tokens, tensor.heads, tensor.dim},
                          {tensor.batch_stride, tensor.token_stride, tensor.head_stride}, first_q_position);
  } else {
    using Traits = eigen_tensor<Tensor>;
    constexpr int rank = Traits::rank;
    static_assert(
        1 <= rank && rank <= 4,
        "gqa: a mask or bias tensor has rank 1 (keys), 2 (queries x keys), 3 (heads x queries x keys) "
        "or 4 (batch x heads x queries x keys)");
    std::array<Index, 4> sizes = {1, 1, 1, 1};
    for (int i = 0; i < rank; ++i) {
      const int axis = Traits::row_major ? i : rank - 1 - i;
      sizes[static_cast<std::size_t>(4 - rank + i)] =
          static_cast<Index>(tensor.dimensions()[static_cast<std::size_t>(axis)]);
    }
    using T = std::remove_const_t<typename Traits::scalar>;
    return ScoreTensor<T>(tensor.data(), {sizes[0], sizes[1], sizes[2], sizes[3]}, first_q_position);
  }
}

}  // namespace detail

}  // namespace gqa
