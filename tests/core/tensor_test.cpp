// SPDX-License-Identifier: Apache-2.0
// Every way of handing memory over reads the same elements: index = batch, token, head, dim.
#include "gqa/core/tensor.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

namespace gqa {
namespace {

constexpr Index B = 2, N = 3, H = 4, D = 5;

/// 0, 1, 2, ... in memory.
std::vector<float> counting(Index n) {
  std::vector<float> memory(static_cast<std::size_t>(n));
  std::iota(memory.begin(), memory.end(), 0.0f);
  return memory;
}

/// The view's element is its number in a packed batch x tokens x heads x dim.
template <class T>
void expect_packed(const TensorView<T>& x, Index batch) {
  ASSERT_EQ(x.batch, batch);
  ASSERT_EQ(x.tokens, N);
  ASSERT_EQ(x.heads, H);
  ASSERT_EQ(x.dim, D);
  for (Index b = 0; b < batch; ++b)
    for (Index t = 0; t < N; ++t)
      for (Index h = 0; h < H; ++h)
        for (Index d = 0; d < D; ++d)
          ASSERT_EQ(x.at(b, t, h)[d], static_cast<float>(((b * N + t) * H + h) * D + d));
}

TEST(AsView, RowMajorTensors) {
  Eigen::Tensor<float, 3, Eigen::RowMajor> x(N, H, D);
  Eigen::Tensor<float, 4, Eigen::RowMajor> y(B, N, H, D);
  std::iota(x.data(), x.data() + x.size(), 0.0f);
  std::iota(y.data(), y.data() + y.size(), 0.0f);
  EXPECT_EQ(x(1, 2, 3), as_view(x).at(0, 1, 2)[3]);
  EXPECT_EQ(y(1, 2, 3, 4), as_view(y).at(1, 2, 3)[4]);
  expect_packed(as_view(x), 1);
  expect_packed(as_view(y), B);
}

TEST(AsView, ColumnMajorTensorsListTheirDimensionsInReverse) {
  Eigen::Tensor<float, 3> x(D, H, N);
  Eigen::Tensor<float, 4> y(D, H, N, B);
  std::iota(x.data(), x.data() + x.size(), 0.0f);
  std::iota(y.data(), y.data() + y.size(), 0.0f);
  EXPECT_EQ(x(3, 2, 1), as_view(x).at(0, 1, 2)[3]);
  EXPECT_EQ(y(4, 3, 2, 1), as_view(y).at(1, 2, 3)[4]);
  expect_packed(as_view(x), 1);
  expect_packed(as_view(y), B);
}

TEST(AsView, MapsOfTheCallersMemory) {
  auto memory = counting(B * N * H * D);
  using RowMajor3 = Eigen::Tensor<float, 3, Eigen::RowMajor>;
  using ColMajor4 = Eigen::Tensor<float, 4>;
  Eigen::TensorMap<RowMajor3> rows(memory.data(), N, H, D);
  Eigen::TensorMap<ColMajor4> columns(memory.data(), D, H, N, B);
  Eigen::TensorMap<const RowMajor3> read_only(memory.data(), N, H, D);
  Eigen::TensorMap<Eigen::Tensor<const float, 3, Eigen::RowMajor>> of_const(memory.data(), N, H, D);
  Eigen::TensorMap<RowMajor3, Eigen::Aligned> aligned(memory.data(), N, H, D);
  Eigen::TensorMap<Eigen::Tensor<float, 3, Eigen::RowMajor, int>> narrow_index(memory.data(), int{N}, int{H},
                                                                               int{D});
  expect_packed(as_view(rows), 1);
  expect_packed(as_view(columns), B);
  expect_packed(as_view(read_only), 1);
  expect_packed(as_view(of_const), 1);
  expect_packed(as_view(aligned), 1);
  expect_packed(as_view(narrow_index), 1);
  EXPECT_EQ(as_view(rows).data, memory.data());
}

template <class X>
using Element = typename decltype(as_view(std::declval<X>()))::value_type;

TEST(AsView, ConstFollowsTheMemory) {
  using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
  using Map = Eigen::TensorMap<Tensor>;
  static_assert(std::is_same_v<Element<Tensor&>, float>);
  static_assert(std::is_same_v<Element<const Tensor&>, const float>);
  static_assert(std::is_same_v<Element<Map&>, float>);
  static_assert(std::is_same_v<Element<const Map&>, float>);
  static_assert(std::is_same_v<Element<Eigen::TensorMap<const Tensor>&>, const float>);
  static_assert(
      std::is_same_v<Element<Eigen::TensorMap<Eigen::Tensor<const half, 4, Eigen::RowMajor>>&>, const half>);
  static_assert(std::is_same_v<TensorScalar<const Tensor>, float>);
  static_assert(std::is_same_v<TensorScalar<TensorView<const bfloat16>>, bfloat16>);
  static_assert(std::is_convertible_v<TensorView<float>, TensorView<const float>>);
  static_assert(!std::is_convertible_v<TensorView<const float>, TensorView<float>>);
  static_assert(TensorLike<Tensor> && TensorLike<const Map&> && TensorLike<TensorView<float>>);
  static_assert(!TensorLike<std::vector<float>> && !TensorLike<float*>);
}

TEST(TensorView, PackedPassesThrough) {
  auto memory = counting(B * N * H * D);
  expect_packed(as_view(TensorView<float>(memory.data(), N, H, D)), 1);
  expect_packed(as_view(TensorView<const float>(memory.data(), B, N, H, D)), B);
  expect_packed(TensorView<const float>(TensorView<float>(memory.data(), B, N, H, D)), B);
}

TEST(TensorView, AnyStrides) {
  // heads x batch x tokens x dim in memory, rows padded to 8, tokens backwards.
  std::vector<float> memory(static_cast<std::size_t>(H * B * N * 8), -1.0f);
  for (Index h = 0; h < H; ++h)
    for (Index b = 0; b < B; ++b)
      for (Index t = 0; t < N; ++t)
        for (Index d = 0; d < D; ++d)
          memory[static_cast<std::size_t>(((h * B + b) * N + (N - 1 - t)) * 8 + d)] =
              static_cast<float>(((b * N + t) * H + h) * D + d);
  const TensorView<float> x(memory.data() + (N - 1) * 8, {B, N, H, D}, {N * 8, -8, B * N * 8});
  expect_packed(x, B);
  expect_packed(TensorView<const float>(x), B);
}

TEST(TensorView, AZeroStrideRepeats) {
  auto memory = counting(D);
  const TensorView<const float> x(memory.data(), {1, N, H, D}, {0, 0, 0});
  EXPECT_EQ(x.at(0, 2, 3), x.at(0, 0, 0));
}

TEST(TensorView, NegativeSizesAndOverflowThrow) {
  float x = 0;
  using V = TensorView<float>;
  constexpr Index huge = std::numeric_limits<Index>::max();
  EXPECT_THROW(V(&x, -1, 2, 3), std::invalid_argument);
  EXPECT_THROW(V(&x, 1, -2, 3), std::invalid_argument);
  EXPECT_THROW(V(&x, 1, 2, -3), std::invalid_argument);
  EXPECT_THROW(V(&x, -1, 1, 2, 3), std::invalid_argument);
  EXPECT_THROW(V(&x, huge, 2, 1), std::length_error);
  EXPECT_THROW(V(&x, 2, huge, 1), std::length_error);
  EXPECT_THROW(V(&x, 2, 1, huge), std::length_error);
  EXPECT_THROW(V(&x, Index{1} << 32, 1, Index{1} << 31, 1), std::length_error);
  EXPECT_THROW(V(&x, {Index{1} << 32, 1, Index{1} << 31, 1}, {0, 0, 0}), std::length_error);
  EXPECT_NO_THROW(V(nullptr, 0, 4, 5));
  try {
    V(&x, {1, 2, -3, 4}, {0, 0, 0});
    FAIL() << "no exception";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "tensor: sizes are 1 x 2 x -3 x 4, expected none to be negative");
  }
}

TEST(AsRows, TensorsOfRankTwoAndThree) {
  Eigen::Tensor<float, 2, Eigen::RowMajor> a(N, H);
  Eigen::Tensor<float, 3, Eigen::RowMajor> b(B, N, H);
  Eigen::Tensor<float, 2> c(H, N);
  Eigen::Tensor<float, 3> d(H, N, B);
  const auto at = [](const auto& rows, Index seq, Index t, Index h) {
    return rows.data + seq * rows.batch_stride + t * rows.token_stride + h * rows.head_stride;
  };
  EXPECT_EQ(at(as_rows(a), 0, 2, 1), &a(2, 1));
  EXPECT_EQ(at(as_rows(b), 1, 2, 1), &b(1, 2, 1));
  EXPECT_EQ(at(as_rows(c), 0, 2, 1), &c(1, 2));
  EXPECT_EQ(at(as_rows(d), 1, 2, 1), &d(1, 2, 1));
  for (const auto& rows : {as_rows(a), as_rows(b), as_rows(c), as_rows(d)}) {
    EXPECT_EQ(rows.tokens, N);
    EXPECT_EQ(rows.heads, H);
  }
  EXPECT_EQ(as_rows(a).batch, 1);
  EXPECT_EQ(as_rows(d).batch, B);
}

TEST(MakeOutput, HasTheRankAndLayoutOfQ) {
  Eigen::Tensor<half, 3, Eigen::RowMajor> a(N, H, D);
  Eigen::Tensor<half, 4, Eigen::RowMajor> b(B, N, H, D);
  Eigen::Tensor<half, 3> c(D, H, N);
  Eigen::Tensor<half, 4> d(D, H, N, B);
  const auto of_a = detail::make_output<float>(a, 7);
  const auto of_b = detail::make_output<float>(b, 7);
  const auto of_c = detail::make_output<float>(c, 7);
  const auto of_d = detail::make_output<float>(d, 7);
  static_assert(std::is_same_v<decltype(of_a), const Eigen::Tensor<float, 3, Eigen::RowMajor>>);
  static_assert(std::is_same_v<decltype(of_b), const Eigen::Tensor<float, 4, Eigen::RowMajor>>);
  static_assert(std::is_same_v<decltype(of_c), const Eigen::Tensor<float, 3>>);
  static_assert(std::is_same_v<decltype(of_d), const Eigen::Tensor<float, 4>>);
  const auto expect = [](const auto& out, Index batch) {
    const auto view = as_view(out);
    EXPECT_EQ(view.batch, batch);
    EXPECT_EQ(view.tokens, N);
    EXPECT_EQ(view.heads, H);
    EXPECT_EQ(view.dim, 7);
  };
  expect(of_a, 1);
  expect(of_b, B);
  expect(of_c, 1);
  expect(of_d, B);
  EXPECT_THROW((detail::make_output<float>(a, std::numeric_limits<Index>::max() / 4)), std::length_error);
}

TEST(ScalarNames, OneEach) {
  EXPECT_STREQ(scalar_name<float>(), "f32");
  EXPECT_STREQ(scalar_name<double>(), "f64");
  EXPECT_STREQ(scalar_name<half>(), "f16");
  EXPECT_STREQ(scalar_name<bfloat16>(), "bf16");
  static_assert(std::is_same_v<Accumulator<half>, float> && std::is_same_v<Accumulator<double>, double>);
  static_assert(!Scalar<int> && !Scalar<const float>);
}

}  // namespace
}  // namespace gqa
