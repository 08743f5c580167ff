// SPDX-License-Identifier: Apache-2.0
// The only file that names Eigen::Tensor: everything behind it sees pointers,
// sizes and strides.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include "gqa/core/eigen.hpp"
#include "gqa/core/error.hpp"
#include "gqa/core/scalar.hpp"
#include "gqa/core/shape.hpp"

namespace gqa {

/// Memory read as batch x tokens x heads x dim. Strides count elements; dim is
/// contiguous. Element (b, t, h, d) is `data[b * batch_stride + t *
/// token_stride + h * head_stride + d]`.
template <class T>
struct TensorView {
  using value_type = T;

  T* data = nullptr;
  Index batch = 1;
  Index tokens = 0;
  Index heads = 0;
  Index dim = 0;
  Index batch_stride = 0;
  Index token_stride = 0;
  Index head_stride = 0;

  TensorView() = default;

  /// Packed tokens x heads x dim.
  TensorView(T* memory, Index num_tokens, Index num_heads, Index head_dim)
      : TensorView(memory, 1, num_tokens, num_heads, head_dim) {}

  /// Packed batch x tokens x heads x dim. Throws std::invalid_argument for a
  /// negative size, std::length_error on overflow.
  TensorView(T* memory, Index num_batch, Index num_tokens, Index num_heads, Index head_dim)
      : TensorView(memory, {num_batch, num_tokens, num_heads, head_dim},
                   {checked_mul(num_tokens, checked_mul(num_heads, head_dim, "tensor"), "tensor"),
                    checked_mul(num_heads, head_dim, "tensor"), head_dim}) {}

  struct Sizes {
    Index batch, tokens, heads, dim;
  };
  struct Strides {
    Index batch, token, head;
  };

  /// Any strides (also negative or zero ones) with a contiguous dim.
  TensorView(T* memory, Sizes sizes, Strides strides)
      : data(memory),
        batch(sizes.batch),
        tokens(sizes.tokens),
        heads(sizes.heads),
        dim(sizes.dim),
        batch_stride(strides.batch),
        token_stride(strides.token),
        head_stride(strides.head) {
    GQA_CHECK(batch >= 0 && tokens >= 0 && heads >= 0 && dim >= 0, std::invalid_argument,
              "tensor: sizes are " << batch << " x " << tokens << " x " << heads << " x " << dim
                                   << ", expected none to be negative");
    checked_mul(checked_mul(batch, tokens, "tensor"), checked_mul(heads, dim, "tensor"), "tensor");
  }

  T* at(Index b, Index token, Index head) const {
    return data + b * batch_stride + token * token_stride + head * head_stride;
  }

