// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>

#include "gqa/attention.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/layer/latent_weights.hpp"
#include "gqa/layer/layer_memory.hpp"
#include "gqa/layer/layer_steps.hpp"
#include "gqa/layer/linear.hpp"

namespace gqa {

/// Multi-head latent attention as a layer of a model (DeepSeek-V2, arXiv 2405.04434): of tokens x,
///
///     q        = Wq x,  or  Wq_up norm(Wq_down x);     q_h = [q_nope_h, rope(q_rope_h)]
///     [c, k_r] = Wkv_down x;                           c = norm(c), k_r = rope(k_r)
///     k_h      = [W_UK_h c, k_r],  v_h = W_UV_h c;     [W_UK_h; W_UV_h] the rows of kv_up of head h
///     y        = Wo concat_h(softmax(scale q_h k_h^T) v_h)
///
/// What a cache keeps decides how it is computed. One of a single KV head, latent_dim + rope_dim wide with
/// values of latent_dim (a LatentCache, or any other of these sizes), keeps [c, k_r] alone: W_UK goes into
/// the queries and W_UV behind attention (**absorbed**), so that all heads read one row a token,
///
///     q'_h = [W_UK_h^T q_nope_h, rope(q_rope_h)],   y = Wo concat_h(W_UV_h softmax(scale q'_h [c, k_r]^T) c)
///
/// One of H KV heads, nope_dim + rope_dim wide with values of value_dim, keeps k_h and v_h (**naive**), and
/// so does a call without a cache. Both are the same function up to rounding. Absorbed, a pair of a query and
/// a key costs (2 latent_dim + rope_dim) / (nope_dim + rope_dim + value_dim) of naive's arithmetic, 3.4 times
/// with DeepSeek's sizes, and a 57th of the memory.
///
///     gqa::LatentAttention<> layer(projections, config);
///     gqa::LatentCache<> cache({.max_tokens = n, .num_layers = 61, .latent_dim = 512, .rope_dim = 64});
///     const gqa::Span span = cache.extend(tokens);  // once a pass
///     layer.forward(pool, memory, x, cache, index, span, y, gqa::causal());
///
/// After y comes what attention() takes after its tensors, but heads and scale. With one cache, no bit of a
/// token's y depends on how the tokens are cut into calls or on the executor. T is what sums are taken in and
/// everything in between is kept in: float, or double, with which everything is f64.
///
/// Calls throw std::invalid_argument for sizes that do not belong together and for y in the memory of
/// weights, before anything is written, and what the cache and attention() throw: rows of the span may then
/// be in the cache, and truncate(span.positions.begin) forgets them.
template <class T = float>
class LatentAttention {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gqa: a LatentAttention sums in float (for f32, f16 and bf16) or double (for f64)");

 public:
  /// Throws std::invalid_argument naming the weight, norm or size that disagrees.
  LatentAttention(LatentProjections projections, LatentAttentionConfig config)
      : p_(std::move(projections)), c_(std::move(config)) {
    detail::check_latent_config(c_);
    in_dim_ = detail::check_latent_projections(p_, c_, in_double);
  }

  const LatentAttentionConfig& config() const { return c_; }
  const LatentProjections& projections() const { return p_; }
  Index in_dim() const { return in_dim_; }
  Index out_dim() const { return p_.output.weight.rows; }
  /// Weights and biases.
  Index num_parameters() const {
    Index n = p_.kv_up.rows * p_.kv_up.columns;
    for (const Projection* p : {&p_.q, &p_.q_down, &p_.q_up, &p_.kv_down, &p_.output})
      n += p->weight.rows * p->weight.columns + p->bias.size();
    return n;
  }

