// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <span>
#include <vector>

#include "gqa/core/ragged.hpp"
#include "gqa/kv/contiguous.hpp"

namespace gqa {

/// A padded batch: tensors as long as the longest sequence, of which each sequence has a range of tokens. A
/// token's position is its column in the tensor; what lies outside a sequence's range is never read.
template <gqa::Scalar T>
class PaddedKV : public ContiguousKV<T> {
 public:
  PaddedKV(TensorView<const T> k, TensorView<const T> v, std::vector<Range> tokens)
      : ContiguousKV<T>(k, v), tokens_(std::move(tokens)), padded_tokens_(k.tokens) {
    GQA_CHECK(std::ssize(tokens_) == k.batch, std::invalid_argument,
              "padded: " << tokens_.size() << " lengths, expected one for each of the " << k.batch
                         << " sequences of k");
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const Range r = tokens_[i];
      GQA_CHECK(0 <= r.begin && r.begin <= r.end && r.end <= k.tokens, std::invalid_argument,
                "padded: sequence " << i << " has tokens " << r.begin << " to " << r.end
                                    << ", expected a range within 0 to the " << k.tokens << " tokens of k");
    }
  }

  Range retained(Index seq) const { return tokens_[static_cast<std::size_t>(seq)]; }
  /// How many keys a row of a mask or bias tensor over all sequences has.
  Index padded_tokens() const { return padded_tokens_; }

 private:
  std::vector<Range> tokens_;
  Index padded_tokens_;
};

namespace detail {

template <class K, class V>
auto padded_kv(const K& k, const V& v, std::vector<Range> tokens) {
  using T = TensorScalar<const K>;
  static_assert(std::is_same_v<T, TensorScalar<const V>>, "gqa: k and v hold the same type");
  return PaddedKV<T>(as_view(k), as_view(v), std::move(tokens));
}

}  // namespace detail

/// Keys and values, batch x tokens x G x dim, of which sequence i has the first `lengths[i]` tokens (true
/// lengths: `nonpad_kv_seqlen` of ONNX, `seqlens_k` + 1 of ONNX Runtime): what attention() takes in place of
/// k and v. Its last query sits on its own last key unless options say otherwise; a prefill that is padded in
/// the same way has `q_offset = 0`. Refers to the tensors. Throws std::invalid_argument for another number of
/// lengths, or one beyond the tensors.
template <TensorLike K, TensorLike V>
auto padded(K&& k, V&& v, std::span<const Index> lengths) requires(!detail::TemporaryTensor<K> &&
                                                                   !detail::TemporaryTensor<V>) {
  std::vector<Range> tokens;
  for (const Index length : lengths) tokens.push_back({0, length});
  return detail::padded_kv(k, v, std::move(tokens));
}

/// The same for sequences that end where the tensors do, as generation with left padding has them: sequence i
/// is the last `lengths[i]` tokens.
template <TensorLike K, TensorLike V>
auto left_padded(K&& k, V&& v, std::span<const Index> lengths) requires(!detail::TemporaryTensor<K> &&
                                                                        !detail::TemporaryTensor<V>) {
  const Index end = as_view(k).tokens;
  std::vector<Range> tokens;
  for (const Index length : lengths) {
    GQA_CHECK(length >= 0 && length <= end, std::invalid_argument,
              "padded: a length is " << length << ", expected 0 to the " << end << " tokens of k");
    tokens.push_back({end - length, end});
  }
  return detail::padded_kv(k, v, std::move(tokens));
}

template <class K, class V>
requires detail::TemporaryTensor<K> || detail::TemporaryTensor<V>
void padded(K&&, V&&, std::span<const Index>) = delete;
template <class K, class V>
requires detail::TemporaryTensor<K> || detail::TemporaryTensor<V>
void left_padded(K&&, V&&, std::span<const Index>) = delete;

}  // namespace gqa
