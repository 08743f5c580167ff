// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/cache_shape.hpp"
#include "gqa/kv/read_tokens.hpp"
#include "gqa/kv/row_converter.hpp"
#include "gqa/kv/state_owner.hpp"

namespace gqa {

namespace detail {

/// The rows of one sequence in all layers, a row a token, side by side: memory is taken a slab of 512 tokens
/// at a time, [layer][token][dim], and never moves. Checks nothing that is asked of it.
template <Scalar T>
struct LatentState {
  static constexpr Index slab_tokens = 512;  // as Slabs

  Index num_layers, latent_dim, dim;  // dim: latent and rotated key
  Sequence sequence;
  std::vector<AlignedArray<T>> slabs;

  /// Throws std::length_error where the sizes overflow.
  LatentState(Index layers, Index latent, Index rope, Index max_tokens)
      : num_layers(layers),
        latent_dim(latent),
        dim(checked_add(latent, rope, "cache")),
        sequence(max_tokens, layers) {
    checked_mul(checked_mul(checked_mul(layers, dim, "cache"), sizeof(T), "cache"),
                checked_add(max_tokens, slab_tokens, "max_tokens"), "max_tokens");
  }

  Index bytes_per_token() const { return num_layers * dim * Index{sizeof(T)}; }
  Index slab_bytes() const { return slab_tokens * bytes_per_token(); }
  Index bytes_for(Index tokens) const { return ceil_div(tokens, slab_tokens) * slab_bytes(); }
  Index allocated_bytes() const { return std::ssize(slabs) * slab_bytes(); }

  T* row(Index layer, Index token) const {
    T* const slab = slabs[static_cast<std::size_t>(token / slab_tokens)].get();
    return slab + (layer * slab_tokens + token % slab_tokens) * dim;
  }

  /// Room for this many tokens in all. Throws std::bad_alloc; nothing has changed then.
  void reserve(Index tokens) {
    const auto wanted = static_cast<std::size_t>(ceil_div(tokens, slab_tokens));
    if (wanted <= slabs.size()) return;
    slabs.reserve(wanted);
    std::vector<AlignedArray<T>> more;
    for (std::size_t i = slabs.size(); i < wanted; ++i)
      more.push_back(allocate_aligned<T>(static_cast<std::size_t>(slab_bytes())));
    for (auto& slab : more) slabs.push_back(std::move(slab));
  }

  KVTile tile(Index layer, Range want) const {
    const TileSide both = tile_side(static_cast<const T*>(row(layer, want.begin)), dim);
    return {.k = both, .v = both, .size = want.size(), .layout = TileLayout::token_major};
  }

  void copy(const LatentState& other) {
    reserve(other.sequence.size());
    for (std::size_t i = 0; i < slabs.size(); ++i)
      std::memcpy(static_cast<void*>(slabs[i].get()), static_cast<const void*>(other.slabs[i].get()),
                  static_cast<std::size_t>(slab_bytes()));
    sequence.copy_lengths(other.sequence);
  }

  void clear() noexcept {
    slabs = std::vector<AlignedArray<T>>();
    sequence.clear();
  }
  void close() noexcept {
    clear();
    sequence.close();
  }
};

}  // namespace detail

/// What multi-head latent attention keeps of one sequence for all layers of a model (DeepSeek-V2, arXiv
/// 2405.04434): a row a token and layer, its normalised latent of `latent_dim` elements and behind it the
/// rotated key of `rope_dim` that all heads share. Attention over `layer(i)` sees one KV head whose keys are
/// the rows and whose values are the latents, the same memory:
///
///     head_dim = latent_dim + rope_dim,  value_dim = latent_dim,
///     bytes()  = layers * (latent_dim + rope_dim) * tokens * sizeof(T)
///
/// One pass of a model: `extend(n)` once, then for each layer `write(layer, span, rows)` and attention over
/// `layer(i)`; LatentAttention does both. Memory is taken 512 tokens at a time when they are reached, and
/// never moves; nothing is padded but the last of those.
///
/// Every operation either happens or throws and leaves the cache as it was. Not safe for concurrent writing;
/// any number of threads may read. Moves as KVCache does; copied by clone() alone.
template <gqa::Scalar T>
class LatentCache : detail::StateOwner<detail::LatentState<T>> {
  using State = detail::LatentState<T>;
  using Owner = detail::StateOwner<State>;

