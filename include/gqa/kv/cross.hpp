// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "gqa/core/ragged.hpp"
#include "gqa/kv/batch_rows.hpp"
#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/cross_state.hpp"
#include "gqa/kv/state_owner.hpp"

namespace gqa {

/// The keys and values that cross attention reads: those of a batch of sequences an encoder made, in all
/// layers of the decoder, written once and read by every step. G KV heads of D key and Dv value elements of
/// type T.
///
///     CrossCache<half> cross({.tokens = {1500, 800}, .num_layers = 6, .num_kv_heads = 8, .head_dim = 64});
///     for each layer: cross.write(layer, k, v);                  // 2 x 1500 x 8 x 64, as padded
///     each step, each layer: attention(q, cross.layer(layer));   // queries of both
///
/// Each sequence takes whole tiles of 64 tokens when it is given its length, and no more. Positions count
/// from 0 in each. A sequence of no tokens has nothing to be written, and gives 0.
///
/// Sizes given as Dynamic are taken from the Config. Every operation either happens or throws and leaves the
/// cache as it was. Not safe for concurrent writing; any number of threads may read.
///
/// Moving a cache takes its tokens and views along, as with KVCache. It is copied by clone() alone.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class CrossCache : detail::StateOwner<detail::CrossState<T>> {
  static_assert(G == Dynamic || G > 0, "gqa: num_kv_heads must be positive");
  static_assert(D == Dynamic || D > 0, "gqa: head_dim must be positive");
  static_assert(Dv == Dynamic || Dv > 0, "gqa: value_dim must be positive");

  using State = detail::CrossState<T>;
  using Owner = detail::StateOwner<State>;

 public:
  using Scalar = T;

  struct Config {
    std::vector<Index> tokens;  ///< of each sequence
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;    ///< head_dim where it is left Dynamic
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// What attention reads: one layer of all sequences, once all of them are written. Until then, and after a
  /// reset() until they are again, reading throws std::invalid_argument naming one that is missing, as it
  /// does when the cache is gone.
  class View {
   public:
    using Scalar = T;
    static constexpr Index static_num_kv_heads = G;
    static constexpr Index static_head_dim = D;

    Index num_seqs() const { return state_->num_seqs(); }
    Index num_kv_heads() const { return state_->shape.num_kv_heads; }
    Index head_dim() const { return state_->shape.head_dim; }
    Index value_dim() const { return state_->shape.value_dim; }
    Index scratch_bytes() const { return 0; }

    Range retained(Index seq) const {
      state_->check_readable(layer_);
      return {0, state_->at(seq).tokens};
    }

    KVTile tile(Index seq, Index kv_head, Range want, void*) const {
      state_->check_readable(layer_);
      return state_->at(seq).tile(layer_, kv_head, want);
    }

   private:
    friend class CrossCache;
    View(std::shared_ptr<const State> state, Index layer) : state_(std::move(state)), layer_(layer) {}

    std::shared_ptr<const State> state_;
    Index layer_;
  };

  /// Takes the memory of all sequences. Throws std::invalid_argument for no sequences, a negative number of
  /// tokens and a size that is missing, not positive or contradicts the template's; std::length_error where
  /// they overflow or go beyond memory_limit; std::bad_alloc.
  explicit CrossCache(const Config& config)
      : Owner(std::make_shared<State>("tokens", detail::checked_shape<G, D, Dv>(config), config.tokens,
                                      detail::checked_limit(config.memory_limit))) {}

  /// A second cache with the same tokens, as far as they are written. Views stay those of the first. Throws
  /// std::bad_alloc.
  CrossCache clone() const { return CrossCache(std::make_shared<State>(state("clone").clone())); }