  /// Tokens that come next in a cache: `span` is what its extend() gave for them, once for all layers.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, Index layer,
               const Span& span, const MatrixOut& y, const X&... extras) const {
    check(x, y);
    GQA_CHECK(span.size() == x.rows, std::invalid_argument,
              "x: rows is " << x.rows << ", expected the " << span.size() << " tokens of the span");
    const auto positions = memory.positions(span.positions.begin, span.size());
    const auto keep = [&](const TensorView<T>& k, const TensorView<T>& v) {
      cache.write(layer, span, k, v);
      return cache.layer(layer);
    };
    if (is_absorbed(cache))
      run<true>(executor, memory, x, positions, y, keep, extras...);
    else
      run<false>(executor, memory, x, positions, y, keep, extras...);
  }

  /// The same for a cache of one layer, which grows by the tokens of x; where this throws, it is as it was.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, const MatrixOut& y,
               const X&... extras) const {
    check(x, y);
    is_absorbed(cache);
    detail::grow_by(cache, x.rows,
                    [&](const Span& span) { forward(executor, memory, x, cache, 0, span, y, extras...); });
  }

  /// A whole sequence from position 0 on, which no cache keeps, in the naive form.
  template <ExecutorLike E, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, const MatrixOut& y,
               const X&... extras) const {
    check(x, y);
    const auto positions = memory.positions(0, x.rows);
    const auto keep = [](const TensorView<T>& k, const TensorView<T>& v) {
      return ContiguousKV<T>(TensorView<const T>(k), TensorView<const T>(v));
    };
    run<false>(executor, memory, x, positions, y, keep, extras...);
  }

 private:
  static constexpr bool in_double = std::is_same_v<T, double>;

  /// Rows of memory between the products, `width` elements a token.
  struct Rows {
    T* data = nullptr;
    Index tokens = 0, width = 0;

    /// `dim` elements of every token from `first` on.
    MatrixView part(Index first, Index dim) const { return MatrixView(data + first, tokens, dim, width); }
    MatrixOut part_out(Index first, Index dim) const { return MatrixOut(data + first, tokens, dim, width); }
    /// Heads `step` elements apart, and of each the `dim` elements from `first` on.
    TensorView<T> heads(Index count, Index step, Index first, Index dim) const {
      return TensorView<T>(data + first, {1, tokens, count, dim}, {tokens * width, width, step});
    }
  };

  template <bool absorbed, class E, class Keep, class... X>
  void run(E& executor, LayerMemory<T>& memory, const MatrixView& x, std::span<const Index> positions,
           const MatrixOut& y, Keep&& keep, const X&... extras) const {
    detail::check_layer_extras<X...>();
    if (c_.rope) Rope::check_positions(positions);
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      const Index heads = c_.num_q_heads, rank = p_.q_down.weight.rows, up = c_.nope_dim + c_.value_dim;
      // What heads read and what of the latent becomes of them: q' and what attention gives of it, or k_h of
      // all heads, and what kv_up makes of the latent.
      const Index read_width = heads * (absorbed ? c_.row_dim() : c_.head_dim());
      const Index made_width = heads * (absorbed ? c_.latent_dim : up);
      const Index widths[] = {heads * c_.head_dim(), c_.row_dim(), rank, read_width, made_width,
                              heads * c_.value_dim};
      Rows rows[std::size(widths)];
      take(memory, x.rows, widths, rows);
      const Rows &q = rows[0], &latent = rows[1], &q_low = rows[2], &read = rows[3], &made = rows[4],
                 &attended = rows[5];

      project(runner, memory, x, q, q_low, latent);
      rotate(runner, memory, positions, q, latent);
      if constexpr (absorbed) {
        const TensorView<T> row = latent.heads(1, c_.row_dim(), 0, c_.row_dim()),
                            value = latent.heads(1, c_.row_dim(), 0, c_.latent_dim);
        const auto view = keep(row, value);
        absorb(runner, memory, q, read);
        attention(executor, read.heads(heads, c_.row_dim(), 0, c_.row_dim()), view,
                  made.heads(heads, c_.latent_dim, 0, c_.latent_dim), options(memory), extras...);
        for_heads(runner, memory, [&](Index h, Workspace& own) {
          linear(made.part(h * c_.latent_dim, c_.latent_dim), value_rows(h),
                 attended.part_out(h * c_.value_dim, c_.value_dim), {.workspace = &own});
        });
      } else {
        multiply(runner, memory, latent.part(0, c_.latent_dim), Projection{p_.kv_up, {}}, made);
        join_keys(runner, latent, made, read);
        const auto view = keep(read.heads(heads, c_.head_dim(), 0, c_.head_dim()),
                               made.heads(heads, up, c_.nope_dim, c_.value_dim));
        attention(executor, q.heads(heads, c_.head_dim(), 0, c_.head_dim()), view,
                  attended.heads(heads, c_.value_dim, 0, c_.value_dim), options(memory), extras...);
      }
      detail::linear(runner, {attended.part(0, attended.width), p_.output.weight, p_.output.bias, y},
                     {.workspace = &memory.workspace()});
    });
  }

  /// Memory for all rows, and which are where.
  template <std::size_t N>
  static void take(LayerMemory<T>& memory, Index tokens, const Index (&widths)[N], Rows (&rows)[N]) {
    // Rows begin at whole cache lines where widths allow it; without tokens there is memory to point to.
    const auto elements = [&](Index width) {
      const Index n = checked_mul(std::max<Index>(tokens, 1), width, "LatentAttention");
      return checked_add(n, 63, "LatentAttention") / 64 * 64;
    };
    Index sum = 0;
    for (const Index width : widths) sum = checked_add(sum, elements(width), "LatentAttention");
    T* next = reinterpret_cast<T*>(
        memory.workspace().reserve_between_calls(checked_mul(sum, sizeof(T), "LatentAttention")));
    for (std::size_t i = 0; i < N; ++i) {
      rows[i] = {next, tokens, widths[i]};
      next += elements(widths[i]);
    }
  }

  static void multiply(const detail::ExecutorRef& runner, LayerMemory<T>& memory, const MatrixView& x,
                       const Projection& p, const Rows& y) {
    detail::linear(runner, {x, p.weight, p.bias, y.part_out(0, y.width)}, {.workspace = &memory.workspace()});
  }

  /// q, and the normalised latent with the shared key behind it.
  void project(const detail::ExecutorRef& runner, LayerMemory<T>& memory, const MatrixView& x, const Rows& q,
               const Rows& q_low, const Rows& latent) const {
    const auto normalise = [&](const std::optional<QKNorm>& norm, const Rows& rows, Index dim) {
      if (!norm) return;
      detail::for_token_blocks(runner, rows.tokens, [&](Index begin, Index end) {
        norm->apply(detail::some_tokens(rows.heads(1, rows.width, 0, dim), begin, end));
      });
    };
    if (p_.q.weight.format != nullptr) {
      multiply(runner, memory, x, p_.q, q);
    } else {
      multiply(runner, memory, x, p_.q_down, q_low);
      normalise(c_.q_norm, q_low, q_low.width);
      multiply(runner, memory, q_low.part(0, q_low.width), p_.q_up, q);
    }
    multiply(runner, memory, x, p_.kv_down, latent);
    normalise(c_.latent_norm, latent, c_.latent_dim);
  }

  void rotate(const detail::ExecutorRef& runner, LayerMemory<T>& memory, std::span<const Index> positions,
              const Rows& q, const Rows& latent) const {
    if (!c_.rope) return;
    detail::rotate_tokens<T>(runner, memory.rotations(*c_.rope, positions),
                             q.heads(c_.num_q_heads, c_.head_dim(), c_.nope_dim, c_.rope_dim),
                             latent.heads(1, c_.row_dim(), c_.latent_dim, c_.rope_dim));
  }

  MatrixView key_rows(Index h) const {
    return p_.kv_up.middle_rows(h * (c_.nope_dim + c_.value_dim), c_.nope_dim);
  }
  MatrixView value_rows(Index h) const {
    return p_.kv_up.middle_rows(h * (c_.nope_dim + c_.value_dim) + c_.nope_dim, c_.value_dim);
  }

  /// q' of all heads.
  void absorb(const detail::ExecutorRef& runner, LayerMemory<T>& memory, const Rows& q,
              const Rows& absorbed) const {
    for_heads(runner, memory, [&](Index h, Workspace& own) {
      const Index from = h * c_.head_dim(), to = h * c_.row_dim();
      linear(q.part(from, c_.nope_dim), key_rows(h).transposed(), absorbed.part_out(to, c_.latent_dim),
             {.workspace = &own});
      copy_rows(q, from + c_.nope_dim, absorbed, to + c_.latent_dim, c_.rope_dim, {0, q.tokens});
    });
  }

  /// k_h of all heads: what kv_up made of the latent, and the shared key.
  void join_keys(const detail::ExecutorRef& runner, const Rows& latent, const Rows& made,
                 const Rows& keys) const {
    detail::for_token_blocks(runner, keys.tokens, [&](Index begin, Index end) {
      for (Index h = 0; h < c_.num_q_heads; ++h) {
        const Index to = h * c_.head_dim();
        copy_rows(made, h * (c_.nope_dim + c_.value_dim), keys, to, c_.nope_dim, {begin, end});
        copy_rows(latent, c_.latent_dim, keys, to + c_.nope_dim, c_.rope_dim, {begin, end});
      }
    });
  }

  static void copy_rows(const Rows& from, Index first, const Rows& to, Index at, Index dim, Range tokens) {
    for (Index t = tokens.begin; t < tokens.end; ++t)
      std::copy_n(from.data + t * from.width + first, dim, to.data + t * to.width + at);
  }

  /// Calls f(head, memory of its own) for all heads, on as many threads as there are.
  template <class F>
  void for_heads(const detail::ExecutorRef& runner, LayerMemory<T>& memory, F&& f) const {
    const Index parts = std::clamp<Index>(runner.num_threads, 1, c_.num_q_heads);
    const std::span<Workspace> workspaces = memory.workspaces(parts);
    const auto one = [&](Index part) {
      for (Index h = part * c_.num_q_heads / parts; h < (part + 1) * c_.num_q_heads / parts; ++h)
        f(h, workspaces[static_cast<std::size_t>(part)]);
    };
    if (parts == 1)
      one(0);
    else
      runner.parallel_for(parts, one);
  }

  /// Whether a cache keeps latents. Throws std::invalid_argument where it keeps neither form.
  template <class C>
  bool is_absorbed(const C& cache) const {
    const Index heads = cache.num_kv_heads(), dim = cache.head_dim(), value_dim = cache.value_dim();
    const bool latents = heads == 1 && dim == c_.row_dim() && value_dim == c_.latent_dim;
    GQA_CHECK(latents || (heads == c_.num_q_heads && dim == c_.head_dim() && value_dim == c_.value_dim),
              std::invalid_argument,
              "cache: has " << heads << " KV heads, head_dim " << dim << " and value_dim " << value_dim
                            << ", expected 1, " << c_.row_dim() << " and " << c_.latent_dim
                            << " (latents), or " << c_.num_q_heads << ", " << c_.head_dim() << " and "
                            << c_.value_dim << " (keys and values of all heads)");
    return latents;
  }

  void check(const MatrixView& x, const MatrixOut& y) const {
    detail::check_layer_rows(x, y, in_dim_, out_dim(), in_double);
    detail::check_apart("y", y.view, "kv_up", p_.kv_up);
    detail::check_apart(y, "q", p_.q);
    detail::check_apart(y, "q_down", p_.q_down);
    detail::check_apart(y, "q_up", p_.q_up);
    detail::check_apart(y, "kv_down", p_.kv_down);
    detail::check_apart(y, "output", p_.output);
  }

  AttentionOptions options(LayerMemory<T>& memory) const {
    return {.scale = c_.scale, .workspace = &memory.workspace()};
  }

  LatentProjections p_;
  LatentAttentionConfig c_;
  Index in_dim_ = 0;
};

}  // namespace gqa
