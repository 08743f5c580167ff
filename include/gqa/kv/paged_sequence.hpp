// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/page_eviction.hpp"
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
    state_->read(open(), layer, positions, detail::as_output(k), detail::as_output(v));
  }

  View layer(Index i) const {
    open().sequence.check_layer(i);
    return View(state_, sequence_, i);
  }

  void truncate(Index n) { state_->truncate(open(), n); }

  /// Keeps some tokens, `kept[layer][kv_head]` those of a head in ascending order, as many everywhere, in
  /// front and without gaps, and gives the pages of the others back: positions count those that are left from
  /// then on. An EvictingSequence remembers what they were, says what is thrown, and is what to use.
  void evict(std::span<const std::vector<std::vector<Index>>> kept) { detail::evict(*state_, open(), kept); }

  /// Forgets every token; views are to be taken anew.
  void clear() {
    auto& s = open();
    const std::lock_guard lock(state_->mutex);
    state_->release_pages(s, 0);
    s.tokens_for_others = 0;
    s.swapped_out = false;
    s.evicted = false;
    s.sequence.clear();
  }

  /// Whether its tokens are what evict() left, and so not to be published.
  bool evicted() const { return open().evicted; }

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
  friend struct detail::CacheBlocks<PagedSequence>;

  const detail::CacheShape& shape() const { return state_->pool.shape(); }
  detail::PagedSequenceState<T>& open() const {
    GQA_CHECK(sequence_->sequence.view_epoch() != 0, std::out_of_range,
              "sequence " << sequence_->id.value << " is not, or no longer, in the cache");
    return *sequence_;
  }

  std::shared_ptr<detail::PagedState<T>> state_;
  std::shared_ptr<detail::PagedSequenceState<T>> sequence_;
};

template <Scalar T, Index G, Index D, Index Dv>
struct detail::CacheBlocks<PagedSequence<T, G, D, Dv>> {
  using Cache = PagedSequence<T, G, D, Dv>;
  using Scalar = T;

  static Index num_layers(const Cache& c) { return c.shape().num_layers; }
  static LayerShape shape(const Cache& c, Index) { return layer_shape(c.shape()); }
  static Ranges retained(const Cache& c, Index layer) {
    c.open().check_resident("packing");
    return Range{0, c.sequence_->sequence.written(layer)};
  }
  static PackedBlock<T> block_at(const Cache& c, Index layer, Index head, Index tile) {
    return c.state_->block_at(*c.sequence_, layer, head, tile);
  }

  /// Pages that go back to the pool unless they are adopted.
  struct Staged {
    std::shared_ptr<PagedState<T>> state;
    PagedSequenceState<T> sequence;

    Staged(std::shared_ptr<PagedState<T>> of, Index num_layers)
        : state(std::move(of)), sequence({}, 0, num_layers) {}
    Staged(const Staged&) = delete;
    Staged& operator=(const Staged&) = delete;
    Staged(Staged&&) = default;
    ~Staged() {
      if (state == nullptr) return;
      const std::lock_guard lock(state->mutex);
      state->release_pages(sequence, 0);
    }
  };
  static Staged stage(const Cache& c, std::span<const Ranges> retained) {
    c.open();
    const Index tokens = tokens_of(retained);
    for (std::size_t layer = 0; layer < retained.size(); ++layer)
      GQA_CHECK(retained[layer] == Ranges(Range{0, tokens}), format_error,
                "layer " << layer << " retains " << retained[layer].positions() << " tokens up to "
                         << retained[layer].hull().end << ", expected all " << tokens
                         << ", as in every layer of a sequence in pages");
    GQA_CHECK(tokens <= c.state_->max_tokens, std::length_error,
              "restore: " << tokens << " tokens, but a sequence has at most " << c.state_->max_tokens);
    Staged staged(c.state_, num_layers(c));
    const std::lock_guard lock(c.state_->mutex);
    c.state_->take_pages("restore", staged.sequence, ceil_div(tokens, c.state_->page_tokens()));
    return staged;
  }
  static PackedBlock<T> block_at(const Staged& staged, Index layer, Index head, Index tile) {
    return staged.state->block_at(staged.sequence, layer, head, tile);
  }
  static void adopt(Cache& c, Staged&& staged, std::span<const Ranges> retained) noexcept {
    PagedSequenceState<T>& s = *c.sequence_;
    const std::lock_guard lock(c.state_->mutex);
    c.state_->release_pages(s, 0);
    s.pages = std::move(staged.sequence.pages);
    staged.sequence.pages.clear();
    s.sequence.clear();
    s.sequence.set_written(tokens_of(retained));
    s.tokens_for_others = s.sequence.size();
    s.swapped_out = false;
    s.evicted = false;
  }
};

}  // namespace gqa
