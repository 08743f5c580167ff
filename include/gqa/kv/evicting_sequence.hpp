// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "gqa/kv/kept_slots.hpp"
#include "gqa/kv/paged_sequence.hpp"

namespace gqa {

/// A sequence of a PagedCache of which each KV head of each layer keeps its own choice, as in an
/// EvictingCache: all heads of all layers keep equally many, so that one page table serves them all, and the
/// pages of what is not kept are there for other sequences.
///
///     gqa::EvictingSequence sequence(pool.sequence(pool.create()));
///
/// Spans and size() count all tokens there have been; attention sees slots: what EvictingCache says of both
/// holds here. The sequence is to be changed through this alone; once evicted from, it cannot be published.
/// Others that share its pages (forks, and whoever finds what it published) keep all of their tokens.
///
/// Every operation either happens or throws and leaves the cache as it was. Views from before an eviction
/// throw std::invalid_argument from then on; reading one while evict() runs is a race, as while any cache is
/// written.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class EvictingSequence {
 public:
  using Scalar = T;
  using View = PagedView<T, G, D>;

  /// Takes a sequence with all its tokens. Throws std::invalid_argument where some were evicted: whoever did
  /// that knows which.
  explicit EvictingSequence(PagedSequence<T, G, D, Dv> sequence)
      : sequence_(std::move(sequence)),
        kept_(static_cast<std::size_t>(sequence_.num_layers())),
        seen_(sequence_.size()) {
    GQA_CHECK(!sequence_.evicted(), std::invalid_argument,
              "sequence: tokens of sequence " << id().value << " were evicted, expected all of them");
  }

  SequenceId id() const { return sequence_.id(); }

  /// Makes room for n more tokens in every layer. Throws std::length_error where the pool has not enough
  /// pages: evict some before.
  Span extend(Index n) {
    sequence_.extend(n);
    seen_ += n;
    return {{seen_ - n, seen_}, epoch_};
  }

  /// Stores the keys and values of a span's tokens in one layer. Throws as PagedCache::write.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    kept_[0].check_span(span, epoch_, seen_);
    sequence_.write(layer, Span{kept_[0].slots_of(span.positions), sequence_.extend(0).epoch}, k, v);
  }

  /// Keeps some slots, `kept[layer][kv_head]` in ascending order, as many for each head and layer: what
  /// heavy_hitters(), snap_slots() or sinks_and_recent() give for each layer. The pages of the others go back
  /// to the pool. Throws std::invalid_argument for none, slots that are not there or not in order, numbers
  /// that differ, and in the middle of a pass; std::length_error where the kept tokens stood in pages that
  /// others see and the pool has none for them; std::bad_alloc.
  void evict(std::span<const std::vector<std::vector<Index>>> kept) {
    std::vector<detail::KeptSlots> next;
    detail::checked_kept(kept, num_layers(), num_kv_heads(), slots());
    for (std::size_t i = 0; i < kept.size(); ++i) next.push_back(kept_[i].after(kept[i], seen_));
    sequence_.evict(kept);
    kept_ = std::move(next);
  }

  /// The position of the token in a slot. Throws std::out_of_range.
  Index position(Index layer, Index kv_head, Index slot) const {
    detail::check_layer(layer, num_layers());
    detail::check_slot(kv_head, num_kv_heads(), slot, slots());
    return kept_[static_cast<std::size_t>(layer)].position(kv_head, slot);
  }
  /// How many tokens each layer holds.
  Index slots() const { return sequence_.size(); }

  /// The same as every cache has it, of tokens that no eviction has seen: those before may be gone.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    GQA_CHECK(positions.begin >= first_late(), std::invalid_argument,
              "read: tokens from " << positions.begin << " on, expected those from " << first_late()
                                   << " on, where some were last evicted");
    sequence_.read(layer, kept_[0].slots_of(positions), k, v);
  }
  View layer(Index i) const { return sequence_.layer(i); }

  /// Forgets all but the first n tokens there have been, those that no eviction has seen or all. Throws
  /// std::invalid_argument for others: oldest_truncation() says how far back it goes.
  void truncate(Index n) {
    detail::check_truncation(n, seen_, oldest_truncation());
    if (n == 0) return clear();
    if (n == seen_) return;
    sequence_.truncate(n - kept_[0].evicted());
    seen_ = n;
    epoch_ = detail::next_epoch();
  }
  Index oldest_truncation() const { return first_late(); }
  /// Forgets every token and gives its pages back.
  void clear() {
    sequence_.clear();
    kept_.assign(kept_.size(), {});
    seen_ = 0;
    epoch_ = detail::next_epoch();
  }

  Index size() const { return seen_; }
  /// Tokens there may have been where nobody else has pages.
  Index capacity() const { return seen_ + sequence_.capacity() - sequence_.size(); }
  Index num_layers() const { return sequence_.num_layers(); }
  Index num_kv_heads() const { return sequence_.num_kv_heads(); }
  Index head_dim() const { return sequence_.head_dim(); }
  Index value_dim() const { return sequence_.value_dim(); }
  /// What the tokens that are held take.
  Index bytes() const { return sequence_.bytes(); }
  /// Of its pages, whoever else has them.
  Index allocated_bytes() const { return sequence_.allocated_bytes(); }

 private:
  Index first_late() const { return kept_[0].first_late; }

  PagedSequence<T, G, D, Dv> sequence_;
  std::vector<detail::KeptSlots> kept_;  // of each layer
  Index seen_;
  std::uint64_t epoch_ = detail::next_epoch();
};

}  // namespace gqa
