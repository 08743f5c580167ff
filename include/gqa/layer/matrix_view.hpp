// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/layout.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kernel/overlap.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

struct MatrixOut;

namespace detail {

/// An Eigen matrix that is gone, with its memory, at the end of the statement. (X is what X&& deduces.)
template <class X>
concept TemporaryMatrix = !std::is_lvalue_reference_v<X> && OwningMatrix<std::remove_cvref_t<X>>;

/// An Eigen matrix, map or block of numbers that we compute with, in memory.
template <class X>
concept MatrixLike =
    is_matrix_in_memory<std::remove_cvref_t<X>> && Scalar<typename std::remove_cvref_t<X>::Scalar>;

}  // namespace detail

/// A matrix in somebody's memory, of whatever element type: rows whose elements lie side by side, or columns
/// whose elements do. Refers to the memory and copies nothing.
struct MatrixView {
  const void* data = nullptr;
  Index rows = 0;
  Index columns = 0;
  Index stride = 0;         ///< elements between the beginnings of rows, or of columns where `by_columns`
  bool by_columns = false;  ///< a column's elements lie side by side, not a row's
  const simd::RowFormat* format = nullptr;

  MatrixView() = default;

  /// Rows of memory, `row_stride` elements apart. Throws std::invalid_argument for a negative size, or for
  /// rows that lie within each other.
  template <Scalar T>
  MatrixView(const T* memory, Index num_rows, Index num_columns, Index row_stride)
      : MatrixView(static_cast<void*>(const_cast<T*>(memory)), num_rows, num_columns, row_stride, false,
                   simd::row_format<T>) {}
  template <Scalar T>
  MatrixView(const T* memory, Index num_rows, Index num_columns)
      : MatrixView(memory, num_rows, num_columns, num_columns) {}

  /// An Eigen matrix, map or block, row-major or column-major; other expressions are to be evaluated first.
  template <class M>
  requires(detail::MatrixLike<M> && !detail::TemporaryMatrix<M>)
      MatrixView(M&& matrix)  // NOLINT: converts on purpose
      : MatrixView(static_cast<void*>(const_cast<typename std::remove_cvref_t<M>::Scalar*>(matrix.data())),
                   matrix.rows(), matrix.cols(), matrix.outerStride(), !std::remove_cvref_t<M>::IsRowMajor,
                   simd::row_format<typename std::remove_cvref_t<M>::Scalar>) {
    check_inner_stride(matrix.innerStride());
  }
  template <class M>
  requires(detail::MatrixLike<M>&& detail::TemporaryMatrix<M>) MatrixView(M&&)
  = delete;

  /// Tokens x heads x dim as tokens x (heads * dim), a batch's tokens one after another. Throws
  /// std::invalid_argument where a token's heads, or a batch's tokens, do not stand so.
  template <ScalarTensor X>
  requires(!detail::TemporaryTensor<X>) MatrixView(X&& tensor)  // NOLINT: converts on purpose
      : MatrixView(of_tensor(as_view(tensor))) {}
  template <ScalarTensor X>
  requires(detail::TemporaryTensor<X>) MatrixView(X&&)
  = delete;

  /// The same memory as the transposed matrix.
  MatrixView transposed() const {
    MatrixView t = *this;
    std::swap(t.rows, t.columns);
    t.by_columns = !by_columns;
    return t;
  }

  /// Some rows. Throws std::invalid_argument where there are not so many.
  MatrixView middle_rows(Index first, Index count) const {
    GQA_CHECK(first >= 0 && count >= 0 && first <= rows - count, std::invalid_argument,
              "matrix: rows " << first << " to " << first + count << ", expected some of its " << rows);
    MatrixView part = *this;
    part.data = at(first, 0);
    part.rows = count;
    return part;
  }

  const std::byte* at(Index row, Index column) const {
    const Index element = by_columns ? column * stride + row : row * stride + column;
    return static_cast<const std::byte*>(data) + element * format->bytes;
  }

 private:
  friend struct MatrixOut;

  // The pointer is not const: GCC takes one that is for something to be read, and warns of outputs that are
  // not written yet.
  MatrixView(void* memory, Index num_rows, Index num_columns, Index a_stride, bool columns_first,
             const simd::RowFormat& a_format)
      : data(memory),
        rows(num_rows),
        columns(num_columns),
        stride(a_stride),
        by_columns(columns_first),
        format(&a_format) {
    GQA_CHECK(rows >= 0 && columns >= 0, std::invalid_argument,
              "matrix: sizes are " << rows << " x " << columns << ", expected none to be negative");
    const Index outer = by_columns ? columns : rows, inner = by_columns ? rows : columns;
    GQA_CHECK(outer <= 1 || stride >= inner, std::invalid_argument,
              "matrix: stride is " << stride << ", expected at least the " << inner << " elements between");
    checked_mul(checked_mul(outer, std::max<Index>(stride, 1), "matrix"), format->bytes, "matrix");
  }

