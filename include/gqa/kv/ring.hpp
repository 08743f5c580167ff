// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/layered_cache.hpp"

namespace gqa {

/// The keys and values of one sequence, however long, for the layers of a model that see a window: the first
/// `sinks` tokens, kept for ever, and the last ones, at least as many as the window needs. Attention with
/// `sinks(s) | sliding_window(W)` has the bits it has over a cache that keeps everything.
///
/// One pass of a model: `extend(n)` once, of at most max_span tokens, then for each layer
/// `write(layer, span, k, v)` and attention over `layer(i)`. All memory, ring_tokens(window, max_span,
/// rollback) and the sinks' tiles, is taken with the first token; no more comes after. Positions are
/// absolute. What is dropped is dropped in extend(), a tile of 64 tokens at a time, in all layers at once.
/// `truncate()` goes back `rollback` tokens at least, oldest_truncation() says how far; `checkpoint()` goes
/// further.
///
/// Sizes given as Dynamic are taken from the Config. Every operation either happens or throws and leaves the
/// cache as it was. Not safe for concurrent writing; any number of threads may read. Moves as KVCache does;
/// copied by clone() alone.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class RingCache : public detail::LayeredCache<T, G, D> {
  static_assert(G == Dynamic || G > 0, "gqa: num_kv_heads must be positive");
  static_assert(D == Dynamic || D > 0, "gqa: head_dim must be positive");
  static_assert(Dv == Dynamic || Dv > 0, "gqa: value_dim must be positive");

  using Base = detail::LayeredCache<T, G, D>;

 public:
  struct Config {
    Index window = 0;                 ///< tokens that a query sees, itself included
    Index sinks = 0;                  ///< first tokens that it sees beside them
    Index max_span = 1;               ///< tokens of one pass, at most
    Index rollback = 0;               ///< tokens that truncating takes back at least
    Index max_tokens = max_position;  ///< of the sequence; no limit unless given
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;    ///< head_dim where it is left Dynamic
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// Takes no memory for tokens yet. Throws std::invalid_argument for a size that is missing, not positive or
  /// contradicts the template's, std::length_error where they overflow.
  explicit RingCache(const Config& config) : Base(checked(config), config.memory_limit) {}

  /// A second cache of the same sizes with the same tokens, as far as each layer is written. Spans and views
  /// stay those of the first: truncate the clone to what all layers have before you extend it, where it was
  /// taken between extend() and the last write(). Throws std::bad_alloc.
  RingCache clone() const { return RingCache(this->state("clone")); }

  Index window() const { return this->of_first(&CacheLayer::window); }
  Index num_sinks() const { return this->of_first(&CacheLayer::sinks); }
  Index num_kv_heads() const { return this->of_first(&CacheLayer::num_kv_heads); }
  Index head_dim() const { return this->of_first(&CacheLayer::head_dim); }
  Index value_dim() const { return this->of_first(&CacheLayer::value_dim); }
  /// What one token takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const {
    return this->num_layers() * num_kv_heads() * (head_dim() + value_dim()) * Index{sizeof(T)};
  }

 private:
  explicit RingCache(const typename Base::State& other) : Base(other) {}

  static std::shared_ptr<const detail::LayeredConfig> checked(const Config& c) {
    const detail::CacheShape shape = detail::checked_shape<G, D, Dv>(c);
    ring_tokens(c.window, c.max_span, c.rollback);
    GQA_CHECK(c.sinks >= 0, std::invalid_argument, "sinks is " << c.sinks << ", expected at least 0");
    detail::LayeredConfig config{Base::checked_limits(c.max_tokens, c.max_span, c.rollback), {}};
    shape.elements_per_token();  // before there are as many layers
    const CacheLayer layer{shape.num_kv_heads, shape.head_dim, shape.value_dim, c.window, c.sinks};
    config.layers.assign(static_cast<std::size_t>(c.num_layers), layer);
    return std::make_shared<const detail::LayeredConfig>(std::move(config));
  }
};

template <Scalar T, Index G, Index D, Index Dv>
struct detail::CacheBlocks<RingCache<T, G, D, Dv>> : detail::LayeredBlocks<RingCache<T, G, D, Dv>> {};

}  // namespace gqa
