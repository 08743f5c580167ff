// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/paged_view.hpp"

namespace gqa {

/// One sequence of a PagedCache as a cache of its own, for code that takes any Cache. It refers to the
/// sequence and does not end it; when the sequence or the cache is gone, what needs them throws
/// std::out_of_range.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class PagedSequence {
 public:
  using Scalar = T;
  using View = PagedView<T, G, D>;

  PagedSequence(std::shared_ptr<detail::PagedState<T>> state,
                std::shared_ptr<detail::PagedSequenceState<T>> sequence)
      : state_(std::move(state)), sequence_(std::move(sequence)) {}

  SequenceId id() const { return sequence_->id; }

  Span extend(Index n) { return state_->extend(open(), n); }

  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    state_->write(open(), layer, span, as_view(k), as_view(v));
  }

  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    state_->read(open(), layer, positions, as_view(k), as_view(v));
  }

  View layer(Index i) const {
    open().sequence.check_layer(i);
    return View(state_, sequence_, i);
  }

  void truncate(Index n) { state_->truncate(open(), n); }

  /// Forgets every token; views are to be taken anew.
  void clear() {
    auto& s = open();
    const std::lock_guard lock(state_->mutex);
    state_->release_pages(s, 0);
    s.tokens_for_others = 0;
    s.swapped_out = false;
    s.sequence.clear();
  }

  Index size() const { return sequence_->sequence.size(); }
  /// Tokens it may have where nobody else has pages.
  Index capacity() const {
    return std::min(state_->max_tokens, state_->pool.num_pages() * state_->page_tokens());
  }
  Index num_layers() const { return shape().num_layers; }
  Index num_kv_heads() const { return shape().num_kv_heads; }
  Index head_dim() const { return shape().head_dim; }
  Index value_dim() const { return shape().value_dim; }
  Index bytes() const { return size() * state_->pool.bytes_per_token(); }
  /// Of its pages, whoever else has them.
  Index allocated_bytes() const {
    return static_cast<Index>(sequence_->pages.size()) * state_->pool.page_bytes();
  }

 private:
  const detail::CacheShape& shape() const { return state_->pool.shape(); }
  detail::PagedSequenceState<T>& open() const {
    GQA_CHECK(sequence_->sequence.view_epoch() != 0, std::out_of_range,
              "sequence " << sequence_->id.value << " is not, or no longer, in the cache");
    return *sequence_;
  }

  std::shared_ptr<detail::PagedState<T>> state_;
  std::shared_ptr<detail::PagedSequenceState<T>> sequence_;
};

}  // namespace gqa
