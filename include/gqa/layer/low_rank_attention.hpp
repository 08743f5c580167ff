// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/reconstructed_keys.hpp"
#include "gqa/layer/layer_memory.hpp"
#include "gqa/layer/layer_steps.hpp"
#include "gqa/layer/linear.hpp"
#include "gqa/layer/low_rank_weights.hpp"

namespace gqa {

/// Attention over cached latents of keys and values (Palu, Chang et al. 2024, arXiv 2407.21118): of tokens x,
///
///     c = K_down x,  d = V_down x                        cached: num_latents of each
///     k_g = rope(K_up_g c),  q_h = rope(Wq_h x)
///     y = (Wo V_h) concat_h(softmax(scale q_h k_g^T) d)
///
/// Values are never made: Wo has taken in what makes them. Keys are rotated by their positions and have to be
/// made of their latents where attention reads them, a tile at a time (ReconstructedKeys): memory is saved,
/// and arithmetic is paid. Without RoPE neither is needed: convert::fold_keys makes an ordinary layer of it.
///
/// A cache has `num_latents` KV heads, key_rank wide with values of value_rank, of any kind that attention
/// reads; without v_down, the same memory for both, as a LatentCache of one latent. Extras, bits, T and what
/// is thrown are as with AttentionLayer.
template <class T = float>
class LowRankAttention {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gqa: a LowRankAttention sums in float (for f32, f16 and bf16) or double (for f64)");

 public:
  /// Throws std::invalid_argument naming the weight or size that disagrees.
  LowRankAttention(LowRankProjections projections, LowRankAttentionConfig config)
      : p_(std::move(projections)), c_(std::move(config)), in_dim_(check_sizes(p_, c_)), keys_(make_keys()) {}

  const LowRankAttentionConfig& config() const { return c_; }
  const LowRankProjections& projections() const { return p_; }
  Index in_dim() const { return in_dim_; }
  Index out_dim() const { return p_.output.weight.rows; }

