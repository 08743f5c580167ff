// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>

#include "gqa/attention.hpp"
#include "gqa/core/ragged.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/paged_state.hpp"
#include "gqa/layer/layer_memory.hpp"
#include "gqa/layer/layer_steps.hpp"
#include "gqa/layer/linear.hpp"
#include "gqa/layer/projections.hpp"

namespace gqa {

/// Sequences whose tokens stand one after another in x: sequence i has the rows `offsets[i]` to `offsets[i +
/// 1]`, and `spans[i]` is what its cache's extend() gave for them.
struct LayerBatch {
  std::span<const Index> offsets;
  std::span<const Span> spans;
  std::span<const SequenceId> ids = {};  ///< of a PagedCache's sequences; a BatchCache's are all of them
};

namespace detail {

/// The heads of some tokens of a layer, before they are written and read.
template <class T>
struct LayerHeads {
  TensorView<T> q, k, v;
};

/// What a layer does between its projections: keeps k and v, and writes what q sees to `out`.
template <class T>
using Attend = FunctionRef<void(const LayerHeads<T>& heads, const TensorView<T>& out)>;

}  // namespace detail

/// Multi-head attention as a layer of a model (Vaswani et al. 2017), with fewer heads of keys than of queries
/// where it says so (Ainslie et al. 2023): of tokens x,
///
///     q, k, v = x Wq^T + bq, x Wk^T + bk, x Wv^T + bv          H heads of q, G of k and v
///     q, k    = rope(norm(q)), rope(norm(k))                   where there are these
///     y       = concat_h(attention(q, k, v)_h) Wo^T + bo
///
/// Weights are read where they stand (see linear()) and outlive the layer, which is nothing but what it says:
/// it may be copied, and any number of calls may use it at once, each with a LayerMemory of its own.
///
///     gqa::AttentionLayer<> layer({.q = {wq}, .k = {wk}, .v = {wv}, .output = {wo}},
///                                 {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128, .rope = rope});
///     gqa::LayerMemory<> memory;                             // one for all layers
///     const gqa::Span span = cache.extend(tokens);           // once a pass
///     layer.forward(pool, memory, x, cache, index, span, y, gqa::causal());
///
/// After y comes what attention() takes after its tensors: mask, score function, SinkLogits, lse_into; heads
/// and scale are the config's. No bit of a token's y depends on how the tokens are cut into calls, on the
/// other sequences of a batch, on the executor, or on whether weights are fused. T is what sums are taken in
/// and q, k and v are kept in between: float, or double, with which everything is f64.
///
/// Calls throw std::invalid_argument for sizes that do not belong together and for y in the memory of
/// weights, before anything is written; y may be x itself. They throw what the cache and attention() throw:
/// keys and values of the span may then be in the cache, and truncate(span.positions.begin) forgets them.
template <class T = float>
class AttentionLayer {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "gqa: an AttentionLayer sums in float (for f32, f16 and bf16) or double (for f64)");

 public:
  /// Throws std::invalid_argument naming the weight, norm or size that disagrees.
  AttentionLayer(AttentionProjections projections, AttentionLayerConfig config)
      : projections_(std::move(projections)), config_(std::move(config)) {
    detail::check_layer_config(config_);
    in_dim_ = detail::check_projections(projections_, config_, in_double);
  }

  const AttentionLayerConfig& config() const { return config_; }
  const AttentionProjections& projections() const { return projections_; }
  Index in_dim() const { return in_dim_; }
  Index out_dim() const { return projections_.output.weight.rows; }
  /// Weights and biases.
  Index num_parameters() const {
    Index n = 0;
    for (const Projection* p : {&projections_.q, &projections_.k, &projections_.v, &projections_.output})
      n += p->weight.rows * p->weight.columns + p->bias.size();
    return n;
  }

