// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/core/random.hpp"
#include "gqa/kv/batch.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/plan/call_shape.hpp"

namespace gqa {

/// A clock in seconds. One that counts the calling thread's own time suits machines that others use too, and
/// calls on one thread.
using Clock = double (*)();

/// The time that passes.
inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace gqa

namespace gqa::detail {

/// A call of attention of given sizes with random numbers, to be timed: over a cache, one layer after
/// another.
template <Scalar T>
class TrialCall {
 public:
  explicit TrialCall(const CallShape& shape, Index num_layers = 1)
      : shape_(shape),
        mask_(shape.window > 0 ? sliding_window(shape.window)
              : shape.causal   ? causal()
                               : no_mask()),
        cache_({.num_seqs = shape.num_seqs,
                .max_tokens = shape.kv_tokens,
                .num_layers = num_layers,
                .num_kv_heads = shape.num_kv_heads,
                .head_dim = shape.head_dim,
                .value_dim = shape.values()}),
        q_(numbers(shape.q_tokens * shape.num_q_heads * shape.head_dim)),
        out_(static_cast<std::size_t>(shape.num_seqs * shape.q_tokens * shape.num_q_heads * shape.values())) {
    const Index step = std::min<Index>(shape.kv_tokens, 512);
    const auto k = numbers(step * shape.num_kv_heads * shape.head_dim),
               v = numbers(step * shape.num_kv_heads * shape.values());
    for (Index token = 0; token < shape.kv_tokens; token += step) {
      const Index n = std::min(step, shape.kv_tokens - token);
      const auto span = cache_.extend(n);
      for (Index layer = 0; layer < num_layers; ++layer)
        cache_.write(layer, span, view<const T>(k, n, shape.num_kv_heads, shape.head_dim),
                     view<const T>(v, n, shape.num_kv_heads, shape.values()));
    }
  }

  template <ExecutorLike E>
  void run(E& executor, const Tuning& tuning = {}) {
    const Index layer = next_;
    next_ = (next_ + 1) % cache_.num_layers();
    attention(
        executor, view<const T>(q_, shape_.q_tokens, shape_.num_q_heads, shape_.head_dim),
        cache_.layer(layer),
        TensorView<T>(out_.data(), shape_.num_seqs, shape_.q_tokens, shape_.num_q_heads, shape_.values()),
        mask_, AttentionOptions{.workspace = &workspace_, .tuning = tuning});
  }

  /// Seconds of one run.
  template <ExecutorLike E>
  double time(E& executor, Clock clock, const Tuning& tuning = {}) {
    const double start = clock();
    run(executor, tuning);
    return clock() - start;
  }

 private:
  /// For each sequence the same.
  std::vector<T> numbers(Index per_sequence) const {
    Random random(1);
    T some[997];
    for (T& x : some) x = rounded_to<T>(2 * random.uniform() - 1);
    std::vector<T> all(static_cast<std::size_t>(per_sequence));
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = some[i % std::size(some)];
    return all;
  }
  template <class U>
  TensorView<U> view(const std::vector<T>& of, Index tokens, Index heads, Index dim) const {
    TensorView<U> all(of.data(), shape_.num_seqs, tokens, heads, dim);
    all.batch_stride = 0;
    return all;
  }

  CallShape shape_;
  Window mask_;
  BatchCache<T> cache_;
  std::vector<T> q_, out_;
  Workspace workspace_;
  Index next_ = 0;
};

}  // namespace gqa::detail