  /// Tokens that come next in a cache: `span` is what its extend() gave for them, once for all layers.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, Index layer,
               const Span& span, const MatrixOut& y, const X&... extras) const {
    check(x, y, cache);
    GQA_CHECK(span.size() == x.rows, std::invalid_argument,
              "x: rows is " << x.rows << ", expected the " << span.size() << " tokens of the span");
    detail::check_layer_extras<X...>();
    const auto positions = memory.positions(span.positions.begin, span.size());
    if (c_.rope) Rope::check_positions(positions);
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      const Index n = x.rows, q_width = c_.num_q_heads * c_.head_dim, k_width = c_.num_latents * c_.key_rank,
                  v_width = shares() ? 0 : c_.num_latents * c_.value_rank,
                  out_width = c_.num_q_heads * c_.value_rank, width = q_width + k_width + v_width + out_width;
      T* const rows = reinterpret_cast<T*>(memory.workspace().reserve_between_calls(checked_mul(
          checked_mul(std::max<Index>(n, 1), width, "LowRankAttention"), sizeof(T), "LowRankAttention")));
      const auto part = [&](Index first, Index heads, Index dim) {
        return TensorView<T>(rows + first, {1, n, heads, dim}, {n * width, width, dim});
      };
      const auto multiply = [&](const Projection& p, Index first) {
        detail::linear(runner, {x, p.weight, p.bias, MatrixOut(rows + first, n, p.weight.rows, width)},
                       {.workspace = &memory.workspace()});
      };
      const TensorView<T> q = part(0, c_.num_q_heads, c_.head_dim),
                          k = part(q_width, c_.num_latents, c_.key_rank),
                          v = shares() ? k : part(q_width + k_width, c_.num_latents, c_.value_rank),
                          out = part(q_width + k_width + v_width, c_.num_q_heads, c_.value_rank);
      multiply(p_.q, 0);
      multiply(p_.k_down, q_width);
      if (!shares()) multiply(p_.v_down, q_width + k_width);
      if (c_.rope) {
        const RopeTable<T>& table = memory.rotations(*c_.rope, positions);
        detail::for_token_blocks(runner, n, [&](Index begin, Index end) {
          table.apply(detail::some_tokens(q, begin, end), span.positions.begin + begin);
        });
      }
      cache.write(layer, span, k, v);
      attention(executor, q, ReconstructedKeys(cache.layer(layer), keys_), out, *c_.grouping,
                AttentionOptions{.scale = c_.scale, .workspace = &memory.workspace()}, extras...);
      detail::linear(runner, {MatrixView(out.data, n, out_width, width), p_.output.weight, p_.output.bias, y},
                     {.workspace = &memory.workspace()});
    });
  }

  /// The same for a cache of one layer, which grows by the tokens of x; where this throws, it is as it was.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, const MatrixOut& y,
               const X&... extras) const {
    check(x, y, cache);
    detail::grow_by(cache, x.rows,
                    [&](const Span& span) { forward(executor, memory, x, cache, 0, span, y, extras...); });
  }

 private:
  static constexpr bool in_double = std::is_same_v<T, double>;

  bool shares() const { return p_.v_down.weight.format == nullptr; }

  static Index check_sizes(LowRankProjections& p, LowRankAttentionConfig& c) {
    const auto check_positive = [](const char* name, Index size) {
      GQA_CHECK(size > 0, std::invalid_argument,
                "LowRankAttention: " << name << " is " << size << ", expected at least 1");
    };
    check_positive("num_latents", c.num_latents);
    check_positive("key_rank", c.key_rank);
    check_positive("value_rank", c.value_rank);
    AttentionLayerConfig heads{.num_q_heads = c.num_q_heads,
                               .num_kv_heads = c.num_kv_heads,
                               .head_dim = c.head_dim,
                               .value_dim = c.value_rank,
                               .grouping = c.grouping,
                               .rope = c.rope};
    detail::check_layer_config(heads);
    c.grouping = heads.grouping;
    GQA_CHECK(c.num_kv_heads % c.num_latents == 0, std::invalid_argument,
              "LowRankAttention: num_kv_heads is " << c.num_kv_heads << ", expected a multiple of the "
                                                   << c.num_latents << " of num_latents");
    const Index in_dim = p.q.weight.columns;
    const auto check = [&](const char* name, const Projection& each, Index rows, const char* of_rows,
                           Index columns, const char* of_columns) {
      detail::check_projection("LowRankAttention", name, each, rows, of_rows, columns, of_columns, in_double);
    };
    const auto size = [](Index a, Index b) { return checked_mul(a, b, "LowRankAttention"); };
    check("q", p.q, size(c.num_q_heads, c.head_dim), "num_q_heads x head_dim", in_dim, "model_dim");
    check("k_down", p.k_down, size(c.num_latents, c.key_rank), "num_latents x key_rank", in_dim,
          "model_dim as in q");
    if (p.v_down.weight.format != nullptr)
      check("v_down", p.v_down, size(c.num_latents, c.value_rank), "num_latents x value_rank", in_dim,
            "model_dim as in q");
    else
      GQA_CHECK(c.value_rank <= c.key_rank, std::invalid_argument,
                "LowRankAttention: value_rank is " << c.value_rank << ", expected at most the " << c.key_rank
                                                   << " of key_rank, or v_down");
    check("key_up", Projection{p.key_up, {}}, size(c.num_kv_heads, c.head_dim), "num_kv_heads x head_dim",
          c.key_rank, "key_rank");
    check("output", p.output, p.output.weight.rows, "its rows", size(c.num_q_heads, c.value_rank),
          "num_q_heads x value_rank");
    return in_dim;
  }

  KeyReconstruction<T> make_keys() const {
    const MatrixView& up = p_.key_up;
    std::vector<T> rows(static_cast<std::size_t>(up.rows * up.columns));
    const auto& kernels = up.format->template kernels<T>(isa());
    // An element at a time where rows do not stand in memory as such; once for a layer.
    for (Index r = 0; r < up.rows; ++r)
      for (Index c = 0; c < up.columns; c += up.by_columns ? 1 : up.columns)
        kernels.widen_row(up.at(r, c), up.by_columns ? 1 : up.columns, T{1},
                          &rows[static_cast<std::size_t>(r * up.columns + c)]);
    return {rows.data(), c_.num_kv_heads, c_.num_latents, c_.head_dim, c_.key_rank, c_.rope};
  }

  template <class C>
  void check(const MatrixView& x, const MatrixOut& y, const C& cache) const {
    detail::check_layer_rows(x, y, in_dim_, out_dim(), in_double);
    detail::check_apart(y, "q", p_.q);
    detail::check_apart(y, "k_down", p_.k_down);
    detail::check_apart(y, "v_down", p_.v_down);
    detail::check_apart(y, "output", p_.output);
    GQA_CHECK(cache.num_kv_heads() == c_.num_latents && cache.head_dim() == c_.key_rank &&
                  cache.value_dim() == c_.value_rank,
              std::invalid_argument,
              "cache: has " << cache.num_kv_heads() << " KV heads, head_dim " << cache.head_dim()
                            << " and value_dim " << cache.value_dim() << ", expected " << c_.num_latents
                            << ", " << c_.key_rank << " and " << c_.value_rank << " (latents)");
  }

  LowRankProjections p_;
  LowRankAttentionConfig c_;
  Index in_dim_;
  KeyReconstruction<T> keys_;
};

}  // namespace gqa
