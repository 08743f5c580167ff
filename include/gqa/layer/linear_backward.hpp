// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <optional>

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
  Workspace own;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : own;
  // The bias' gradient is the product of a row of ones with dy.
  MatrixView all_tokens;
  const auto make_ones = [&]<class T>(T one) {
    T* const ones = reinterpret_cast<T*>(
        workspace.reserve_between_calls(checked_mul(std::max<Index>(dy.rows, 1), sizeof(T), "workspace")));
    std::fill_n(ones, dy.rows, one);
    all_tokens = MatrixView(ones, 1, dy.rows);
  };
  if (into.bias && dy.format->in_double) make_ones(1.0);
  if (into.bias && !dy.format->in_double) make_ones(1.0f);

  std::array<std::optional<LinearCall>, 3> calls;
  if (into.x) calls[0].emplace(LinearCall{dy, weight.transposed(), {}, *into.x});
  if (into.weight) calls[1].emplace(LinearCall{dy.transposed(), x.transposed(), {}, *into.weight});
  if (into.bias) calls[2].emplace(LinearCall{all_tokens, dy.transposed(), {}, *into.bias});
  check_size("dy", "rows", dy.rows, x.rows, "x");
  check_size("dy", "columns", dy.columns, weight.rows, "the rows of weight");
  check_size("x", "columns", x.columns, weight.columns, "weight");
  for (const auto& call : calls) {
    if (!call) continue;
    check_linear(*call);
    for (const MatrixView& read : {x, weight, dy}) check_apart("a gradient", call->y.view, "an input", read);
    for (const auto& other : calls)
      if (other && &other != &call) check_apart("a gradient", call->y.view, "another", other->y.view);
  }
  LinearOptions in_workspace = options;
  in_workspace.workspace = &workspace;
  for (const auto& call : calls)
    if (call) linear(executor, *call, in_workspace);
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
