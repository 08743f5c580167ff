// SPDX-License-Identifier: Apache-2.0
// Memory that stands otherwise than tokens x heads x dim, as the views that attention and caches take.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "gqa/core/tensor.hpp"

namespace gqa {

/// A tensor that lists heads before tokens, as PyTorch and ONNX do: heads x tokens x dim or batch x heads x
/// tokens x dim, column-major ones in reverse. For q, k, v and out of attention() and for what a cache takes.
/// Refers to the tensor's memory, so a temporary that owns its own does not compile. Memory without a tensor:
/// `heads_first(TensorView(pointer, batch, heads, tokens, dim))`.
template <TensorLike Tensor>
auto heads_first(Tensor&& tensor) {
  const auto view = as_view(tensor);
  return TensorView<std::remove_pointer_t<decltype(view.data)>>(
      view.data, {view.batch, view.heads, view.tokens, view.dim},
      {view.batch_stride, view.head_stride, view.token_stride});
}
template <TensorLike Tensor>
requires detail::TemporaryTensor<Tensor>
void heads_first(Tensor&&) = delete;

/// The same for the log-sum-exp, heads x tokens or batch x heads x tokens: `lse_into(heads_first_rows(lse))`.
template <class Tensor>
auto heads_first_rows(Tensor&& tensor) {
  auto rows = as_rows(tensor);
  std::swap(rows.tokens, rows.heads);
  std::swap(rows.token_stride, rows.head_stride);
  return rows;
}
template <detail::TemporaryTensor Tensor>
void heads_first_rows(Tensor&&) = delete;

namespace detail {

/// An Eigen matrix or array that brings its memory with it.
template <class X>
concept OwningMatrix = std::derived_from<X, Eigen::PlainObjectBase<X>>;

/// An Eigen matrix, array, map, reference or block: what has elements in memory.
template <class X>
inline constexpr bool is_matrix_in_memory = false;
template <class X>
requires requires(const X& x) {
  []<class D>(const Eigen::DenseBase<D>&) {}(x);
}
inline constexpr bool is_matrix_in_memory<X> = (X::Flags & eigen::DirectAccessBit) != 0;

}  // namespace detail

/// An Eigen matrix, map or block as `num_heads` heads. Of a row-major matrix each row is a token, tokens x
/// (num_heads * dim); of a column-major one (MatrixXf) each column, (num_heads * dim) x tokens: a token's
/// elements lie side by side. Blocks of one matrix are views too: `heads_of(qkv.leftCols(H * D), H)`. A
/// matrix for each head is a call for each, to which masks and score functions are those of head 0:
///
///     for (Index h = 0; h < H; ++h)
///       attention(heads_of(q[h]), heads_of(k[h / group]), heads_of(v[h / group]), heads_of(out[h]),
///       causal());
///
/// Throws std::invalid_argument where a token's elements are no multiple of the heads, or do not lie side by
/// side.
template <class Matrix>
auto heads_of(Matrix&& matrix, Index num_heads = 1) {
  using Plain = std::remove_cvref_t<Matrix>;
  constexpr bool in_memory = detail::is_matrix_in_memory<Plain>;
  static_assert(in_memory,
                "gqa: heads_of takes an Eigen matrix, map or block: evaluate other expressions first");
  if constexpr (in_memory) {
    using T = std::remove_pointer_t<decltype(matrix.data())>;
    const Index tokens = matrix.outerSize(), elements = matrix.innerSize();
    GQA_CHECK(num_heads > 0, std::invalid_argument, "num_heads is " << num_heads << ", expected at least 1");
    GQA_CHECK(elements % num_heads == 0, std::invalid_argument,
              "matrix: a token has " << elements << " elements, expected a multiple of the " << num_heads
                                     << " heads");
    GQA_CHECK(matrix.innerStride() == 1, std::invalid_argument,
              "matrix: a token's elements lie " << matrix.innerStride() << " apart, expected side by side");
    const Index dim = elements / num_heads;
    return TensorView<T>(matrix.data(), {1, tokens, num_heads, dim},
                         {tokens * matrix.outerStride(), matrix.outerStride(), dim});
  } else {
    return TensorView<float>();
  }
}
template <class TemporaryMatrix>
requires(!std::is_lvalue_reference_v<TemporaryMatrix> &&
         detail::OwningMatrix<std::remove_cvref_t<TemporaryMatrix>>) void heads_of(TemporaryMatrix&&,
                                                                                   Index = 1) = delete;

}  // namespace gqa