  /// Stores all keys (tokens x G x D) and values (tokens x G x Dv) of a sequence in one layer, each the
  /// nearest T. Throws std::invalid_argument for wrong sizes and where they are written already,
  /// std::out_of_range for an absent layer or sequence.
  template <TensorLike K, TensorLike V>
  void write(Index layer, Index seq, const K& k, const V& v) {
    State& s = state("write");
    s.check_layer(layer);
    s.check_seq("write", seq);
    s.check_unwritten(layer, seq);
    const auto keys = as_view(k);
    const auto values = as_view(v);
    detail::check_tokens(s.shape, keys, values, s.at(seq).tokens);
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    s.store(layer, seq, keys, values, kernels);
  }

  /// Stores those of all sequences in one layer, from k (batch x tokens x G x D) and v (batch x tokens x G x
  /// Dv) with as many tokens as the longest: of a shorter sequence the first are stored. Throws
  /// std::invalid_argument for wrong sizes and where one is written already, std::out_of_range for an absent
  /// layer.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const K& k, const V& v) {
    write_rows(layer, detail::BatchRows(as_view(k)), detail::BatchRows(as_view(v)));
  }

  /// The same from packed tensors, ragged(tensor, offsets), with exactly the tokens of each sequence.
  template <class TK, class TV>
  void write(Index layer, const Ragged<TK>& k, const Ragged<TV>& v) {
    write_rows(layer, detail::BatchRows(k), detail::BatchRows(v));
  }

  /// Copies the tokens at `positions` of one layer of a sequence to k (tokens x G x D) and v (tokens x G x
  /// Dv), as KVCache::read. Throws std::invalid_argument for wrong sizes and for positions that are not
  /// written, std::out_of_range for an absent layer or sequence.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Index seq, Range positions, K&& k, V&& v) const {
    const State& s = state("read");
    s.check_layer(layer);
    s.check_seq("read", seq);
    const auto keys = detail::as_output(k);
    const auto values = detail::as_output(v);
    const Index there = s.is_missing(layer, seq) ? 0 : s.at(seq).tokens;
    GQA_CHECK(positions.begin >= 0 && positions.begin <= positions.end && positions.end <= there,
              std::invalid_argument,
              "read: tokens " << positions.begin << " to " << positions.end << " are not among the " << there
                              << " written in layer " << layer << " of sequence " << seq);
    detail::check_tokens(s.shape, keys, values, positions.size());
    s.read(layer, seq, positions, keys, values);
  }

  /// Whether every layer of every sequence is written, so that each can be read.
  bool complete() const { return state("complete").is_complete(); }
  bool complete(Index layer) const {
    const State& s = state("complete");
    s.check_layer(layer);
    return s.is_complete(layer);
  }

  /// One layer of all sequences, for attention to read. Throws std::out_of_range.
  View layer(Index i) const {
    state("layer").check_layer(i);
    return View(state_, i);
  }

  /// Gives a sequence's place to one of n tokens, to be written in all layers. Throws std::out_of_range for a
  /// sequence there is none of, std::invalid_argument for a negative n, std::length_error where it overflows
  /// or goes beyond memory_limit, std::bad_alloc; nothing has changed then.
  void reset(Index seq, Index n) {
    State& s = state("reset");
    s.check_seq("reset", seq);
    s.reset(seq, n);
  }
  /// Forgets every sequence and gives the memory back: each has no tokens until reset().
  void clear() {
    if (state_ != nullptr) state_->clear();
  }

  Index num_seqs() const { return state_ == nullptr ? 0 : state_->num_seqs(); }
  /// The tokens of a sequence, written or not. Throws std::out_of_range.
  Index size(Index seq) const {
    const State& s = state("size");
    s.check_seq("size", seq);
    return s.at(seq).tokens;
  }
  Index num_layers() const { return state_ == nullptr ? 0 : state_->shape.num_layers; }
  Index num_kv_heads() const { return state_ == nullptr ? 0 : state_->shape.num_kv_heads; }
  Index head_dim() const { return state_ == nullptr ? 0 : state_->shape.head_dim; }
  Index value_dim() const { return state_ == nullptr ? 0 : state_->shape.value_dim; }

  /// What one token takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const {
    return state_ == nullptr ? 0 : state_->shape.elements_per_token() * Index{sizeof(T)};
  }
  /// What the tokens of all sequences take.
  Index bytes() const { return state_ == nullptr ? 0 : state_->tokens() * bytes_per_token(); }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const { return state_ == nullptr ? 0 : state_->allocated_bytes(); }
  /// Of that, what holds no token: room up to whole tiles of 64, and dims padded to whole vectors.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    return Index{sizeof *this} + (state_ == nullptr ? 0 : state_->bookkeeping_bytes());
  }

 private:
  friend struct detail::CacheBlocks<CrossCache>;

  using Owner::state;
  using Owner::state_;

  explicit CrossCache(std::shared_ptr<State> own) : Owner(std::move(own)) {}

  template <class TK, class TV>
  void write_rows(Index layer, const detail::BatchRows<TK>& k, const detail::BatchRows<TV>& v) {
    State& s = state("write");
    s.check_layer(layer);
    for (Index seq = 0; seq < s.num_seqs(); ++seq) s.check_unwritten(layer, seq);
    const auto tokens = [&](Index seq) { return s.at(seq).tokens; };
    k.check("k", s.num_seqs(), tokens, s.shape.num_kv_heads, s.shape.head_dim);
    v.check("v", s.num_seqs(), tokens, s.shape.num_kv_heads, s.shape.value_dim);
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    for (Index seq = 0; seq < s.num_seqs(); ++seq)
      s.store(layer, seq, k.of(seq, tokens(seq)), v.of(seq, tokens(seq)), kernels);
  }
};

