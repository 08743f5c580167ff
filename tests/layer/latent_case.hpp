// SPDX-License-Identifier: Apache-2.0
// A layer of multi-head latent attention of random weights, and what the oracle says of it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gqa/kv/latent.hpp"
#include "gqa/layer/latent_attention.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/reference/latent_attention.hpp"
#include "layer/matrices.hpp"
#include "support/attention_case.hpp"

namespace gqa::test {

struct LatentSizes {
  Index H = 3, nope = 12, rope = 6, latent = 20, value = 10, q_rank = 14, model = 24;
};

/// q_rank 0 is V2-Lite's form, without a low rank of queries.
template <class T>
struct LatentCase {
  static constexpr double epsilon = 1e-6, theta = 100;

  LatentSizes s;
  ByRows<T> q, q_down, kv_down, kv_up, o;
  std::vector<T> q_norm, kv_norm;

  explicit LatentCase(const LatentSizes& sizes = {}, std::uint64_t seed = 1) : s(sizes) {
    const auto spread = [](Index inputs) { return 1 / std::sqrt(static_cast<double>(inputs)); };
    const Index q_inputs = s.q_rank > 0 ? s.q_rank : s.model;
    q = matrix<T>(s.H * (s.nope + s.rope), q_inputs, seed + 1, 2 * spread(q_inputs));
    kv_down = matrix<T>(s.latent + s.rope, s.model, seed + 2, 2 * spread(s.model));
    kv_up = matrix<T>(s.H * (s.nope + s.value), s.latent, seed + 3, 2 * spread(s.latent));
    o = matrix<T>(s.model, s.H * s.value, seed + 4, spread(s.H * s.value));
    kv_norm = random_values<T>(seed + 5, s.latent);
    if (s.q_rank > 0) {
      q_down = matrix<T>(s.q_rank, s.model, seed + 6, spread(s.model));
      q_norm = random_values<T>(seed + 7, s.q_rank);
    }
  }

  LatentAttentionConfig config() const {
    LatentAttentionConfig c{.num_q_heads = s.H,
                            .nope_dim = s.nope,
                            .rope_dim = s.rope,
                            .latent_dim = s.latent,
                            .value_dim = s.value,
                            .scale = latent_scale(s.nope, s.rope, 40, 0.7)};
    c.latent_norm = QKNorm(NormWeights::plain, kv_norm, epsilon);
    if (s.q_rank > 0) c.q_norm = QKNorm(NormWeights::plain, q_norm, epsilon);
    if (s.rope > 0) c.rope = Rope({.layout = RopeLayout::interleaved, .head_dim = s.rope, .theta = theta});
    return c;
  }
  LatentProjections projections() const {
    LatentProjections p{.kv_down = {kv_down}, .kv_up = kv_up, .output = {o}};
    if (s.q_rank > 0) {
      p.q_down.weight = q_down;
      p.q_up.weight = q;
    } else {
      p.q.weight = q;
    }
    return p;
  }
  LatentAttention<Accumulator<T>> layer() const { return {projections(), config()}; }

  typename LatentCache<T>::Config cache(Index max_tokens, Index layers = 1) const {
    return {.max_tokens = max_tokens, .num_layers = layers, .latent_dim = s.latent, .rope_dim = s.rope};
  }

  ByRows<double> exact(const ByRows<T>& x, const Window& mask) const {
    const auto wide = [](const auto& m) {
      return to_double(std::span<const T>(m.data(), static_cast<std::size_t>(m.size())));
    };
    const auto wx = wide(x), wq = wide(q), wq_down = wide(q_down), wkv_down = wide(kv_down),
               wkv_up = wide(kv_up), wo = wide(o), wq_norm = to_double(std::span<const T>(q_norm)),
               wkv_norm = to_double(std::span<const T>(kv_norm));
    const auto y = reference::latent_attention(
        {.num_tokens = x.rows(),
         .model_dim = s.model,
         .num_heads = s.H,
         .nope_dim = s.nope,
         .rope_dim = s.rope,
         .latent_dim = s.latent,
         .value_dim = s.value,
         .q_rank = s.q_rank,
         .out_dim = s.model,
         .x = wx,
         .wq = wq,
         .wq_down = wq_down,
         .wkv_down = wkv_down,
         .wkv_up = wkv_up,
         .wo = wo,
         .q_norm = wq_norm,
         .kv_norm = wkv_norm,
         .epsilon = epsilon,
         .scale = latent_scale(s.nope, s.rope, 40, 0.7),
         .theta = theta,
         .visible = [mask](Index, Index q_pos, Index kv_pos) { return mask(q_pos, kv_pos); }});
    return ByRows<double>::Map(y.data(), x.rows(), s.model);
  }
};

}  // namespace gqa::test
