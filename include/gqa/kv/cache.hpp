// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "gqa/core/tensor.hpp"
#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/cache_state.hpp"
#include "gqa/kv/state_owner.hpp"

namespace gqa {

/// The keys and values of one sequence for all layers of a model: G KV heads of D key and Dv value elements
/// of type T.
///
/// One pass of a model: `extend(n)` once, then for each layer `write(layer, span, k, v)` and attention over
/// `layer(i)`. Keys are kept dim-major in tiles of 64 tokens, values token-major, both in the element groups
/// the kernels read (see KVTile). Memory is taken 512 tokens at a time when they are reached, and never
/// moves.
///
/// Sizes given as Dynamic are taken from the Config. Every operation either happens or throws and leaves the
/// cache as it was. Not safe for concurrent writing; any number of threads may read.
///
/// Moving a cache takes its tokens, spans and views along: they go on without noticing. The cache moved from
/// is empty and of no size; what needs a layer or room in it throws std::invalid_argument until another cache
/// is assigned to it. A cache is copied by clone() alone.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class KVCache : detail::StateOwner<detail::CacheState<T>> {
  static_assert(G == Dynamic || G > 0, "gqa: num_kv_heads must be positive");
  static_assert(D == Dynamic || D > 0, "gqa: head_dim must be positive");
  static_assert(Dv == Dynamic || Dv > 0, "gqa: value_dim must be positive");

  using State = detail::CacheState<T>;
  using Owner = detail::StateOwner<State>;

 public:
  using Scalar = T;

  struct Config {
    Index max_tokens = 0;
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;    ///< head_dim where it is left Dynamic
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// What attention reads: one layer of a cache, as far as it has been written. It follows the cache through
  /// moves and sees it grow; after clear() it must be taken anew. Reading then throws std::invalid_argument,
  /// as it does when the cache is gone.
  class View {
   public:
    using Scalar = T;
    static constexpr Index static_num_kv_heads = G;
    static constexpr Index static_head_dim = D;

    Index num_seqs() const { return 1; }
    Index num_kv_heads() const { return state_->slabs.shape().num_kv_heads; }
    Index head_dim() const { return state_->slabs.shape().head_dim; }
    Index value_dim() const { return state_->slabs.shape().value_dim; }
    Index scratch_bytes() const { return 0; }

    Range retained(Index) const {
      check();
      return {0, state_->sequence.written(layer_)};
    }

    KVTile tile(Index, Index kv_head, Range want, void*) const {
      check();
      return state_->tile(layer_, kv_head, want);
    }

   private:
    friend class KVCache;
    View(std::shared_ptr<const State> state, Index layer)
        : state_(std::move(state)), layer_(layer), epoch_(state_->sequence.view_epoch()) {}

    void check() const {
      if (epoch_ != state_->sequence.view_epoch()) [[unlikely]]
        detail::refuse_view(state_->sequence.view_epoch(), layer_);
    }

    std::shared_ptr<const State> state_;
    Index layer_;
    std::uint64_t epoch_;
  };

  /// Takes no memory for tokens yet. Throws std::invalid_argument for a size that is missing, not positive or
  /// contradicts the template's, std::length_error where max_tokens of them overflow.
  explicit KVCache(const Config& config)
      : Owner(std::make_shared<State>(config.max_tokens, sizes(config))),
        memory_limit_(detail::checked_limit(config.memory_limit)) {}

  /// A second cache of the same sizes with the same tokens, as far as each layer is written. Spans and views
  /// stay those of the first: truncate the clone to what all layers have before you extend it, where it was
  /// taken between extend() and the last write(). Throws std::bad_alloc.
  KVCache clone() const {
    const State& from = state("clone");
    KVCache copy(std::make_shared<State>(from.sequence.max_tokens(), from.slabs.like()), memory_limit_);
    copy.state_->copy(from);
    return copy;
  }

  /// Makes room for n more tokens in every layer; they are there once they are written. Throws
  /// std::length_error beyond max_tokens or memory_limit, std::invalid_argument for a negative n,
  /// std::bad_alloc; nothing has changed then.
  Span extend(Index n) {
    State& s = state("extend");
    s.sequence.check_room(n);
    detail::check_limit("extend", s.allocated_with(n), memory_limit_);
    s.slabs.reserve(s.sequence.size() + n);
    return s.sequence.extend(n);
  }

  /// Stores the keys (tokens x G x D) and values (tokens x G x Dv) of a span's tokens in one layer, each the
  /// nearest T. Throws std::invalid_argument for wrong sizes, a span of another cache, one that was truncated
  /// away, or one that leaves a gap before it; std::out_of_range for an absent layer.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    State& s = state("write");
    const auto keys = as_view(k);
    const auto values = as_view(v);
    s.sequence.check_write(layer, span);
    detail::check_tokens(s.slabs.shape(), keys, values, span.size());
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    s.store(layer, span.positions, keys, values, kernels);
  }

  /// extend and write for a cache of one layer. Throws as they do, and std::invalid_argument for more layers.
  template <TensorLike K, TensorLike V>
  Span append(const K& k, const V& v) {
    State& s = state("append");
    GQA_CHECK(num_layers() == 1, std::invalid_argument,
              "append: num_layers is " << num_layers() << ", expected 1; use extend and write");
    const auto keys = as_view(k);
    const auto values = as_view(v);
    detail::check_tokens(s.slabs.shape(), keys, values, keys.tokens);
    s.sequence.check_room(keys.tokens);
    const Range positions = {s.sequence.size(), s.sequence.size() + keys.tokens};
    s.sequence.check_gap(0, positions);
    detail::check_limit("append", s.allocated_with(keys.tokens), memory_limit_);
    const auto& kernels = simd::kernels<T>(isa());
    s.slabs.reserve(positions.end);
    s.store(0, positions, keys, values, kernels);
    return s.sequence.extend(keys.tokens);
  }

