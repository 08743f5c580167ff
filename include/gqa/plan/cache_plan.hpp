// SPDX-License-Identifier: Apache-2.0
// What a model's keys and values take in memory, before there are any.
#pragma once

#include <utility>
#include <vector>

#include "gqa/kv/latent.hpp"
#include "gqa/kv/layer_group.hpp"

namespace gqa {

/// Which member of the family of caches holds the tokens. All but hybrid keep every token, whatever a layer's
/// window.
enum class CachePlacement {
  contiguous,  ///< KVCache, BatchCache: 512 tokens at a time; layers all alike
  paged,       ///< PagedCache: whole pages; layers all alike
  hybrid,      ///< HybridCache, and RingCache where every layer has a window
  cross,       ///< CrossCache: written once, in whole tiles of 64; layers as in contiguous
  latent       ///< LatentCache: layers alike, of 1 KV head as wide as a row, its values the latent
};

/// What a model keeps of every token, and where.
struct CachePlanConfig {
  std::vector<CacheLayer> layers;  ///< as a HybridCache takes them: window 0 keeps every token
  CachePlacement placement = CachePlacement::contiguous;
  Index page_tokens = 64;   ///< paged: a multiple of 64
  Index shared_tokens = 0;  ///< paged: first tokens that all sequences have alike, held once in whole pages
  Index max_span = 1;       ///< hybrid: tokens of one pass, at most
  Index rollback = 0;       ///< hybrid: tokens that truncating takes back at least
};

/// As many layers of one description.
inline std::vector<CacheLayer> uniform_layers(Index num_layers, const CacheLayer& layer) {
  GQA_CHECK(num_layers >= 1, std::invalid_argument,
            "num_layers is " << num_layers << ", expected at least 1");
  return std::vector<CacheLayer>(static_cast<std::size_t>(num_layers), layer);
}

/// The memory that a cache takes, counted by the caches' own layouts: for every placement, layer and length
/// what allocated_bytes() comes to, to the byte, in caches whose max_tokens is that length.
///
///     const gqa::CachePlan plan({.layers = gqa::uniform_layers(32, {.num_kv_heads = 8, .head_dim = 128})});
///     plan.bytes<gqa::bfloat16>(8192, 16);                          // of 16 sequences of 8,192 tokens
///     gqa::longest_context<gqa::bfloat16>(plan, 8'000'000'000, 4);  // tokens that each of 4 may have
class CachePlan {
 public:
  /// Throws std::invalid_argument naming the layer or size that cannot be, and for layers that differ where
  /// the placement has them all alike.
  explicit CachePlan(CachePlanConfig config) : config_(std::move(config)) {
    GQA_CHECK(!config_.layers.empty(), std::invalid_argument, "layers: there are none, expected at least 1");
    for (std::size_t i = 0; i < config_.layers.size(); ++i) check_layer(i, config_.layers[i]);
    GQA_CHECK(config_.page_tokens > 0 && config_.page_tokens % tile_keys == 0, std::invalid_argument,
              "page_tokens is " << config_.page_tokens << ", expected a multiple of " << tile_keys);
    GQA_CHECK(config_.shared_tokens >= 0, std::invalid_argument,
              "shared_tokens is " << config_.shared_tokens << ", expected at least 0");
    GQA_CHECK(config_.shared_tokens == 0 || config_.placement == CachePlacement::paged, std::invalid_argument,
              "shared_tokens is " << config_.shared_tokens << ", expected 0: only pages are shared");
    ring_tokens(1, config_.max_span, config_.rollback);  // throws for sizes that cannot be
  }

  const CachePlanConfig& config() const { return config_; }

  /// Elements of keys and values of one token in all layers.
  Index elements_per_token() const {
    if (config_.placement == CachePlacement::latent)
      return checked_mul(std::ssize(config_.layers), config_.layers.front().head_dim, "layers");
    Index sum = 0;
    for (const CacheLayer& layer : config_.layers)
      sum = checked_add(sum, shape_of(layer, 1).elements_per_token(), "layers");
    return sum;
  }

