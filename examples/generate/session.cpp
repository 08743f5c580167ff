// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include <chrono>
#include <stdexcept>
#include <utility>

#include "gqa/core/error.hpp"
#include "gqa/gqa.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/mask.hpp"
#include "gqa/position/rope_table.hpp"
#include "linear.hpp"

namespace generate {
namespace {

/// y_t <- x_t / sqrt(mean(x_t^2) + epsilon) * weight (RMSNorm, Zhang and Sennrich 2019).
void rms_norm(const Eigen::Ref<const Matrix>& x, const Vector& weight, double epsilon, Eigen::Ref<Matrix> y) {
  for (Index t = 0; t < x.rows(); ++t) {
    const float mean = x.row(t).squaredNorm() / static_cast<float>(x.cols());
    y.row(t) = x.row(t).cwiseProduct(weight) / std::sqrt(mean + static_cast<float>(epsilon));
  }
}

template <class T>
class LlamaSession final : public Session {
 public:
  LlamaSession(const Model& model, gqa::PoolExecutor executor, AttentionHook hook)
      : model_(model),
        sizes_(model.sizes),
        executor_(executor),
        hook_(std::move(hook)),
        rotations_(gqa::Rope(model.sizes.rope)),
        cache_({.max_tokens = sizes_.context_length,
                .num_layers = sizes_.num_layers,
                .num_kv_heads = sizes_.num_kv_heads,
                .head_dim = sizes_.head_dim,
                .value_dim = sizes_.value_dim}) {}

  void append(std::span<const TokenId> tokens) override {
    for (const TokenId id : tokens) {
      GQA_CHECK(id >= 0 && id < sizes_.vocabulary_size, std::invalid_argument,
                "token id " << id << ", expected 0 to " << sizes_.vocabulary_size - 1);
    }
    const Index n = std::ssize(tokens);
    const gqa::Span span = cache_.extend(n);
    resize(n);
    rotations_.assign(span.positions);
    for (Index t = 0; t < n; ++t) hidden_.row(t) = model_.embedding.row(tokens[static_cast<std::size_t>(t)]);
    for (Index i = 0; i < sizes_.num_layers; ++i) {
      const Layer& layer = model_.layers[static_cast<std::size_t>(i)];
      attend(i, layer, span);
      feed_forward(layer);
    }
  }

  std::span<const float> logits() override {
    compute_logits(1);
    return {logits_.data(), static_cast<std::size_t>(logits_.cols())};
  }

  const Matrix& all_logits() override {
    compute_logits(hidden_.rows());
    return logits_;
  }

  Index size() const override { return cache_.size(); }
  Index cache_bytes() const override { return cache_.bytes(); }
  double attention_seconds() const override { return std::chrono::duration<double>(attention_time_).count(); }
  void clear() override { cache_.clear(); }

 private:
  using Clock = std::chrono::steady_clock;

  /// Buffers for n tokens; decoding, one after the other, reuses them.
  void resize(Index n) {
    hidden_.resize(n, sizes_.model_dim);
    normed_.resize(n, sizes_.model_dim);
    update_.resize(n, sizes_.model_dim);
    qkv_.resize(n, sizes_.qkv_size());
    attended_.resize(n, sizes_.attention_size());
    gate_up_.resize(n, 2 * sizes_.ffn_dim);
    activated_.resize(n, sizes_.ffn_dim);
  }

  /// The columns of `qkv_` from `first` on as tokens x heads x dim.
  gqa::TensorView<float> heads(Index first, Index num_heads, Index dim) {
    return {qkv_.data() + first, {1, qkv_.rows(), num_heads, dim}, {qkv_.size(), qkv_.cols(), dim}};
  }

  void attend(Index index, const Layer& layer, const gqa::Span& span) {
    rms_norm(hidden_, layer.attention_norm, sizes_.rms_epsilon, normed_);
    multiply(executor_, normed_, layer.qkv.weight, layer.qkv.bias, qkv_);
    const auto q = heads(0, sizes_.num_q_heads, sizes_.head_dim);
    const auto k = heads(sizes_.q_size(), sizes_.num_kv_heads, sizes_.head_dim);
    const auto v = heads(sizes_.q_size() + sizes_.k_size(), sizes_.num_kv_heads, sizes_.value_dim);
    rotations_.apply(q, span.positions.begin);
    rotations_.apply(k, span.positions.begin);

    const auto start = Clock::now();
    cache_.write(index, span, k, v);
    gqa::TensorView<float> out(attended_.data(), q.tokens, q.heads, sizes_.value_dim);
    gqa::attention(executor_, q, cache_.layer(index), out,
                   gqa::causal() & gqa::sliding_window(sizes_.sliding_window),
                   gqa::AttentionOptions{.workspace = &workspace_});
    attention_time_ += Clock::now() - start;
    if (hook_) hook_(index, q, k, v, out);

    multiply(executor_, attended_, layer.attention_output.weight, layer.attention_output.bias, update_);
    hidden_ += update_;
  }

  /// SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)).
  void feed_forward(const Layer& layer) {
    rms_norm(hidden_, layer.ffn_norm, sizes_.rms_epsilon, normed_);
    multiply(executor_, normed_, layer.gate_up.weight, layer.gate_up.bias, gate_up_);
    for (Index t = 0; t < gate_up_.rows(); ++t) {
      const auto gate = gate_up_.row(t).head(sizes_.ffn_dim).array();
      const auto up = gate_up_.row(t).tail(sizes_.ffn_dim).array();
      activated_.row(t) = (gate / (1 + (-gate).exp()) * up).matrix();
    }
    multiply(executor_, activated_, layer.down.weight, layer.down.bias, update_);
    hidden_ += update_;
  }

  /// Of the last `count` tokens fed.
  void compute_logits(Index count) {
    GQA_CHECK(hidden_.rows() >= 1, std::logic_error, "logits before the first token");
    logits_.resize(count, sizes_.vocabulary_size);
    auto normed = normed_.topRows(count);
    rms_norm(hidden_.bottomRows(count), model_.output_norm, sizes_.rms_epsilon, normed);
    multiply(executor_, normed, model_.output(), model_.separate_output.bias, logits_);
  }

  const Model& model_;
  const Hyperparameters& sizes_;
  gqa::PoolExecutor executor_;
  AttentionHook hook_;
  gqa::RopeTable<float> rotations_;
  gqa::KVCache<T> cache_;
  gqa::Workspace workspace_;
  Matrix hidden_, normed_, update_, qkv_, attended_, gate_up_, activated_, logits_;
  Clock::duration attention_time_{};
};

}  // namespace

std::unique_ptr<Session> make_session(const Model& model, CacheType type, gqa::PoolExecutor executor,
                                      AttentionHook hook) {
  switch (type) {
    case CacheType::f16:
      return std::make_unique<LlamaSession<gqa::half>>(model, executor, std::move(hook));
    case CacheType::bf16:
      return std::make_unique<LlamaSession<gqa::bfloat16>>(model, executor, std::move(hook));
    case CacheType::f32:
      break;
  }
  return std::make_unique<LlamaSession<float>>(model, executor, std::move(hook));
}

}  // namespace generate
