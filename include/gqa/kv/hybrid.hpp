// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/layered_cache.hpp"

namespace gqa {

/// The keys and values of one sequence for a model whose layers differ: some see a window and some everything
/// (five local ones to one global, say), with other heads or dims each. One sequence for all of them, so that
/// extending and truncating happen in every layer or in none.
///
///     HybridCache<bfloat16> cache({.max_tokens = 131072, .max_span = 512, .layers = layers});
///
/// One pass of a model: `extend(n)` once, of at most max_span tokens, then for each layer
/// `write(layer, span, k, v)` and attention over `layer(i)` with that layer's mask,
/// `sinks(s) | sliding_window(W)` or causal(). Layers of one description share memory: that of windowed ones
/// is taken with the first token and stays, that of the others 512 tokens at a time. Windowed layers limit
/// how far truncate() goes back, see oldest_truncation() and `rollback`; checkpoint() goes further.
///
/// Every operation either happens or throws and leaves the cache as it was. Not safe for concurrent writing;
/// any number of threads may read. Moves as KVCache does; copied by clone() alone.
template <gqa::Scalar T>
class HybridCache : public detail::LayeredCache<T, Dynamic, Dynamic> {
  using Base = detail::LayeredCache<T, Dynamic, Dynamic>;

 public:
  struct Config {
    Index max_tokens = 0;
    Index max_span = 1;  ///< tokens of one pass, at most
    Index rollback = 0;  ///< tokens that truncating takes back at least
    std::vector<CacheLayer> layers = {};
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// Takes no memory for tokens yet. Throws std::invalid_argument for no layers or sizes that cannot be,
  /// std::length_error where they overflow.
  explicit HybridCache(const Config& config) : Base(checked(config), config.memory_limit) {}

  /// A second cache of the same sizes with the same tokens, as far as each layer is written. Spans, views and
  /// checkpoints stay those of the first: truncate the clone to what all layers have before you extend it,
  /// where it was taken between extend() and the last write(). Throws std::bad_alloc.
  HybridCache clone() const { return HybridCache(this->state("clone")); }

  /// Of one layer. Throw std::out_of_range.
  Index num_kv_heads(Index layer) const { return this->description(layer).num_kv_heads; }
  Index head_dim(Index layer) const { return this->description(layer).head_dim; }
  Index value_dim(Index layer) const { return this->description(layer).value_dim; }
  Index window(Index layer) const { return this->description(layer).window; }
  Index num_sinks(Index layer) const { return this->description(layer).sinks; }
  /// Of layer 0.
  Index num_kv_heads() const { return this->of_first(&CacheLayer::num_kv_heads); }
  Index head_dim() const { return this->of_first(&CacheLayer::head_dim); }
  Index value_dim() const { return this->of_first(&CacheLayer::value_dim); }

 private:
  explicit HybridCache(const typename Base::State& other) : Base(other) {}

  static std::shared_ptr<const detail::LayeredConfig> checked(const Config& c) {
    detail::LayeredConfig config{Base::checked_limits(c.max_tokens, c.max_span, c.rollback), c.layers};
    GQA_CHECK(!c.layers.empty(), std::invalid_argument, "layers: there are none, expected at least 1");
    for (std::size_t i = 0; i < config.layers.size(); ++i) check_layer(i, config.layers[i]);
    return std::make_shared<const detail::LayeredConfig>(std::move(config));
  }

  static void check_layer(std::size_t i, CacheLayer& layer) {
    const auto check = [&](const char* name, Index value, Index least) {
      GQA_CHECK(value >= least, std::invalid_argument,
                "layer " << i << ": " << name << " is " << value << ", expected at least " << least);
    };
    if (layer.value_dim == Dynamic) layer.value_dim = layer.head_dim;
    check("num_kv_heads", layer.num_kv_heads, 1);
    check("head_dim", layer.head_dim, 1);
    check("value_dim", layer.value_dim, 1);
    check("window", layer.window, 0);
    check("sinks", layer.sinks, 0);
    GQA_CHECK(layer.window > 0 || layer.sinks == 0, std::invalid_argument,
              "layer " << i << ": sinks is " << layer.sinks
                       << ", expected 0 where window is 0 and all tokens are kept");
  }
};

template <Scalar T>
struct detail::CacheBlocks<HybridCache<T>> : detail::LayeredBlocks<HybridCache<T>> {};

}  // namespace gqa