  /// Copies the tokens at `positions` of one layer to k (tokens x G x D) and v (tokens x G x Dv), each
  /// element the nearest of the caller's type, and to the bit where that is T. Throws std::invalid_argument
  /// for wrong sizes and for positions that are not written, std::out_of_range for an absent layer.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    const State& s = state("read");
    const auto keys = detail::as_output(k);
    const auto values = detail::as_output(v);
    s.sequence.check_read(layer, positions);
    detail::check_tokens(s.slabs.shape(), keys, values, positions.size());
    s.read(layer, positions, keys, values);
  }

  /// One layer, for attention to read. Throws std::out_of_range.
  View layer(Index i) const {
    state("layer").sequence.check_layer(i);
    return View(state_, i);
  }

  /// Forgets all but the first n tokens, in every layer; their memory is kept for the next. Throws
  /// std::invalid_argument for a negative n or more tokens than there are.
  void truncate(Index n) {
    GQA_CHECK(n >= 0 && n <= size(), std::invalid_argument,
              "truncate: n is " << n << ", expected 0 to the " << size() << " tokens there are");
    if (state_ != nullptr) state_->truncate(n);
  }

  /// Forgets every token and gives the memory back.
  void clear() {
    if (state_ != nullptr) state_->clear();
  }

  Index size() const { return state_ == nullptr ? 0 : state_->sequence.size(); }
  Index capacity() const { return state_ == nullptr ? 0 : state_->sequence.max_tokens(); }
  Index num_layers() const { return state_ == nullptr ? 0 : state_->slabs.shape().num_layers; }
  Index num_kv_heads() const { return state_ == nullptr ? 0 : state_->slabs.shape().num_kv_heads; }
  Index head_dim() const { return state_ == nullptr ? 0 : state_->slabs.shape().head_dim; }
  Index value_dim() const { return state_ == nullptr ? 0 : state_->slabs.shape().value_dim; }

  /// What one token takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const { return state_ == nullptr ? 0 : state_->slabs.bytes_per_token(); }
  /// What the tokens there are take: size() * bytes_per_token().
  Index bytes() const { return size() * bytes_per_token(); }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const { return state_ == nullptr ? 0 : state_->slabs.allocated_bytes(); }
  /// Of that, what holds no token: room up to the next 512 tokens, and dims padded to whole vectors.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    Index bytes = sizeof *this;
    if (state_ != nullptr)
      bytes +=
          state_->slabs.bookkeeping_bytes() + static_cast<Index>(sizeof(State)) + state_->sequence.bytes();
    return bytes;
  }

 private:
  friend struct detail::CacheBlocks<KVCache>;

  using Owner::state;
  using Owner::state_;

  KVCache(std::shared_ptr<State> own, Index memory_limit)
      : Owner(std::move(own)), memory_limit_(memory_limit) {}

  static detail::Slabs<T> sizes(const Config& c) {
    const detail::CacheShape shape = detail::checked_shape<G, D, Dv>(c);
    GQA_CHECK(c.max_tokens >= 0, std::invalid_argument,
              "max_tokens is " << c.max_tokens << ", expected at least 0");
    return {shape, c.max_tokens};
  }

  Index memory_limit_ = 0;
};

template <Scalar T, Index G, Index D, Index Dv>
struct detail::CacheBlocks<KVCache<T, G, D, Dv>> {
  using Cache = KVCache<T, G, D, Dv>;
  using Scalar = T;

  static Index num_layers(const Cache& c) { return c.state("packing").slabs.shape().num_layers; }
  static LayerShape shape(const Cache& c, Index) { return layer_shape(c.state_->slabs.shape()); }
  static Ranges retained(const Cache& c, Index layer) { return Range{0, c.state_->sequence.written(layer)}; }
  static PackedBlock<T> block_at(const Cache& c, Index layer, Index head, Index tile) {
    return c.state_->slabs.block_at(layer, head, tile);
  }

  static Slabs<T> stage(const Cache& c, std::span<const Ranges> retained) {
    const Index tokens = tokens_of_each(retained, 1).front(), most = c.state_->sequence.max_tokens();
    GQA_CHECK(tokens <= most, std::length_error,
              "restore: " << tokens << " tokens, but the cache holds at most " << most);
    check_limit("restore", c.state_->slabs.bytes_for(tokens), c.memory_limit_);
    Slabs<T> staged = c.state_->slabs.like();
    staged.reserve(tokens);
    return staged;
  }
  static PackedBlock<T> block_at(const Slabs<T>& staged, Index layer, Index head, Index tile) {
    return staged.block_at(layer, head, tile);
  }
  static void adopt(Cache& c, Slabs<T>&& staged, std::span<const Ranges> retained) noexcept {
    c.state_->slabs = std::move(staged);
    c.state_->sequence.clear();
    for (std::size_t layer = 0; layer < retained.size(); ++layer)
      c.state_->sequence.set_written(static_cast<Index>(layer), retained[layer][0].end);
  }
};

}  // namespace gqa
