// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <span>
#include <vector>

#include "gqa/attention_backward.hpp"
#include "gqa/layer/attention_layer.hpp"
#include "gqa/layer/linear_backward.hpp"

namespace gqa {

/// A packed matrix of numbers that owns its memory.
template <class T>
class GradientMatrix {
 public:
  Index rows() const { return rows_; }
  Index columns() const { return columns_; }
  std::span<T> values() { return values_; }
  std::span<const T> values() const { return values_; }
  using Map = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
  Map map() const { return Map(values_.data(), rows_, columns_); }

  /// What was there is lost.
  void resize(Index rows, Index columns) {
    values_.resize(static_cast<std::size_t>(checked_mul(rows, columns, "gradient")));
    rows_ = rows;
    columns_ = columns;
  }
  MatrixOut out() { return MatrixOut(values_.data(), rows_, columns_, columns_); }
  MatrixView view() const { return MatrixView(values_.data(), rows_, columns_); }

 private:
  Index rows_ = 0, columns_ = 0;
  std::vector<T> values_;
};

/// The gradients of an attention layer, shaped as what they are of; empty where the layer has no such thing.
/// Sums over the tokens of one call.
template <class T = float>
struct AttentionGradients {
  GradientMatrix<T> x;                                    ///< tokens x in_dim
  GradientMatrix<T> q, k, v, output;                      ///< of the weights
  GradientMatrix<T> q_bias, k_bias, v_bias, output_bias;  ///< 1 x out_dim
  std::vector<double> q_norm, k_norm;                     ///< of the weights of QK-norm
};

/// What a layer's backward has to know of its forward: x, q, k and v as they were multiplied, the heads'
/// outputs and the lse; linear in the tokens. One for each layer of a pass.
///
///     gqa::AttentionTape<> tape;
///     tape.forward(pool, layer, memory, x, y, gqa::causal());
///     tape.backward(pool, layer, memory, dy, gradients, gqa::causal());
///
/// with the same layer, and the same mask and score function.
template <class T = float>
class AttentionTape {
 public:
  /// layer.forward() of whole sequences, one or those between `offsets`, with the same bits.
  template <ExecutorLike E, detail::Extras... X>
  void forward(E&& executor, const AttentionLayer<T>& layer, LayerMemory<T>& memory, const MatrixView& x,
               std::span<const Index> offsets, const MatrixOut& y, const X&... extras) {
    detail::check_offsets("x", offsets, x.rows, "rows of x");
    const AttentionLayerConfig& c = layer.config();
    const auto positions = memory.positions(offsets, [](Index) { return Index{0}; });
    filled_ = false;
    layer.run(executor, memory, x, positions, y, [&](const auto& heads, const auto& out) {
      keep(layer, x, offsets, heads);
      const auto lse = lse_rows(c.num_q_heads);
      detail::check_layer_extras<X...>();
      attention(executor, ragged(view_of(q_, c.num_q_heads, c.head_dim), offsets_),
                ragged(view_of(k_, c.num_kv_heads, c.head_dim), offsets_),
                ragged(view_of(v_, c.num_kv_heads, c.value_dim), offsets_), out, *c.grouping,
                options(layer, memory), lse_into(lse), extras...);
      std::copy_n(out.data, out_.size(), out_.begin());
    });
    filled_ = true;
  }
  template <ExecutorLike E, detail::Extras... X>
  void forward(E&& executor, const AttentionLayer<T>& layer, LayerMemory<T>& memory, const MatrixView& x,
               const MatrixOut& y, const X&... extras) {
    const Index offsets[] = {0, x.rows};
    forward(executor, layer, memory, x, std::span<const Index>(offsets), y, extras...);
  }

