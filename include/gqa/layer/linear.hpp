// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/layer/matrix_view.hpp"

namespace gqa {

/// What is not said by the matrices. Everything may be left out.
struct LinearOptions {
  bool round_to_bf16 =
      false;  ///< x is rounded to bf16 first; where the weights are bf16 too and the processor
              ///< multiplies bf16, that is how they are multiplied, with sums of another order
  Workspace* workspace = nullptr;  ///< memory to work in, kept by the caller; none: allocated for the call
};

namespace detail {

/// y = x W^T + b, checked, with sums in Acc.
struct LinearCall {
  MatrixView x, weight;
  VectorView bias;
  MatrixOut y;
  bool round_to_bf16 = false;
};

template <class Acc>
void run_linear(const ExecutorRef& executor, const LinearCall& call, Workspace& workspace);

/// Throws std::invalid_argument unless a size is what another matrix has.
inline void check_size(const char* name, const char* size, Index is, Index expected, const char* as) {
  GQA_CHECK(is == expected, std::invalid_argument,
            name << ": " << size << " is " << is << ", expected " << expected << " as in " << as);
}

/// Throws std::invalid_argument for sizes and types that do not belong together.
inline void check_linear(const LinearCall& call) {
  const auto check_type = [&](const char* name, const MatrixView& m) {
    GQA_CHECK(m.format != nullptr, std::invalid_argument, name << ": no matrix is given");
    GQA_CHECK(m.format->in_double == call.y.view.format->in_double, std::invalid_argument,
              name << ": elements are " << m.format->name << " and those of y " << call.y.view.format->name
                   << ", expected f64 with f64 only");
  };
  check_type("x", call.x);
  check_type("weight", call.weight);
  if (call.bias.row.format != nullptr) {
    check_type("bias", call.bias.row);
    check_size("bias", "size", call.bias.size(), call.weight.rows, "the rows of weight");
  }
  GQA_CHECK(!call.round_to_bf16 || !call.y.view.format->in_double, std::invalid_argument,
            "round_to_bf16: elements are f64, expected f32, f16 or bf16");
  check_size("x", "columns", call.x.columns, call.weight.columns, "weight");
  check_size("y", "rows", call.y.view.rows, call.x.rows, "x");
  check_size("y", "columns", call.y.view.columns, call.weight.rows, "the rows of weight");
  check_apart("y", call.y.view, "x", call.x);
  check_apart("y", call.y.view, "weight", call.weight);
  check_apart("y", call.y.view, "bias", call.bias.row);
}

/// Checks a call and runs it in its own type.
inline void linear(const ExecutorRef& executor, const LinearCall& call, const LinearOptions& options) {
  check_linear(call);
  Workspace own;
  Workspace& workspace = options.workspace != nullptr ? *options.workspace : own;
  if (call.y.view.format->in_double)
    run_linear<double>(executor, call, workspace);
  else
    run_linear<float>(executor, call, workspace);
}

}  // namespace detail

/// The linear layer of every model: for token t and output n,
///
///     y[t, n] = sum_k x[t, k] * W[n, k] (+ b[n])
///
/// x is tokens x in_dim, W out_dim x in_dim (row-major, as PyTorch and GGUF keep it; or column-major: then it
/// is copied a few rows at a time), y tokens x out_dim, b out_dim numbers: Eigen matrices, maps or blocks,
/// tensors whose heads stand side by side, or MatrixViews of memory; f32, f16 and bf16 in any mixture, or all
/// of f64. Nothing of W is copied: it is read once where it stands, at the speed of memory where tokens are
/// few, and widened in registers. Several weights may read column blocks of one x, or one weight write a
/// block of y.
///
/// Sums are taken in float (double for f64) in 64 bytes of lanes, lane l taking the elements k = l modulo
/// their number in ascending order, which are then added in pairs of neighbours; the bias comes last, and y
/// is rounded once. So no bit of a token's row depends on the other tokens, the executor, how W is stored, or
/// which of its rows are computed at once.
///
/// Before the matrices, optionally, what to run on: an Eigen::ThreadPool, Eigen::ThreadPoolDevice or
/// Executor; the calling thread otherwise. Throws std::invalid_argument naming the argument for sizes or
/// types that do not belong together and for y in the memory of x, W or b, before anything is written.
template <ExecutorLike E>
void linear(E&& executor, const MatrixView& x, const MatrixView& weight, const VectorView& bias,
            const MatrixOut& y, const LinearOptions& options = {}) {
  detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
    detail::linear(runner, {x, weight, bias, y, options.round_to_bf16}, options);
  });
}
template <ExecutorLike E>
void linear(E&& executor, const MatrixView& x, const MatrixView& weight, const MatrixOut& y,
            const LinearOptions& options = {}) {
  linear(executor, x, weight, VectorView(), y, options);
}
inline void linear(const MatrixView& x, const MatrixView& weight, const VectorView& bias, const MatrixOut& y,
                   const LinearOptions& options = {}) {
  linear(Serial{}, x, weight, bias, y, options);
}
inline void linear(const MatrixView& x, const MatrixView& weight, const MatrixOut& y,
                   const LinearOptions& options = {}) {
  linear(Serial{}, x, weight, VectorView(), y, options);
}

}  // namespace gqa

#ifdef GQA_COMPILED  // they are in the library that gqa::compiled links
#define GQA_EXTERN extern
#include "gqa/layer/instantiate_linear.inl"
#undef GQA_EXTERN
#else
#include "gqa/layer/run_linear.hpp"
#endif