 public:
  using Scalar = T;

  struct Config {
    Index max_tokens = 0;
    Index num_layers = 1;
    Index latent_dim = 0;    ///< kv_lora_rank
    Index rope_dim = 0;      ///< qk_rope_head_dim; 0 where no part of a key is rotated
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// What attention reads: one layer of a cache, as far as it has been written. It follows the cache through
  /// moves and sees it grow; after clear() it must be taken anew. Reading then throws std::invalid_argument,
  /// as it does when the cache is gone.
  class View {
   public:
    using Scalar = T;
    static constexpr Index static_num_kv_heads = 1;

    Index num_seqs() const { return 1; }
    Index num_kv_heads() const { return 1; }
    Index head_dim() const { return state_->dim; }
    Index value_dim() const { return state_->latent_dim; }
    Index scratch_bytes() const { return 0; }

    Range retained(Index) const {
      check();
      return {0, state_->sequence.written(layer_)};
    }
    KVTile tile(Index, Index, Range want, void*) const {
      check();
      return state_->tile(layer_, want);
    }

   private:
    friend class LatentCache;
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

  /// Takes no memory for tokens yet. Throws std::invalid_argument for a size that is missing or negative,
  /// std::length_error where max_tokens of them overflow.
  explicit LatentCache(const Config& config)
      : Owner(make_state(config)), memory_limit_(detail::checked_limit(config.memory_limit)) {}

  /// A second cache of the same sizes with the same tokens, as KVCache::clone().
  LatentCache clone() const {
    const State& s = state("clone");
    LatentCache copy(
        {s.sequence.max_tokens(), s.num_layers, s.latent_dim, s.dim - s.latent_dim, memory_limit_});
    copy.state_->copy(s);
    return copy;
  }

  /// Makes room for n more tokens in every layer; they are there once they are written. Throws
  /// std::length_error beyond max_tokens or memory_limit, std::invalid_argument for a negative n,
  /// std::bad_alloc; nothing has changed then.
  Span extend(Index n) {
    State& s = state("extend");
    s.sequence.check_room(n);
    const Index tokens = s.sequence.size() + n;
    detail::check_limit("extend", std::max(s.allocated_bytes(), s.bytes_for(tokens)), memory_limit_);
    s.reserve(tokens);
    return s.sequence.extend(n);
  }

  /// Stores the rows of a span's tokens in one layer, tokens x 1 x (latent_dim + rope_dim), each element the
  /// nearest T. Throws as KVCache::write.
  template <TensorLike Rows>
  void write(Index layer, const Span& span, const Rows& rows) {
    store(layer, span, as_view(rows));
  }

  /// The same as every cache has it: k are the rows, and v is their latents, the same memory; other values
  /// have no place here and are refused.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    const State& s = state("write");
    const auto rows = as_view(k);
    const auto latents = as_view(v);
    GQA_CHECK(latents.dim == s.latent_dim, std::invalid_argument,
              "v: dim is " << latents.dim << ", expected the " << s.latent_dim << " of latent_dim");
    GQA_CHECK(
        static_cast<const void*>(latents.data) == static_cast<const void*>(rows.data) &&
            latents.tokens == rows.tokens && latents.heads == rows.heads &&
            (latents.tokens <= 1 || latents.token_stride == rows.token_stride),
        std::invalid_argument,
        "v: is not the first " << s.latent_dim << " elements of k, where a latent cache keeps its values");
    store(layer, span, rows);
  }