  /// Tokens that come next in a cache: `span` is what its extend() gave for them, once for all layers.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, Index layer,
               const Span& span, const MatrixOut& y, const X&... extras) const {
    GQA_CHECK(span.size() == x.rows, std::invalid_argument,
              "x: rows is " << x.rows << ", expected the " << span.size() << " tokens of the span");
    const auto positions = memory.positions(span.positions.begin, span.size());
    run(executor, memory, x, positions, y, [&](const auto& heads, const auto& out) {
      cache.write(layer, span, heads.k, heads.v);
      attend(executor, memory, heads.q, cache.layer(layer), out, extras...);
    });
  }

  /// The same for a cache of one layer, which grows by the tokens of x; where this throws, it is as it was.
  template <ExecutorLike E, Cache C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, const MatrixOut& y,
               const X&... extras) const {
    check(x, y);
    detail::grow_by(cache, x.rows,
                    [&](const Span& span) { forward(executor, memory, x, cache, 0, span, y, extras...); });
  }

  /// Tokens of several sequences of a PagedCache, a BatchCache or what has the same members.
  template <ExecutorLike E, class C, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, C& cache, Index layer,
               const LayerBatch& batch, const MatrixOut& y, const X&... extras) const {
    detail::check_offsets("x", batch.offsets, x.rows, "rows of x");
    const std::size_t num_seqs = batch.offsets.size() - 1;
    GQA_CHECK(batch.spans.size() == num_seqs, std::invalid_argument,
              "spans: size is " << batch.spans.size() << ", expected the " << num_seqs << " sequences of x");
    constexpr bool by_id = requires(const TensorView<T>& k) {
      cache.write(layer, batch.ids[0], batch.spans[0], k, k);
    };
    GQA_CHECK(batch.ids.size() == (by_id ? num_seqs : 0), std::invalid_argument,
              "ids: size is " << batch.ids.size() << ", expected " << (by_id ? num_seqs : 0)
                              << (by_id ? ", one a sequence of x" : ": this cache's sequences have none"));
    for (std::size_t i = 0; i < num_seqs; ++i)
      GQA_CHECK(batch.spans[i].size() == batch.offsets[i + 1] - batch.offsets[i], std::invalid_argument,
                "spans: span " << i << " has " << batch.spans[i].size() << " tokens, expected the "
                               << batch.offsets[i + 1] - batch.offsets[i] << " of its sequence in x");
    const auto positions = memory.positions(
        batch.offsets, [&](Index i) { return batch.spans[static_cast<std::size_t>(i)].positions.begin; });
    run(executor, memory, x, positions, y, [&](const auto& heads, const auto& out) {
      const auto q = ragged(heads.q, batch.offsets);
      if constexpr (by_id) {
        for (std::size_t i = 0; i < num_seqs; ++i)
          cache.write(layer, batch.ids[i], batch.spans[i],
                      detail::some_tokens(heads.k, batch.offsets[i], batch.offsets[i + 1]),
                      detail::some_tokens(heads.v, batch.offsets[i], batch.offsets[i + 1]));
        attend(executor, memory, q, cache.layer(layer, batch.ids), out, extras...);
      } else {
        cache.write(layer, batch.spans, ragged(heads.k, batch.offsets), ragged(heads.v, batch.offsets));
        attend(executor, memory, q, cache.layer(layer), out, extras...);
      }
    });
  }

  /// Whole sequences, which no cache keeps: one, or those between `offsets`. Each begins at position 0.
  template <ExecutorLike E, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, std::span<const Index> offsets,
               const MatrixOut& y, const X&... extras) const {
    detail::check_offsets("x", offsets, x.rows, "rows of x");
    const auto positions = memory.positions(offsets, [](Index) { return Index{0}; });
    run(executor, memory, x, positions, y, [&](const auto& heads, const auto& out) {
      detail::check_layer_extras<X...>();
      attention(executor, ragged(heads.q, offsets), ragged(heads.k, offsets), ragged(heads.v, offsets), out,
                *config_.grouping, options(memory), extras...);
    });
  }
  template <ExecutorLike E, detail::Extras... X>
  void forward(E&& executor, LayerMemory<T>& memory, const MatrixView& x, const MatrixOut& y,
               const X&... extras) const {
    const Index offsets[] = {0, x.rows};
    forward(executor, memory, x, std::span<const Index>(offsets), y, extras...);
  }

  /// With attention left to the caller: `attend(heads, out)` is called once with q, k and v of x's tokens at
  /// the given positions, and writes tokens x H x value_dim to out.
  template <ExecutorLike E>
  void run(E&& executor, LayerMemory<T>& memory, const MatrixView& x, std::span<const Index> positions,
           const MatrixOut& y, detail::Attend<T> attend) const {
    check(x, y);
    GQA_CHECK(std::ssize(positions) == x.rows, std::invalid_argument,
              "positions: size is " << positions.size() << ", expected the " << x.rows << " rows of x");
    if (config_.rope) Rope::check_positions(positions);
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      const Index n = x.rows,
                  width = checked_add(config_.qkv_size(), config_.attended_size(), "AttentionLayer");
      // Without tokens there is memory to point to all the same.
      const Index elements = checked_mul(std::max<Index>(n, 1), width, "AttentionLayer");
      T* qkv = reinterpret_cast<T*>(
          memory.workspace().reserve_between_calls(checked_mul(elements, sizeof(T), "AttentionLayer")));
      T* attended = qkv + n * config_.qkv_size();
      const auto heads = project(runner, memory, x, qkv);
      normalise(runner, heads);
      rotate(runner, memory, heads, positions);
      attend(heads, TensorView<T>(attended, n, config_.num_q_heads, config_.value_dim));
      const Projection& o = projections_.output;
      detail::linear(runner, {MatrixView(attended, n, config_.attended_size()), o.weight, o.bias, y},
                     {.workspace = &memory.workspace()});
    });
  }

 private:
  static constexpr bool in_double = std::is_same_v<T, double>;

  void check(const MatrixView& x, const MatrixOut& y) const {
    detail::check_layer_rows(x, y, in_dim_, out_dim(), in_double);
    detail::check_apart(y, "the q projection", projections_.q);
    detail::check_apart(y, "the k projection", projections_.k);
    detail::check_apart(y, "the v projection", projections_.v);
    detail::check_apart(y, "the output projection", projections_.output);
  }

  AttentionOptions options(LayerMemory<T>& memory) const {
    return {.scale = config_.scale, .workspace = &memory.workspace()};
  }

  template <class E, class Q, class View, class... X>
  void attend(E& executor, LayerMemory<T>& memory, const Q& q, const View& view, const TensorView<T>& out,
              const X&... extras) const {
    detail::check_layer_extras<X...>();
    attention(executor, q, view, out, *config_.grouping, options(memory), extras...);
  }

  detail::LayerHeads<T> project(const detail::ExecutorRef& runner, LayerMemory<T>& memory,
                                const MatrixView& x, T* qkv) const {
    const Index n = x.rows, width = config_.qkv_size();
    const LinearOptions options{.workspace = &memory.workspace()};
    const auto multiply = [&](const Projection& p, Index first) {
      detail::linear(runner, {x, p.weight, p.bias, MatrixOut(qkv + first, n, p.weight.rows, width)}, options);
    };
    const Index k = config_.q_size(), v = k + config_.k_size();
    if (projections_.qkv.weight.format != nullptr) {
      multiply(projections_.qkv, 0);
    } else {
      multiply(projections_.q, 0);
      multiply(projections_.k, k);
      multiply(projections_.v, v);
    }
    const auto heads = [&](Index first, Index num_heads, Index dim) {
      return TensorView<T>(qkv + first, {1, n, num_heads, dim}, {n * width, width, dim});
    };
    return {heads(0, config_.num_q_heads, config_.head_dim), heads(k, config_.num_kv_heads, config_.head_dim),
            heads(v, config_.num_kv_heads, config_.value_dim)};
  }

  void normalise(const detail::ExecutorRef& runner, const detail::LayerHeads<T>& heads) const {
    if (!config_.q_norm && !config_.k_norm) return;
    detail::for_token_blocks(runner, heads.q.tokens, [&](Index begin, Index end) {
      if (config_.q_norm) config_.q_norm->apply(detail::some_tokens(heads.q, begin, end));
      if (config_.k_norm) config_.k_norm->apply(detail::some_tokens(heads.k, begin, end));
    });
  }

  void rotate(const detail::ExecutorRef& runner, LayerMemory<T>& memory, const detail::LayerHeads<T>& heads,
              std::span<const Index> positions) const {
    if (!config_.rope) return;
    detail::rotate_tokens<T>(runner, memory.rotations(*config_.rope, positions), heads.q, heads.k);
  }

  AttentionProjections projections_;
  AttentionLayerConfig config_;
  Index in_dim_ = 0;
};

}  // namespace gqa
