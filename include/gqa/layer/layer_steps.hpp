// SPDX-License-Identifier: Apache-2.0
// What attention layers do to tokens between their products.
#pragma once

#include <algorithm>

#include "gqa/core/parallel.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kernel/extras.hpp"
#include "gqa/position/rope_table.hpp"

namespace gqa::detail {

template <class... X>
constexpr void check_layer_extras() {
  static_assert(count_of<Extra::grouping, X...> == 0 && count_of<Extra::options, X...> == 0,
                "gqa: heads, scale and workspace of a layer are its config's and its memory's: leave "
                "HeadGrouping and AttentionOptions out");
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