  /// Copies the rows at `positions` of one layer to tokens x 1 x (latent_dim + rope_dim), each element the
  /// nearest of the caller's type. Throws as KVCache::read.
  template <TensorLike Rows>
  void read(Index layer, Range positions, Rows&& rows) const {
    load(layer, positions, "rows", state("read").dim, detail::as_output(rows));
  }
  /// The same, and the latents once more as values.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Range positions, K&& k, V&& v) const {
    const State& s = state("read");
    const auto latents = detail::as_output(v);
    check_rows("v", latents, positions.size(), s.latent_dim);
    load(layer, positions, "k", s.dim, detail::as_output(k));
    load(layer, positions, "v", s.latent_dim, latents);
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
    if (state_ != nullptr && n != size()) state_->sequence.truncate(n);
  }

  /// Forgets every token and gives the memory back.
  void clear() {
    if (state_ != nullptr) state_->clear();
  }

  Index size() const { return state_ == nullptr ? 0 : state_->sequence.size(); }
  Index capacity() const { return state_ == nullptr ? 0 : state_->sequence.max_tokens(); }
  Index num_layers() const { return state_ == nullptr ? 0 : state_->num_layers; }
  Index num_kv_heads() const { return state_ == nullptr ? 0 : 1; }
  Index latent_dim() const { return state_ == nullptr ? 0 : state_->latent_dim; }
  Index rope_dim() const { return state_ == nullptr ? 0 : state_->dim - state_->latent_dim; }
  Index head_dim() const { return state_ == nullptr ? 0 : state_->dim; }
  Index value_dim() const { return latent_dim(); }

  /// What one token takes: layers * (latent_dim + rope_dim) * sizeof(T) bytes.
  Index bytes_per_token() const { return state_ == nullptr ? 0 : state_->bytes_per_token(); }
  /// What the tokens there are take.
  Index bytes() const { return size() * bytes_per_token(); }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const { return state_ == nullptr ? 0 : state_->allocated_bytes(); }
  /// Of that, what holds no token: room up to the next 512.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    Index bytes = sizeof *this;
    if (state_ != nullptr)
      bytes += static_cast<Index>(sizeof(State) + state_->slabs.capacity() * sizeof(AlignedArray<T>)) +
               state_->sequence.bytes();
    return bytes;
  }

 private:
  using Owner::state;
  using Owner::state_;

  static std::shared_ptr<State> make_state(const Config& c) {
    const auto check = [](const char* name, Index is, Index least) {
      GQA_CHECK(is >= least, std::invalid_argument, name << " is " << is << ", expected at least " << least);
    };
    check("max_tokens", c.max_tokens, 0);
    check("num_layers", c.num_layers, 1);
    check("latent_dim", c.latent_dim, 1);
    check("rope_dim", c.rope_dim, 0);
    return std::make_shared<State>(c.num_layers, c.latent_dim, c.rope_dim, c.max_tokens);
  }

  template <class X>
  static void check_rows(const char* name, const TensorView<X>& x, Index tokens, Index dim) {
    const auto check = [&](const char* what, Index is, Index expected) {
      GQA_CHECK(is == expected, std::invalid_argument,
                name << ": " << what << " is " << is << ", expected " << expected);
    };
    check("batch", x.batch, 1);
    check("tokens", x.tokens, tokens);
    check("heads", x.heads, 1);
    check("dim", x.dim, dim);
  }

  template <class X>
  void store(Index layer, const Span& span, const TensorView<X>& rows) {
    State& s = state("write");
    s.sequence.check_write(layer, span);
    check_rows("rows", rows, span.size(), s.dim);
    const detail::RowConverter<std::remove_const_t<X>, T> convert;  // may throw: before anything is written
    for (Index t = 0; t < span.size(); ++t)
      convert(rows.at(0, t, 0), s.dim, s.row(layer, span.positions.begin + t));
    s.sequence.note_written(layer, span.positions);
  }

  template <class X>
  void load(Index layer, Range positions, const char* name, Index dim, const TensorView<X>& rows) const {
    const State& s = state("read");
    s.sequence.check_read(layer, positions);
    check_rows(name, rows, positions.size(), dim);
    const detail::RowConverter<T, X> convert;
    for (Index t = 0; t < positions.size(); ++t)
      convert(s.row(layer, positions.begin + t), dim, rows.at(0, t, 0));
  }

  Index memory_limit_ = 0;
};

}  // namespace gqa
