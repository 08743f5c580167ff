// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/kv_list.hpp"
#include "gqa/kv/page_sharing.hpp"
#include "gqa/kv/paged_sequence.hpp"
#include "gqa/kv/paged_view.hpp"
#include "gqa/kv/state_owner.hpp"
#include "gqa/kv/swap.hpp"

namespace gqa {

/// The keys and values of many sequences in a pool of fixed memory (Kwon et al. 2023): a sequence has pages
/// of page_tokens tokens, the same in all layers, and sequences that begin alike share them.
///
/// One pass of a model: `extend(id, n)` for each sequence, then for each layer `write(layer, id, span, k, v)`
/// and attention over `layer(i, id)` or, for many at once, `layer(i, ids)`. Attention gives the same bits as
/// with any other cache.
///
/// Sharing: `fork` makes a sequence that has another's tokens, without copying; `create(ids)` one that has
/// what others published of the same tokens. A page that somebody else sees is copied before it is written
/// to, in extend(). Pages change hands between passes only: when what was extended is written in all layers.
///
/// Tokens that are worth less than their memory are evicted from a sequence by an EvictingSequence.
///
/// Every operation either happens or throws and leaves the cache as it was: std::out_of_range for sequences
/// that are not, or no longer, there, std::length_error for a full pool, std::invalid_argument for the rest.
/// Threads: operations on different sequences may run at the same time, also those that share pages; those on
/// one sequence, and reading it while it is written, may not.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class PagedCache : detail::StateOwner<detail::PagedState<T>> {
  using State = detail::PagedState<T>;
  using Owner = detail::StateOwner<State>;
  using SequenceState = detail::PagedSequenceState<T>;

 public:
  using Scalar = T;
  using View = PagedView<T, G, D>;

  struct Config {
    Index num_pages = 0;              ///< or as many as fit in memory_limit
    Index memory_limit = 0;           ///< bytes; 0: as num_pages says
    Index page_tokens = 64;           ///< a multiple of 64
    Index max_tokens = max_position;  ///< of a sequence
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;  ///< head_dim where it is left Dynamic
  };

  /// A sequence that begins with tokens that were there already.
  struct Match {
    SequenceId id;
    Index tokens = 0;  ///< so many of them
  };

  /// Takes all memory at once (which the system places when it is touched). Throws std::invalid_argument,
  /// std::length_error for sizes that overflow, std::bad_alloc.
  explicit PagedCache(const Config& config) : Owner(make_state(config)) {}

  /// A sequence of no tokens.
  SequenceId create() {
    State& s = state("create");
    auto sequence = s.make_sequence();
    const std::lock_guard lock(s.mutex);
    const SequenceId id = sequence->id;
    s.add(std::move(sequence));
    return id;
  }

  /// A sequence that has as many of the first `ids` as have been published: whole pages shared, and of one
  /// more a copy of the part that is the same. Leave out the tokens whose queries you need anyway.
  Match create(std::span<const TokenId> ids) {
    State& s = state("create");
    auto sequence = s.make_sequence();
    sequence->pages.reserve(ids.size() / static_cast<std::size_t>(s.page_tokens()) + 1);
    const std::lock_guard lock(s.mutex);
    s.sequences.reserve(s.sequences.size() + 1);
    const SequenceId id = sequence->id;
    s.add(sequence);
    const Index tokens = detail::take_prefix(s, *sequence, ids);
    return {id, tokens};
  }

  /// Says which token ids a sequence's first tokens are, so that create(ids) finds them: as many whole pages
  /// as the ids fill. They stay findable when nobody holds them, until their memory is wanted; those let go
  /// first are overwritten first. Throws where there are more ids than tokens, or in the middle of a pass.
  void publish(SequenceId id, std::span<const TokenId> ids) {
    State& s = state("publish");
    const std::lock_guard lock(s.mutex);
    detail::publish(s, *s.at_locked(id), ids);
  }

  /// Makes room for n more tokens of a sequence in every layer; they are there once they are written. Throws
  /// std::length_error beyond max_tokens or where the pool has not enough pages, not even kept ones.
  Span extend(SequenceId id, Index n) {
    State& s = state("extend");
    return s.extend(*s.at(id), n);
  }