  static void check_inner_stride(Index inner) {
    GQA_CHECK(inner == 1, std::invalid_argument,
              "matrix: neighbouring elements lie " << inner << " apart, expected side by side");
  }

  template <class T>
  static MatrixView of_tensor(const TensorView<T>& x) {
    GQA_CHECK(x.heads <= 1 || x.head_stride == x.dim, std::invalid_argument,
              "matrix: heads lie " << x.head_stride << " apart, expected the " << x.dim << " of head_dim");
    GQA_CHECK(x.batch <= 1 || x.batch_stride == x.tokens * x.token_stride, std::invalid_argument,
              "matrix: batches lie " << x.batch_stride << " apart, expected " << x.tokens << " tokens of "
                                     << x.token_stride);
    return MatrixView(static_cast<const std::remove_const_t<T>*>(x.data), x.batch * x.tokens, x.heads * x.dim,
                      x.token_stride);
  }
};

/// Rows that a product writes: tokens x dim, a row's elements side by side.
struct MatrixOut {
  MatrixView view;
  void (*round_float)(const float*, Index,
                      void*) = nullptr;  ///< writes accumulators; null for the other kind
  void (*round_double)(const double*, Index, void*) = nullptr;

  template <Scalar T>
  requires(!std::is_const_v<T>) MatrixOut(T* memory, Index num_rows, Index num_columns, Index row_stride)
      : view(static_cast<void*>(memory), num_rows, num_columns, row_stride, false, simd::row_format<T>) {
    set_round<T>();
  }

  /// A row-major Eigen matrix, map or block.
  template <class M>
  requires(detail::MatrixLike<M> && !detail::TemporaryMatrix<M>)
      MatrixOut(M&& matrix)  // NOLINT: converts on purpose
      : view(matrix) {
    using T = std::remove_pointer_t<decltype(matrix.data())>;
    static_assert(!std::is_const_v<T>, "gqa: y is const, and is to be written");
    static_assert(std::remove_cvref_t<M>::IsRowMajor, "gqa: y is column-major, expected row-major");
    set_round<std::remove_const_t<T>>();
  }

  template <OutputLike X>
  MatrixOut(X&& tensor) : view(tensor) {  // NOLINT: converts on purpose
    set_round<TensorScalar<X>>();
  }

  std::byte* row(Index i) const { return const_cast<std::byte*>(view.at(i, 0)); }

 private:
  template <Scalar T>
  void set_round() {
    if constexpr (std::is_same_v<T, double>)
      round_double = simd::convert_kernels<T>(isa()).round;
    else
      round_float = simd::convert_kernels<T>(isa()).round;
  }
};

/// A vector in somebody's memory, of whatever element type: a bias; empty where there is none.
struct VectorView {
  MatrixView row;  ///< one of them

  VectorView() = default;
  template <Scalar T>
  VectorView(std::span<const T> x)  // NOLINT: converts on purpose
      : row(x.data(), 1, static_cast<Index>(x.size())) {}
  template <Scalar T>
  VectorView(const std::vector<T>& x) : VectorView(std::span<const T>(x)) {}  // NOLINT: converts on purpose
  template <detail::MatrixLike V>
  requires(static_cast<bool>(std::remove_cvref_t<V>::IsVectorAtCompileTime) && !detail::TemporaryMatrix<V>)
      VectorView(V&& x)  // NOLINT: converts on purpose
      : row(x.data(), 1, x.size()) {
    GQA_CHECK(x.size() <= 1 || x.innerStride() == 1, std::invalid_argument,
              "vector: neighbouring elements lie " << x.innerStride() << " apart, expected side by side");
  }
  template <detail::MatrixLike V>
  requires(detail::TemporaryMatrix<V>) VectorView(V&&)
  = delete;

  Index size() const { return row.columns; }
};

namespace detail {

inline TensorMemory memory_of(const char* name, const MatrixView& m) {
  TensorMemory memory(name, m.data, 0);
  memory.sizes[1] = m.by_columns ? m.columns : m.rows;
  memory.strides[1] = m.stride * m.format->bytes;
  memory.row_bytes = (m.by_columns ? m.rows : m.columns) * m.format->bytes;
  return memory;
}

/// Throws std::invalid_argument where a matrix that is to be written has a byte of another, if there is one.
inline void check_apart(const char* written, const MatrixView& out, const char* read, const MatrixView& in) {
  if (in.format != nullptr) check_output_memory(memory_of(written, out), {memory_of(read, in)});
}

}  // namespace detail

}  // namespace gqa