  /// From dy, the loss's gradient by y, all others:
  ///
  ///     dO = dy Wo,  dWo = dy^T O;   dq, dk, dv = attention_backward(dO);   back through rope and norm;
  ///     dWq = dq^T x, dWk = dk^T x, dWv = dv^T x,   dx = dq Wq + dk Wk + dv Wv,   biases sums over tokens.
  ///
  /// No bit depends on the executor. sink_gradient_into and score_gradient_into may stand among the extras.
  /// Throws std::logic_error where no forward has been kept, and std::invalid_argument for a dy or a layer of
  /// other sizes.
  template <ExecutorLike E, detail::Extras... X>
  void backward(E&& executor, const AttentionLayer<T>& layer, LayerMemory<T>& memory, const MatrixView& dy,
                AttentionGradients<T>& gradients, const X&... extras) {
    check(layer, dy);
    detail::check_layer_extras<X...>();
    const AttentionLayerConfig& c = layer.config();
    const AttentionProjections& p = layer.projections();
    gradients.x.resize(tokens(), layer.in_dim());
    resize(layer, gradients);
    detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
      const LinearOptions in{.workspace = &memory.workspace()};
      d_out_.resize(out_.size());
      const MatrixOut d_out(d_out_.data(), tokens(), c.attended_size(), c.attended_size());
      const auto of_bias = [](const Projection& of, GradientMatrix<T>& into) {
        return of.bias.size() == 0 ? std::optional<MatrixOut>() : into.out();
      };
      detail::linear_backward(runner, MatrixView(out_.data(), tokens(), c.attended_size()), p.output.weight,
                              dy, {d_out, gradients.output.out(), of_bias(p.output, gradients.output_bias)},
                              in);

      for (auto [d, like] : {std::pair{&dq_, &q_}, {&dk_, &k_}, {&dv_, &v_}}) d->resize(like->size());
      const auto dq = view_of(dq_, c.num_q_heads, c.head_dim), dk = view_of(dk_, c.num_kv_heads, c.head_dim),
                 dv = view_of(dv_, c.num_kv_heads, c.value_dim);
      attention_backward(executor, ragged(view_of(q_, c.num_q_heads, c.head_dim), offsets_),
                         ragged(view_of(k_, c.num_kv_heads, c.head_dim), offsets_),
                         ragged(view_of(v_, c.num_kv_heads, c.value_dim), offsets_),
                         view_of(out_, c.num_q_heads, c.value_dim), lse_rows(c.num_q_heads),
                         view_of(d_out_, c.num_q_heads, c.value_dim), gradients_into(dq, dk, dv), *c.grouping,
                         options(layer, memory), extras...);
      if (c.rope) {
        const auto& table = memory.rotations(
            *c.rope, memory.positions(std::span<const Index>(offsets_), [](Index) { return Index{0}; }));
        const auto turn_back = [&](const auto& d) {
          if (table.range().empty())
            table.apply_transpose(d);
          else
            table.apply_transpose(d, table.range().begin);
        };
        turn_back(dq);
        turn_back(dk);
      }
      if (c.q_norm) norm_backward(runner, *c.q_norm, p.q, dq, gradients.q_norm, in);
      if (c.k_norm) norm_backward(runner, *c.k_norm, p.k, dk, gradients.k_norm, in);

      const MatrixView x(x_.data(), tokens(), layer.in_dim());
      const auto back = [&](const Projection& of, const std::vector<T>& d, GradientMatrix<T>& weight,
                            GradientMatrix<T>& bias, const MatrixOut& dx) {
        detail::linear_backward(runner, x, of.weight, MatrixView(d.data(), tokens(), of.weight.rows),
                                {dx, weight.out(), of_bias(of, bias)}, in);
      };
      dx_.resize(x_.size());
      const MatrixOut part(dx_.data(), tokens(), layer.in_dim(), layer.in_dim());
      const auto add = [&] {
        for (std::size_t i = 0; i < dx_.size(); ++i) gradients.x.values()[i] += dx_[i];
      };
      back(p.q, dq_, gradients.q, gradients.q_bias, gradients.x.out());
      back(p.k, dk_, gradients.k, gradients.k_bias, part);
      add();
      back(p.v, dv_, gradients.v, gradients.v_bias, part);
      add();
    });
  }

 private:
  Index tokens() const { return offsets_.empty() ? 0 : offsets_.back(); }
  TensorView<T> view_of(std::vector<T>& x, Index heads, Index dim) const {
    return TensorView<T>(x.data(), tokens(), heads, dim);
  }
  RowsView<T> lse_rows(Index heads) { return {lse_.data(), 1, tokens(), heads, std::ssize(lse_), heads, 1}; }
  static AttentionOptions options(const AttentionLayer<T>& layer, LayerMemory<T>& memory) {
    return {.scale = layer.config().scale, .workspace = &memory.workspace()};
  }

  void keep(const AttentionLayer<T>& layer, const MatrixView& x, std::span<const Index> offsets,
            const detail::LayerHeads<T>& heads) {
    offsets_.assign(offsets.begin(), offsets.end());
    const AttentionLayerConfig& c = layer.config();
    const auto size = [&](Index width) {
      return static_cast<std::size_t>(checked_mul(tokens(), width, "AttentionTape"));
    };
    x_.resize(size(layer.in_dim()));
    const auto& kernels = x.format->template kernels<T>(isa());
    for (Index t = 0; t < tokens(); ++t) {
      T* const row = x_.data() + t * layer.in_dim();
      if (x.by_columns)
        for (Index i = 0; i < x.columns; ++i) kernels.widen_row(x.at(t, i), 1, T{1}, row + i);
      else
        kernels.widen_row(x.at(t, 0), x.columns, T{1}, row);
    }
    const auto copy = [&](const TensorView<T>& from, std::vector<T>& to) {
      const Index width = from.heads * from.dim;
      to.resize(size(width));
      for (Index t = 0; t < from.tokens; ++t) std::copy_n(from.at(0, t, 0), width, to.data() + t * width);
    };
    copy(heads.q, q_);
    copy(heads.k, k_);
    copy(heads.v, v_);
    out_.resize(size(c.attended_size()));
    lse_.resize(size(c.num_q_heads));
  }

  void check(const AttentionLayer<T>& layer, const MatrixView& dy) const {
    GQA_CHECK(filled_, std::logic_error, "AttentionTape: backward before a forward");
    GQA_CHECK(dy.rows == tokens() && dy.columns == layer.out_dim(), std::invalid_argument,
              "dy: sizes are " << dy.rows << " x " << dy.columns << ", expected " << tokens() << " x "
                               << layer.out_dim() << " as y in the forward");
    const AttentionLayerConfig& c = layer.config();
    const auto same = [&](const std::vector<T>& kept, Index width) {
      return std::ssize(kept) == tokens() * width;
    };
    GQA_CHECK(same(x_, layer.in_dim()) && same(q_, c.q_size()) && same(k_, c.k_size()) &&
                  same(v_, c.v_size()) && same(lse_, c.num_q_heads),
              std::invalid_argument, "AttentionTape: the layer has other sizes than that of the forward");
  }

  static void resize(const AttentionLayer<T>& layer, AttentionGradients<T>& g) {
    const AttentionProjections& p = layer.projections();
    const auto weight_and_bias = [](const Projection& of, GradientMatrix<T>& weight,
                                    GradientMatrix<T>& bias) {
      weight.resize(of.weight.rows, of.weight.columns);
      bias.resize(of.bias.size() == 0 ? 0 : 1, of.bias.size());
    };
    weight_and_bias(p.q, g.q, g.q_bias);
    weight_and_bias(p.k, g.k, g.k_bias);
    weight_and_bias(p.v, g.v, g.v_bias);
    weight_and_bias(p.output, g.output, g.output_bias);
  }

  /// The tokens are cut into blocks of a fixed number, whose sums are added in ascending order.
  void norm_backward(const detail::ExecutorRef& runner, const QKNorm& norm, const Projection& of,
                     const TensorView<T>& d, std::vector<double>& of_weights, const LinearOptions& in) {
    constexpr Index block = 64;
    // Its argument is computed once more in place of being kept.
    raw_.resize(static_cast<std::size_t>(d.tokens * d.heads * d.dim));
    const Index width = d.heads * d.dim;
    detail::linear(runner,
                   {MatrixView(x_.data(), tokens(), of.weight.columns), of.weight, of.bias,
                    MatrixOut(raw_.data(), tokens(), width, width)},
                   in);
    const TensorView<T> raw(raw_.data(), d.tokens, d.heads, d.dim);
    const Index blocks = ceil_div(d.tokens, block), dim = norm.head_dim();
    sums_.assign(static_cast<std::size_t>(blocks * dim), 0);
    const auto one = [&](Index i) {
      const Index begin = i * block, end = std::min(d.tokens, begin + block);
      norm.backward(
          detail::some_tokens(raw, begin, end), detail::some_tokens(d, begin, end),
          std::span(sums_).subspan(static_cast<std::size_t>(i * dim), static_cast<std::size_t>(dim)));
    };
    runner.parallel_for(blocks, one);
    of_weights.assign(static_cast<std::size_t>(dim), 0);
    for (std::size_t i = 0; i < sums_.size(); ++i) of_weights[i % static_cast<std::size_t>(dim)] += sums_[i];
  }

  bool filled_ = false;
  std::vector<Index> offsets_;
  std::vector<T> x_, q_, k_, v_, out_, lse_;
  std::vector<T> d_out_, dq_, dk_, dv_, dx_, raw_;  // of a backward
  std::vector<double> sums_;
};

}  // namespace gqa