/// Of a cache that is complete: how long a sequence is of which nothing is written, no range says.
template <Scalar T, Index G, Index D, Index Dv>
struct detail::CacheBlocks<CrossCache<T, G, D, Dv>> {
  using Cache = CrossCache<T, G, D, Dv>;
  using Scalar = T;
  using Staged = CrossState<T>;

  static Index num_layers(const Cache& c) { return c.state("packing").shape.num_layers; }
  static Index num_seqs(const Cache& c) { return c.state("packing").num_seqs(); }
  static LayerShape shape(const Cache& c, Index) { return layer_shape(c.state_->shape); }
  static Ranges retained(const Cache& c, Index section) {
    const CrossState<T>& s = *c.state_;
    const Index layer = section / s.num_seqs(), seq = section % s.num_seqs();
    GQA_CHECK(!s.is_missing(layer, seq), std::invalid_argument,
              "packing: layer " << layer << " of sequence " << seq << " is not written yet");
    return Range{0, s.at(seq).tokens};
  }
  static PackedBlock<T> block_at(const Cache& c, Index section, Index head, Index tile) {
    return block_at(*c.state_, section, head, tile);
  }

  static Staged stage(const Cache& c, std::span<const Ranges> retained) {
    const std::vector<Index> tokens = tokens_of_each(retained, c.state_->num_seqs());
    for (std::size_t i = 0; i < retained.size(); ++i)
      GQA_CHECK(retained[i][0].end == tokens[i % tokens.size()], format_error,
                section_name(static_cast<Index>(i), std::ssize(tokens))
                    << " has " << retained[i][0].end << " tokens, expected the " << tokens[i % tokens.size()]
                    << " that the sequence has in other layers");
    Staged staged("restore", c.state_->shape, tokens, c.state_->memory_limit);
    staged.note_all_written();
    return staged;
  }
  static PackedBlock<T> block_at(const Staged& s, Index section, Index head, Index tile) {
    return s.at(section % s.num_seqs()).block_at(section / s.num_seqs(), head, tile);
  }
  static void adopt(Cache& c, Staged&& staged, std::span<const Ranges>) noexcept {
    *c.state_ = std::move(staged);
  }
};

}  // namespace gqa
