// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <vector>

#include "gqa/layer/linear.hpp"

namespace gqa {

/// Where the gradients of linear() go; what is left out is not computed.
struct LinearGradients {
  std::optional<MatrixOut> x = {};       ///< tokens x in_dim
  std::optional<MatrixOut> weight = {};  ///< out_dim x in_dim
  std::optional<MatrixOut> bias = {};    ///< 1 x out_dim
};

namespace detail {

inline void linear_backward(const ExecutorRef& executor, const MatrixView& x, const MatrixView& weight,
                            const MatrixView& dy, const LinearGradients& into, const LinearOptions& options) {
  GQA_CHECK(dy.format != nullptr, std::invalid_argument, "dy: no matrix is given");
  GQA_CHECK(!options.round_to_bf16, std::invalid_argument,
            "round_to_bf16: it is for linear(), and linear_backward() rounds nothing");
  std::vector<double> ones(into.bias ? static_cast<std::size_t>(dy.rows) : 0, 1);
  const std::vector<float> narrow_ones(into.bias && !dy.format->in_double ? ones.size() : 0, 1);
  MatrixView all_tokens(ones.data(), 1, dy.rows);
  if (!dy.format->in_double) all_tokens = MatrixView(narrow_ones.data(), 1, dy.rows);

  std::vector<LinearCall> calls;
  if (into.x) calls.push_back({dy, weight.transposed(), {}, *into.x});
  if (into.weight) calls.push_back({dy.transposed(), x.transposed(), {}, *into.weight});
  if (into.bias) calls.push_back({all_tokens, dy.transposed(), {}, *into.bias});
  check_size("dy", "rows", dy.rows, x.rows, "x");
  check_size("dy", "columns", dy.columns, weight.rows, "the rows of weight");
  check_size("x", "columns", x.columns, weight.columns, "weight");
  for (const LinearCall& call : calls) {
    check_linear(call);
    for (const MatrixView& read : {x, weight, dy}) check_apart("a gradient", call.y.view, "an input", read);
    for (const LinearCall& other : calls)
      if (&other != &call) check_apart("a gradient", call.y.view, "another", other.y.view);
  }
  for (const LinearCall& call : calls) linear(executor, call, options);
}

}  // namespace detail

/// The gradients of linear(): from dy, the loss's gradient by y, those by x, W and b,
///
///     dx = dy W,   dW = dy^T x,   db = sum_t dy[t],
///
/// of the types of linear() and each written where `into` says, what is left out of it not computed. They are
/// linear()'s own products of the same memory transposed, so no bit depends on the executor. Throws
/// std::invalid_argument for sizes or types that do not belong together and for gradients in the memory of
/// anything else, before anything is written.
template <ExecutorLike E>
void linear_backward(E&& executor, const MatrixView& x, const MatrixView& weight, const MatrixView& dy,
                     const LinearGradients& into, const LinearOptions& options = {}) {
  detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
    detail::linear_backward(runner, x, weight, dy, into, options);
  });
}
inline void linear_backward(const MatrixView& x, const MatrixView& weight, const MatrixView& dy,
                            const LinearGradients& into, const LinearOptions& options = {}) {
  linear_backward(Serial{}, x, weight, dy, into, options);
}

}  // namespace gqa
