// SPDX-License-Identifier: Apache-2.0
// What attention layers do to tokens between their products.
#pragma once

#include <algorithm>

#include "gqa/core/parallel.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kernel/extras.hpp"
#include "gqa/kv/sequence.hpp"
#include "gqa/layer/projections.hpp"
#include "gqa/position/rope_table.hpp"

namespace gqa::detail {

template <class... X>
constexpr void check_layer_extras() {
  static_assert(count_of<Extra::grouping, X...> == 0 && count_of<Extra::options, X...> == 0,
                "gqa: heads, scale and workspace of a layer are its config's and its memory's: leave "
                "HeadGrouping and AttentionOptions out");
}

/// Throws std::invalid_argument unless x is tokens x in_dim and y tokens x out_dim, of what a layer of double
/// or float takes.
inline void check_layer_rows(const MatrixView& x, const MatrixOut& y, Index in_dim, Index out_dim,
                             bool in_double) {
  const auto check_type = [&](const char* name, const MatrixView& m) {
    GQA_CHECK(m.format != nullptr && m.format->in_double == in_double, std::invalid_argument,
              name << ": elements are " << (m.format == nullptr ? "missing" : m.format->name)
                   << ", expected f64 in a layer of double and no f64 in one of float");
  };
  check_type("x", x);
  check_type("y", y.view);
  GQA_CHECK(x.columns == in_dim, std::invalid_argument,
            "x: columns is " << x.columns << ", expected the " << in_dim << " of the layer's weights");
  GQA_CHECK(y.view.rows == x.rows && y.view.columns == out_dim, std::invalid_argument,
            "y: sizes are " << y.view.rows << " x " << y.view.columns << ", expected " << x.rows << " x "
                            << out_dim);
}

/// Throws std::invalid_argument where y has a byte of a weight or a bias.
inline void check_apart(const MatrixOut& y, const char* name, const Projection& p) {
  check_apart("y", y.view, name, p.weight);
  check_apart("y", y.view, name, p.bias.row);
}

/// Gives f the span of a cache of one layer that grows by some tokens; where f throws, the cache is as it
/// was.
template <class C, class F>
void grow_by(C& cache, Index tokens, F&& f) {
  GQA_CHECK(cache.num_layers() == 1, std::invalid_argument,
            "cache: num_layers is " << cache.num_layers() << ", expected 1; give the layer and a span");
  const Span span = cache.extend(tokens);
  try {
    f(span);
  } catch (...) {
    cache.truncate(span.positions.begin);
    throw;
  }
}

/// Some tokens of a tensor without batch.
template <class T>
TensorView<T> some_tokens(TensorView<T> x, Index begin, Index end) {
  x.data += begin * x.token_stride;
  x.tokens = end - begin;
  return x;
}

/// Calls f(first token, end) for blocks of tokens, whose heads are changed each by itself.
template <class F>
void for_token_blocks(const ExecutorRef& runner, Index tokens, F&& f) {
  constexpr Index block = 64;
  const Index blocks = ceil_div(tokens, block);
  const auto one = [&](Index i) { f(i * block, std::min(tokens, (i + 1) * block)); };
  if (blocks <= 1)
    Serial::parallel_for(blocks, one);
  else
    runner.parallel_for(blocks, one);
}

/// Rotates the heads of queries and keys, as many tokens of both as the table has positions.
template <class T>
void rotate_tokens(const ExecutorRef& runner, const RopeTable<T>& table, const TensorView<T>& q,
                   const TensorView<T>& k) {
  if (table.range().empty()) {  // positions in no order
    table.apply(q);
    table.apply(k);
    return;
  }
  const Index first = table.range().begin;
  for_token_blocks(runner, q.tokens, [&](Index begin, Index end) {
    table.apply(some_tokens(q, begin, end), first + begin);
    table.apply(some_tokens(k, begin, end), first + begin);
  });
}

}  // namespace gqa::detail
