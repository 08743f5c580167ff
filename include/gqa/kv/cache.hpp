// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// Tokens that a cache has made room for: their positions, and which state of the cache they belong to.
struct Span {
  Range positions;
  std::uint64_t epoch = 0;

  Index size() const { return positions.size(); }
};

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
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class KVCache {
  static_assert(G == Dynamic || G > 0, "gqa: num_kv_heads must be positive");
  static_assert(D == Dynamic || D > 0, "gqa: head_dim must be positive");
  static_assert(Dv == Dynamic || Dv > 0, "gqa: value_dim must be positive");

 public:
  using Scalar = T;

  struct Config {
    Index max_tokens = 0;
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;  ///< head_dim where it is left Dynamic
  };

  /// What attention reads: one layer of a cache, as far as it has been written. It refers to the cache and
  /// sees it grow; after clear() it must be taken anew, and reading throws std::invalid_argument.
  class View {
   public:
    using Scalar = T;
    static constexpr Index static_num_kv_heads = G;
    static constexpr Index static_head_dim = D;

    Index num_seqs() const { return 1; }
    Index num_kv_heads() const { return cache_->num_kv_heads(); }
    Index head_dim() const { return cache_->head_dim(); }
    Index value_dim() const { return cache_->value_dim(); }
    Index scratch_bytes() const { return 0; }

    Range retained(Index) const {
      GQA_CHECK(epoch_ == cache_->clear_epoch_, std::invalid_argument,
                "view: the cache was cleared after the view of layer " << layer_ << " was taken");
      return {0, cache_->written_[static_cast<std::size_t>(layer_)]};
    }

    KVTile<T> tile(Index, Index kv_head, Range want, void*) const {
      const auto [k, v] = cache_->tile_at(layer_, kv_head, want.begin / tile_keys);
      const Index j = want.begin % tile_keys;
      constexpr Index E = element_group<T>;
      return {k + j * E,   tile_keys * E,     v + j / E * cache_->value_stride(), cache_->value_stride(),
              want.size(), TileLayout::packed};
    }

   private:
    friend class KVCache;
    View(const KVCache& cache, Index layer) : cache_(&cache), layer_(layer), epoch_(cache.clear_epoch_) {}

    const KVCache* cache_;
    Index layer_;
    std::uint64_t epoch_;
  };

  /// Takes no memory for tokens yet. Throws std::invalid_argument for a size that is missing, not positive or
  /// contradicts the template's, std::length_error where max_tokens of them overflow.
  explicit KVCache(const Config& config)
      : max_tokens_(config.max_tokens),
        num_layers_(config.num_layers),
        num_kv_heads_(static_or<G>(config.num_kv_heads, "num_kv_heads")),
        head_dim_(static_or<D>(config.head_dim, "head_dim")),
        value_dim_(static_or<Dv>(config.value_dim == Dynamic ? head_dim_ : config.value_dim, "value_dim")) {
    GQA_CHECK(max_tokens_ >= 0, std::invalid_argument,
              "max_tokens is " << max_tokens_ << ", expected at least 0");
    GQA_CHECK(num_layers_ > 0, std::invalid_argument,
              "num_layers is " << num_layers_ << ", expected at least 1");
    checked_mul(bytes_per_token(), max_tokens_, "max_tokens");
    slab_elements_ = checked_mul(checked_mul(num_layers_, num_kv_heads_, "KVCache"),
                                 checked_add(key_elements(), value_elements(), "KVCache"), "KVCache");
    checked_mul(checked_mul(slab_elements_, sizeof(T), "KVCache"), ceil_div(max_tokens_, slab_tokens),
                "max_tokens");
    written_.resize(static_cast<std::size_t>(num_layers_));
  }

  /// Makes room for n more tokens in every layer; they are there once they are written. Throws
  /// std::length_error beyond max_tokens, std::invalid_argument for a negative n, std::bad_alloc; nothing has
  /// changed then.
  Span extend(Index n) {
    GQA_CHECK(n >= 0, std::invalid_argument, "extend: n is " << n << ", expected at least 0");
    GQA_CHECK(
        n <= max_tokens_ - size_, std::length_error,
        "extend: the cache holds " << size_ << " of at most " << max_tokens_ << " tokens, no room for " << n);
    const auto slabs = static_cast<std::size_t>(ceil_div(size_ + n, slab_tokens)), before = slabs_.size();
    slabs_.reserve(slabs);
    try {
      while (slabs_.size() < slabs) slabs_.push_back(allocate());
    } catch (...) {
      slabs_.resize(before);
      throw;
    }
    const Span span{{size_, size_ + n}, span_epoch_};
    size_ += n;
    return span;
  }

  /// Stores the keys (tokens x G x D) and values (tokens x G x Dv) of a span's tokens in one layer, converted
  /// to T. Throws std::invalid_argument for wrong sizes, a span that was truncated away, or one that leaves a
  /// gap before it; std::out_of_range for an absent layer.
  template <TensorLike K, TensorLike V>
  void write(Index layer, const Span& span, const K& k, const V& v) {
    const auto keys = as_view(k);
    const auto values = as_view(v);
    check_write(layer, span);
    check_tokens("k", keys, span.size(), head_dim_);
    check_tokens("v", values, span.size(), value_dim_);
    Index& written = written_[static_cast<std::size_t>(layer)];
    for (Index head = 0; head < num_kv_heads_; ++head) {
      for (Index t = 0; t < span.size();) {
        const Index position = span.positions.begin + t;
        Index n = store_run(layer, head, {position, span.positions.end}, keys, values, t, written);
        if (n == 0) {
          store(layer, head, position, keys.at(0, t, head), values.at(0, t, head), written);
          n = 1;
        }
        t += n;
      }
    }
    written = std::max(written, span.positions.end);
  }

  /// extend and write for a cache of one layer. Throws as they do, and std::invalid_argument for more layers.
  template <TensorLike K, TensorLike V>
  Span append(const K& k, const V& v) {
    GQA_CHECK(num_layers_ == 1, std::invalid_argument,
              "append: num_layers is " << num_layers_ << ", expected 1; use extend and write");
    const auto keys = as_view(k);
    check_tokens("k", keys, keys.tokens, head_dim_);
    check_tokens("v", as_view(v), keys.tokens, value_dim_);
    const Span span = extend(keys.tokens);
    write(0, span, k, v);
    return span;
  }

  /// One layer, for attention to read. Throws std::out_of_range.
  View layer(Index i) const {
    check_layer(i);
    return View(*this, i);
  }

  /// Forgets all but the first n tokens, in every layer; their memory is kept for the next. Throws
  /// std::invalid_argument for a negative n or more tokens than there are.
  void truncate(Index n) {
    GQA_CHECK(n >= 0 && n <= size_, std::invalid_argument,
              "truncate: n is " << n << ", expected 0 to the " << size_ << " tokens there are");
    if (n == size_) return;
    size_ = n;
    ++span_epoch_;
    for (Index& written : written_) written = std::min(written, n);
    if constexpr (element_group<T> == 2)
      if (n % 2 != 0) clear_partners(n);
  }

  /// Forgets every token and gives the memory back.
  void clear() {
    slabs_.clear();
    size_ = 0;
    ++span_epoch_;
    ++clear_epoch_;
    std::fill(written_.begin(), written_.end(), Index{0});
  }

  Index size() const { return size_; }
  Index capacity() const { return max_tokens_; }
  Index num_layers() const { return num_layers_; }
  Index num_kv_heads() const { return num_kv_heads_; }
  Index head_dim() const { return head_dim_; }
  Index value_dim() const { return value_dim_; }

  /// What one token takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const {
    return checked_mul(checked_mul(num_layers_, num_kv_heads_, "KVCache"),
                       checked_mul(checked_add(head_dim_, value_dim_, "KVCache"), sizeof(T), "KVCache"),
                       "KVCache");
  }
  /// What the tokens there are take: size() * bytes_per_token().
  Index bytes() const { return size_ * bytes_per_token(); }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const {
    return static_cast<Index>(slabs_.size()) * slab_elements_ * Index{sizeof(T)};
  }
  /// Of that, what holds no token: room up to the next 512 tokens, and dims padded to whole vectors.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    return static_cast<Index>(sizeof *this + slabs_.capacity() * sizeof(Slab) +
                              written_.capacity() * sizeof(Index));
  }

 private:
  static constexpr Index slab_tokens = 8 * tile_keys;
  using Slab = AlignedArray<T>;

  template <Index Static>
  static Index static_or(Index given, const char* name) {
    GQA_CHECK(Static == Dynamic || given == Static, std::invalid_argument,
              name << " is " << given << ", expected " << Static);
    GQA_CHECK(given > 0, std::invalid_argument, name << " is " << given << ", expected at least 1");
    return given;
  }

  Slab allocate() const { return allocate_aligned<T>(static_cast<std::size_t>(slab_elements_) * sizeof(T)); }

  // A slab is [layer][head]{8 key tiles [D/E][64][E], values [512/E][Dv][E]}, D padded to E and Dv to whole
  // vectors: what one head of one layer reads is one stream.
  Index key_tile_elements() const {
    return checked_mul(round_up(head_dim_, element_group<T>), tile_keys, "KVCache");
  }
  Index key_elements() const { return checked_mul(key_tile_elements(), slab_tokens / tile_keys, "KVCache"); }
  Index value_row() const { return round_up(value_dim_, simd::padding); }
  Index value_stride() const { return value_row() * element_group<T>; }
  Index value_elements() const { return checked_mul(value_row(), slab_tokens, "KVCache"); }

  struct TileMemory {
    T* k;
    T* v;
  };
  TileMemory tile_at(Index layer, Index head, Index tile) const {
    constexpr Index tiles = slab_tokens / tile_keys;
    T* base = slabs_[static_cast<std::size_t>(tile / tiles)].get() +
              (layer * num_kv_heads_ + head) * (key_elements() + value_elements());
    const Index t = tile % tiles;
    return {base + t * key_tile_elements(), base + key_elements() + t * tile_keys * value_row()};
  }

  /// One token of one head. Padding gets zeros, as does the value beside it that an odd count leaves: kernels
  /// multiply both, by 0. A token there already, before `written`, keeps its value.
  template <class TK, class TV>
  void store(Index layer, Index head, Index position, const TK* k, const TV* v, Index written) {
    constexpr Index E = element_group<T>;
    const auto [keys, values] = tile_at(layer, head, position / tile_keys);
    const Index j = position % tile_keys;
    for (Index d = 0; d < head_dim_; ++d) keys[(d / E * tile_keys + j) * E + d % E] = static_cast<T>(k[d]);
    if (E == 2 && head_dim_ % 2 != 0) keys[(head_dim_ / E * tile_keys + j) * E + 1] = T{};
    T* row = values + j / E * value_stride();
    const bool last = position + 1 >= written;
    for (Index c = 0; c < value_row(); ++c) {
      row[c * E + j % E] = c < value_dim_ ? static_cast<T>(v[c]) : T{};
      if (E == 2 && j % E == 0 && last) row[c * E + 1] = T{};
    }
  }

  // A kernel transposes as many tokens as a vector has lanes, wanted or not.
  static constexpr Index fewest_in_a_run = 4;

  /// Tokens [t, t + n) of one head at the beginning of `positions`, as many as a tile takes, by the kernels
  /// that pack a caller's rows; 0 where the elements are to be converted, or the bits of a neighbour kept.
  template <class TK, class TV>
  Index store_run(Index layer, Index head, Range positions, const TensorView<TK>& k, const TensorView<TV>& v,
                  Index t, Index written) {
    if constexpr (std::is_same_v<std::remove_const_t<TK>, T> && std::is_same_v<std::remove_const_t<TV>, T>) {
      constexpr Index E = element_group<T>;
      const Index j = positions.begin % tile_keys;
      Index n = std::min(tile_keys - j, positions.size());
      if (positions.begin + n < written) n = round_down(n, E);
      if (j % E != 0 || n < fewest_in_a_run) return 0;
      const auto [keys, values] = tile_at(layer, head, positions.begin / tile_keys);
      const auto kernels = simd::kernels<T>(isa());
      const T* rows = v.at(0, t, head);
      if constexpr (std::is_same_v<T, Accumulator<T>>)
        kernels.transpose_keys(k.at(0, t, head), k.token_stride, n, head_dim_, n, keys + j);
      else
        kernels.transpose_stored(k.at(0, t, head), k.token_stride, n, head_dim_, n, keys + j * E);
      if constexpr (E == 2) {
        kernels.interleave_pairs(rows, v.token_stride, n, value_dim_, values + j / E * value_stride(),
                                 value_stride());
      } else {
        for (Index i = 0; i < n; ++i) {
          T* row = values + (j + i) * value_row();
          std::copy_n(rows + i * v.token_stride, value_dim_, row);
          std::fill(row + value_dim_, row + value_row(), T{});
        }
      }
      return n;
    }
    return 0;
  }

  /// Zeroes the values of token n, which share their pairs with those of the last token kept.
  void clear_partners(Index n) {
    constexpr Index E = element_group<T>;
    for (Index layer = 0; layer < num_layers_; ++layer) {
      for (Index head = 0; head < num_kv_heads_; ++head) {
        const Index j = n % tile_keys;
        T* row = tile_at(layer, head, n / tile_keys).v + j / E * value_stride();
        for (Index c = 0; c < value_row(); ++c) row[c * E + j % E] = T{};
      }
    }
  }

  void check_layer(Index layer) const {
    GQA_CHECK(layer >= 0 && layer < num_layers_, std::out_of_range,
              "layer is " << layer << ", expected less than " << num_layers_);
  }

  void check_write(Index layer, const Span& span) const {
    check_layer(layer);
    const Range p = span.positions;
    GQA_CHECK(span.epoch == span_epoch_ && p.begin >= 0 && p.begin <= p.end && p.end <= size_,
              std::invalid_argument,
              "span: tokens " << p.begin << " to " << p.end << " are not, or no longer, among the " << size_
                              << " of the cache");
    const Index written = written_[static_cast<std::size_t>(layer)];
    GQA_CHECK(
        p.begin <= written, std::invalid_argument,
        "span: begins at token " << p.begin << ", but layer " << layer << " is written up to " << written);
  }

  template <class X>
  void check_tokens(const char* name, const TensorView<X>& x, Index tokens, Index dim) const {
    GQA_CHECK(x.batch == 1, std::invalid_argument, name << ": batch is " << x.batch << ", expected 1");
    GQA_CHECK(x.tokens == tokens, std::invalid_argument,
              name << ": tokens is " << x.tokens << ", expected " << tokens);
    GQA_CHECK(x.heads == num_kv_heads_, std::invalid_argument,
              name << ": heads is " << x.heads << ", expected " << num_kv_heads_);
    GQA_CHECK(x.dim == dim, std::invalid_argument, name << ": dim is " << x.dim << ", expected " << dim);
  }

  Index max_tokens_, num_layers_, num_kv_heads_, head_dim_, value_dim_;
  Index slab_elements_ = 0;
  Index size_ = 0;
  std::vector<Slab> slabs_;
  std::vector<Index> written_;    // a layer: how many tokens, without gaps
  std::uint64_t span_epoch_ = 0;  // counts truncate and clear
  std::uint64_t clear_epoch_ = 0;
};

namespace detail {

template <class X>
struct kv_cache : std::false_type {};
template <class T, Index G, Index D, Index Dv>
struct kv_cache<KVCache<T, G, D, Dv>> : std::true_type {};

}  // namespace detail

/// What attention takes in place of k and v: a view, or a cache of one layer.
template <class X>
concept KVLike = KVView<std::remove_cvref_t<X>> || detail::kv_cache<std::remove_cvref_t<X>>::value;

/// The view itself, or the only layer of a cache. Throws std::invalid_argument for a cache of more.
template <KVLike X>
auto as_kv_view(const X& x) {
  if constexpr (detail::kv_cache<X>::value) {
    GQA_CHECK(x.num_layers() == 1, std::invalid_argument,
              "cache: num_layers is " << x.num_layers() << ", expected 1; use cache.layer(i)");
    return x.layer(0);
  } else {
    return x;
  }
}

}  // namespace gqa