  /// The same memory, read-only.
  operator TensorView<const T>() const requires(!std::is_const_v<T>) {
    return TensorView<const T>(data, {batch, tokens, heads, dim}, {batch_stride, token_stride, head_stride});
  }
};

namespace detail {

template <class X>
struct eigen_tensor : std::false_type {};

template <class T, int Rank, int Options, class I>
struct eigen_tensor<Eigen::Tensor<T, Rank, Options, I>> : std::true_type {
  static constexpr int rank = Rank;
  static constexpr bool row_major = (Options & eigen::RowMajor) != 0;
  using scalar = T;
};

template <class Plain, int Options, template <class> class MakePointer>
struct eigen_tensor<Eigen::TensorMap<Plain, Options, MakePointer>>
    : eigen_tensor<std::remove_const_t<Plain>> {
  using scalar =
      std::conditional_t<std::is_const_v<Plain>, const typename Plain::Scalar, typename Plain::Scalar>;
};

/// Whether a tensor brings its memory with it, rather than naming memory elsewhere.
template <class X>
inline constexpr bool owns_memory = false;
template <class T, int Rank, int Options, class I>
inline constexpr bool owns_memory<Eigen::Tensor<T, Rank, Options, I>> = true;

template <class X>
concept EigenTensorExpression = std::derived_from<X, Eigen::TensorBase<X, eigen::ReadOnlyAccessors>>;

/// A tensor that is gone, with its memory, at the end of the statement. (X is what X&& deduces.)
template <class X>
concept TemporaryTensor = !std::is_lvalue_reference_v<X> && owns_memory<std::remove_cvref_t<X>>;

template <class X>
struct tensor_view : std::false_type {};
template <class T>
struct tensor_view<TensorView<T>> : std::true_type {};

}  // namespace detail

/// An Eigen tensor or map of rank 3 (tokens x heads x dim) or 4 (batch first),
/// or a TensorView.
template <class X>
concept TensorLike =
    detail::tensor_view<std::remove_cvref_t<X>>::value || detail::eigen_tensor<std::remove_cvref_t<X>>::value;

namespace detail {

template <class Plain>
inline constexpr bool has_tensor_rank = true;
template <class Plain>
requires eigen_tensor<Plain>::value inline constexpr bool has_tensor_rank<Plain> =
    eigen_tensor<Plain>::rank == 3 || eigen_tensor<Plain>::rank == 4;

/// The element type of a TensorLike, const where it may not be written.
template <class X>
struct tensor_element;
template <class X>
requires eigen_tensor<std::remove_cvref_t<X>>::value struct tensor_element<X> {
  using scalar = typename eigen_tensor<std::remove_cvref_t<X>>::scalar;
  static constexpr bool constant =
      owns_memory<std::remove_cvref_t<X>> && std::is_const_v<std::remove_reference_t<X>>;
  using type = std::conditional_t<constant, const scalar, scalar>;
};
template <class X>
requires tensor_view<std::remove_cvref_t<X>>::value struct tensor_element<X> {
  using type = typename std::remove_cvref_t<X>::value_type;
};

}  // namespace detail

/// A TensorLike that attention can compute with: of rank 3 or 4, and of a Scalar.
template <class X>
concept ScalarTensor = TensorLike<X> && detail::has_tensor_rank<std::remove_cvref_t<X>> &&
    Scalar<std::remove_const_t<typename detail::tensor_element<X>::type>>;

/// One that results can be written to, and that is there afterwards.
template <class X>
concept OutputLike = ScalarTensor<X> && !std::is_const_v<typename detail::tensor_element<X>::type> &&
                     !detail::TemporaryTensor<X>;

/// The view of a tensor: rank 3 is tokens x heads x dim, rank 4 batch x tokens
/// x heads x dim. A column-major tensor lists the same dimensions in reverse,
/// so both spell the same memory. A tensor that would take its memory with it, a temporary, is refused.
template <detail::TemporaryTensor X>
void as_view(X&&) = delete;
template <TensorLike X>
auto as_view(X&& x) requires(!detail::TemporaryTensor<X>) {
  using Plain = std::remove_cvref_t<X>;
  if constexpr (detail::tensor_view<Plain>::value) {
    return x;
  } else {
    using Traits = detail::eigen_tensor<Plain>;
    static_assert(Traits::rank == 3 || Traits::rank == 4,
                  "gqa: a tensor has rank 3 (tokens x heads x dim) or 4 (batch "
                  "x tokens x heads x dim)");
    // A const Tensor owns const elements; a const TensorMap of mutable memory
    // stays mutable, as in Eigen.
    using T = std::remove_pointer_t<decltype(x.data())>;
    const auto size = [&](int i) {
      const int axis = Traits::row_major ? i : Traits::rank - 1 - i;
      return static_cast<Index>(x.dimensions()[static_cast<std::size_t>(axis)]);
    };
    if constexpr (Traits::rank == 3) {
      return TensorView<T>(x.data(), size(0), size(1), size(2));
    } else {
      return TensorView<T>(x.data(), size(0), size(1), size(2), size(3));
    }
  }
}

/// The element type of a tensor, without const.
template <TensorLike X>
using TensorScalar = std::remove_const_t<typename decltype(as_view(std::declval<X&>()))::value_type>;

/// A packed tensor that owns its memory, as the library returns them.
template <class T>
using Tensor3 = Eigen::Tensor<T, 3, detail::eigen::RowMajor, detail::eigen::Index>;
template <class T>
using Tensor4 = Eigen::Tensor<T, 4, detail::eigen::RowMajor, detail::eigen::Index>;

/// Memory with one value a query row, read as batch x tokens x heads.
template <class T>
struct RowsView {
  T* data = nullptr;
  Index batch = 1, tokens = 0, heads = 0;
  Index batch_stride = 0, token_stride = 0, head_stride = 1;
};

namespace detail {

template <class X>
inline constexpr bool is_rows_view = false;
template <class T>
inline constexpr bool is_rows_view<RowsView<T>> = true;

}  // namespace detail

/// An Eigen tensor of rank 2 (tokens x heads) or 3 (batch first), column-major ones in reverse, or a
/// RowsView. A temporary tensor is refused.
template <detail::TemporaryTensor X>
void as_rows(X&&) = delete;
template <class X>
auto as_rows(X&& x) requires(!detail::TemporaryTensor<X>) {
  using Plain = std::remove_cvref_t<X>;
  if constexpr (detail::eigen_tensor<Plain>::value) {
    using Traits = detail::eigen_tensor<Plain>;
    static_assert(Traits::rank == 2 || Traits::rank == 3,
                  "gqa: lse has rank 2 (tokens x heads) or 3 (batch first)");
    const auto sizes = x.dimensions();
    const auto size = [&](int i) {
      return static_cast<Index>(
          sizes[static_cast<std::size_t>(Traits::row_major ? i : Traits::rank - 1 - i)]);
    };
    const Index heads = size(Traits::rank - 1), tokens = size(Traits::rank - 2);
    using T = std::remove_pointer_t<decltype(x.data())>;
    return RowsView<T>{x.data(), Traits::rank == 3 ? size(0) : 1, tokens, heads, tokens * heads, heads, 1};
  } else {
    static_assert(detail::is_rows_view<Plain>,
                  "gqa: lse is an Eigen tensor or map of rank 2 (tokens x heads) or 3 (batch first), or a "
                  "RowsView");
    if constexpr (detail::is_rows_view<Plain>)
      return x;
    else
      return RowsView<float>{};
  }
}

namespace detail {

inline namespace GQA_EIGEN_MEMORY {

/// A new tensor of q's rank and layout with `dim` elements a head,
/// uninitialised.
template <class T, TensorLike Q>
auto make_output(const Q& q, Index dim) {
  static_assert(
      requires { sizeof(Tensor4<T>); },
      "gqa: the result is a new Eigen tensor: include <unsupported/Eigen/CXX11/Tensor>");
  using Plain = std::remove_cvref_t<Q>;
  const auto view = as_view(q);
  const Index batch = view.batch, tokens = view.tokens, heads = view.heads;
  GQA_CHECK(dim >= 0, std::invalid_argument, "output: dim is " << dim << ", expected at least 0");
  checked_mul(checked_mul(batch, tokens, "output"), checked_mul(heads, dim, "output"), "output");
  if constexpr (detail::tensor_view<Plain>::value) {
    return Eigen::Tensor<T, 4, eigen::RowMajor, eigen::Index>(batch, tokens, heads, dim);
  } else if constexpr (eigen_tensor<Plain>::rank == 3) {
    if constexpr (eigen_tensor<Plain>::row_major)
      return Eigen::Tensor<T, 3, eigen::RowMajor, eigen::Index>(tokens, heads, dim);
    else
      return Eigen::Tensor<T, 3, eigen::ColMajor, eigen::Index>(dim, heads, tokens);
  } else {
    if constexpr (eigen_tensor<Plain>::row_major)
      return Eigen::Tensor<T, 4, eigen::RowMajor, eigen::Index>(batch, tokens, heads, dim);
    else
      return Eigen::Tensor<T, 4, eigen::ColMajor, eigen::Index>(dim, heads, tokens, batch);
  }
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace detail

}  // namespace gqa