  /// What `users` sequences of `tokens` tokens each have allocated, padding included. Throws
  /// std::invalid_argument for numbers below 0 or tokens beyond max_position, and where the sequences are
  /// shorter than what they share; std::length_error where it overflows.
  template <Scalar T>
  Index bytes(Index tokens, Index users = 1) const {
    GQA_CHECK(tokens >= 0 && tokens <= max_position, std::invalid_argument,
              "tokens is " << tokens << ", expected 0 to " << max_position);
    GQA_CHECK(users >= 0, std::invalid_argument, "users is " << users << ", expected at least 0");
    GQA_CHECK(tokens >= config_.shared_tokens, std::invalid_argument,
              "tokens is " << tokens << ", expected at least the " << config_.shared_tokens << " shared");
    if (tokens == 0 || users == 0) return 0;
    const auto times = [](Index bytes, Index n) { return checked_mul(bytes, n, "bytes"); };
    switch (config_.placement) {
      case CachePlacement::contiguous:
        return times(detail::Slabs<T>(shape(), tokens).bytes_for(tokens), users);
      case CachePlacement::cross:
        return times(detail::PageLayout<T>(shape(), ceil_div(tokens, tile_keys)).bytes(), users);
      case CachePlacement::paged:
        return times(detail::PageLayout<T>(shape(), config_.page_tokens / tile_keys).bytes(),
                     pages(tokens, users));
      case CachePlacement::latent: {
        const CacheLayer& row = config_.layers.front();
        return times(detail::LatentState<T>(std::ssize(config_.layers), row.value_dim,
                                            row.head_dim - row.value_dim, tokens)
                         .bytes_for(tokens),
                     users);
      }
      case CachePlacement::hybrid:
        break;
    }
    Index sum = 0;
    for (const CacheLayer& layer : config_.layers)
      sum = checked_add(
          sum,
          detail::LayerGroup<T>(layer, 1, {tokens, config_.max_span, config_.rollback}).bytes_for(tokens),
          "layers");
    return times(sum, users);
  }

  /// Pages that `users` sequences of `tokens` tokens hold in all: what they share is held once.
  Index pages(Index tokens, Index users) const {
    const Index shared = users > 0 ? config_.shared_tokens / config_.page_tokens : 0;
    const Index own = ceil_div(tokens, config_.page_tokens) - shared;
    return checked_add(shared, checked_mul(own, users, "pages"), "pages");
  }

 private:
  static detail::CacheShape shape_of(const CacheLayer& layer, Index num_layers) {
    return {num_layers, layer.num_kv_heads, layer.head_dim, layer.value_dim};
  }
  detail::CacheShape shape() const { return shape_of(config_.layers.front(), std::ssize(config_.layers)); }

  void check_layer(std::size_t i, CacheLayer& layer) const {
    if (layer.value_dim == Dynamic) layer.value_dim = layer.head_dim;
    const auto check = [&](const char* name, Index value, Index least) {
      GQA_CHECK(value >= least, std::invalid_argument,
                "layer " << i << ": " << name << " is " << value << ", expected at least " << least);
    };
    check("num_kv_heads", layer.num_kv_heads, 1);
    check("head_dim", layer.head_dim, 1);
    check("value_dim", layer.value_dim, 1);
    check("window", layer.window, 0);
    check("sinks", layer.sinks, 0);
    if (config_.placement == CachePlacement::hybrid) return;
    if (config_.placement == CachePlacement::latent)
      GQA_CHECK(layer.num_kv_heads == 1 && layer.value_dim <= layer.head_dim, std::invalid_argument,
                "layer " << i << ": sizes are " << layer.num_kv_heads << " x " << layer.head_dim << " and x "
                         << layer.value_dim << ", expected 1 KV head whose values are part of its keys");
    GQA_CHECK(layer.num_kv_heads == config_.layers.front().num_kv_heads &&
                  layer.head_dim == config_.layers.front().head_dim &&
                  layer.value_dim == config_.layers.front().value_dim,
              std::invalid_argument,
              "layer " << i << ": sizes differ from those of layer 0, expected CachePlacement::hybrid");
  }

  CachePlanConfig config_;
};

}  // namespace gqa