  /// Stores the keys (tokens x G x D) and values (tokens x G x Dv) of a span's tokens in one layer, each the
  /// nearest T. Finding the sequence takes the cache's lock for a moment; sequence(id) finds it once.
  template <TensorLike K, TensorLike V>
  void write(Index layer, SequenceId id, const Span& span, const K& k, const V& v) {
    State& s = state("write");
    s.write(*s.at(id), layer, span, as_view(k), as_view(v));
  }

  /// Copies the tokens at `positions` of one layer to k (tokens x G x D) and v (tokens x G x Dv), each
  /// element the nearest of the caller's type, and to the bit where that is T.
  template <TensorLike K, TensorLike V>
  void read(Index layer, SequenceId id, Range positions, K&& k, V&& v) const {
    const State& s = state("read");
    s.read(*s.at(id), layer, positions, detail::as_output(k), detail::as_output(v));
  }

  /// One layer of one sequence, for attention to read.
  View layer(Index i, SequenceId id) const {
    const State& s = state("layer");
    auto sequence = s.at(id);
    sequence->sequence.check_layer(i);
    return View(state_, std::move(sequence), i);
  }
  /// One layer of several sequences, in the order given.
  KVList<View> layer(Index i, std::span<const SequenceId> ids) const {
    std::vector<View> views;
    views.reserve(ids.size());
    for (const SequenceId id : ids) views.push_back(layer(i, id));
    return KVList<View>(std::move(views));
  }

  /// A sequence as a cache of its own.
  PagedSequence<T, G, D, Dv> sequence(SequenceId id) {
    State& s = state("sequence");
    return {state_, s.at(id)};
  }

  /// Forgets all but the first n tokens of a sequence, in every layer, and lets go of their pages.
  void truncate(SequenceId id, Index n) {
    State& s = state("truncate");
    s.truncate(*s.at(id), n);
  }

  /// A new sequence that has the tokens of another, without copying any. Throws in the middle of a pass.
  SequenceId fork(SequenceId id) {
    State& s = state("fork");
    auto child = s.make_sequence();
    const std::lock_guard lock(s.mutex);
    const SequenceId child_id = child->id;
    SequenceState& parent = *s.at_locked(id);
    parent.check_between_passes("fork");
    child->pages.reserve(parent.pages.size());
    s.add(child);
    detail::share(s, parent, *child);
    return child_id;
  }

  /// Sequence ids[i] goes on as ids[parents[i]] is now, for all i at once and without copying: what a beam
  /// search does with each step. Ids and views stay. Throws std::invalid_argument where the parents are not
  /// as many as the ids or not among them, for an id that is given twice, and in the middle of a pass.
  void reorder(std::span<const SequenceId> ids, std::span<const Index> parents) {
    State& s = state("reorder");
    const std::lock_guard lock(s.mutex);
    detail::reorder(s, ids, parents);
  }

  /// Ends a sequence and lets go of its pages. Its views throw from now on.
  void free(SequenceId id) {
    State& s = state("free");
    const std::lock_guard lock(s.mutex);
    const auto sequence = s.at_locked(id);
    s.close(*sequence);
    s.sequences.erase(id.value);
  }

  /// Ends all sequences and forgets what is kept.
  void clear() {
    if (state_ != nullptr) state_->close();
  }

  /// Bytes that swap_out() of a sequence writes.
  Index swap_bytes(SequenceId id) const {
    const State& s = state("swap_bytes");
    return detail::swap_bytes(s, *s.at(id));
  }
  /// Copies a sequence to the caller's memory and lets go of its pages. Until swap_in() it has its lengths
  /// and nothing else: what needs its tokens throws. Throws std::length_error where swap_bytes() do not fit,
  /// std::invalid_argument in the middle of a pass.
  void swap_out(SequenceId id, std::span<std::byte> to) {
    State& s = state("swap_out");
    detail::swap_out(s, *s.at(id), to);
  }
  /// Takes a sequence back from what its last swap_out() wrote, to the same bits. Throws std::length_error
  /// where the pool has not enough pages, format_error where the memory does not begin as that one began.
  void swap_in(SequenceId id, std::span<const std::byte> from) {
    State& s = state("swap_in");
    detail::swap_in(s, *s.at(id), from);
  }
  bool swapped_out(SequenceId id) const { return state("swapped_out").at(id)->swapped_out; }

  bool contains(SequenceId id) const {
    if (state_ == nullptr) return false;
    const std::lock_guard lock(state_->mutex);
    return state_->sequences.contains(id.value);
  }
  /// Tokens of a sequence.
  Index size(SequenceId id) const { return state("size").at(id)->sequence.size(); }
  Index num_sequences() const {
    if (state_ == nullptr) return 0;
    const std::lock_guard lock(state_->mutex);
    return static_cast<Index>(state_->sequences.size());
  }

  Index page_tokens() const { return state_ == nullptr ? 0 : state_->page_tokens(); }
  Index num_layers() const { return shape().num_layers; }
  Index num_kv_heads() const { return shape().num_kv_heads; }
  Index head_dim() const { return shape().head_dim; }
  Index value_dim() const { return shape().value_dim; }

  PageStatistics statistics() const {
    if (state_ == nullptr) return {};
    const std::lock_guard lock(state_->mutex);
    return state_->pool.statistics();
  }
  /// What one token takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const { return state_ == nullptr ? 0 : state_->pool.bytes_per_token(); }
  /// What the tokens of all sequences take, those that are shared once.
  Index bytes() const { return tokens_held() * bytes_per_token(); }
  /// The pool.
  Index allocated_bytes() const { return state_ == nullptr ? 0 : state_->pool.bytes(); }
  /// Of the pages that sequences hold, what holds no token.
  Index padding_bytes() const {
    return state_ == nullptr ? 0 : statistics().used * state_->pool.page_bytes() - bytes();
  }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    if (state_ == nullptr) return sizeof *this;
    const std::lock_guard lock(state_->mutex);
    Index bytes = Index{sizeof *this} + Index{sizeof(State)} + state_->pool.bookkeeping_bytes();
    for (const auto& [id, sequence] : state_->sequences)
      bytes += Index{sizeof(SequenceState)} + sequence->sequence.bytes() +
               static_cast<Index>(sequence->pages.capacity() * sizeof(Index));
    return bytes;
  }

 private:
  using Owner::state;
  using Owner::state_;

  static std::shared_ptr<State> make_state(const Config& c) {
    const detail::CacheShape shape = detail::checked_shape<G, D, Dv>(c);
    const Index tiles = page_tiles(c.page_tokens);
    const Index page_bytes = detail::PageLayout<T>(shape, tiles).bytes();
    GQA_CHECK(c.max_tokens >= 0 && c.max_tokens <= max_position, std::invalid_argument,
              "max_tokens is " << c.max_tokens << ", expected 0 to " << max_position);
    GQA_CHECK(c.num_pages >= 0 && c.memory_limit >= 0, std::invalid_argument,
              "num_pages is " << c.num_pages << " and memory_limit " << c.memory_limit
                              << ", expected none to be negative");
    Index pages = c.num_pages;
    if (c.memory_limit > 0) {
      const Index fit = c.memory_limit / page_bytes;
      GQA_CHECK(pages <= fit, std::invalid_argument,
                "num_pages is " << pages << ", expected at most the " << fit << " that fit in memory_limit");
      if (pages == 0) pages = fit;
    }
    GQA_CHECK(pages > 0, std::invalid_argument,
              "num_pages is " << pages << ", expected at least 1 page of " << page_bytes << " bytes");
    checked_mul(page_bytes, pages, "num_pages");
    return std::make_shared<State>(shape, pages, tiles, c.max_tokens);
  }
  static Index page_tiles(Index page_tokens) {
    GQA_CHECK(page_tokens > 0 && page_tokens % tile_keys == 0, std::invalid_argument,
              "page_tokens is " << page_tokens << ", expected a multiple of " << tile_keys);
    return page_tokens / tile_keys;
  }

  detail::CacheShape shape() const {
    return state_ == nullptr ? detail::CacheShape{.num_layers = 0} : state_->pool.shape();
  }
  Index tokens_held() const {
    if (state_ == nullptr) return 0;
    const std::lock_guard lock(state_->mutex);
    return detail::tokens_held(*state_);
  }
};

}  // namespace gqa
