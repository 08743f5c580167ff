// SPDX-License-Identifier: Apache-2.0
// linformer_attention() against projections and attention written down in double, and attention() itself
// where nothing is projected.
#include "gqa/layer/linformer.hpp"

#include <gtest/gtest.h>

#include <unsupported/Eigen/CXX11/Tensor>

#include "layer/matrices.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"
#include "support/naive.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::ByRows;
using test::matrix;
using test::message_of;
using test::Sizes;

/// projection x for each head of tokens x heads x dim, summed in A and rounded to R.
template <class A, class R, class T>
std::vector<R> project(const ByRows<T>& projection, const std::vector<T>& x, Index heads_and_dims) {
  std::vector<R> out;
  for (Index r = 0; r < projection.rows(); ++r)
    for (Index i = 0; i < heads_and_dims; ++i) {
      A sum = 0;
      for (Index t = 0; t < projection.cols(); ++t)
        sum += static_cast<A>(projection(r, t)) *
               static_cast<A>(x[static_cast<std::size_t>(t * heads_and_dims + i)]);
      out.push_back(static_cast<R>(sum));
    }
  return out;
}

template <class T>
struct Linformer {
  Linformer(const Sizes& sizes, Index rows, std::uint64_t seed)
      : c(sizes, seed),
        e(matrix<T>(rows, sizes.num_kv_tokens, seed + 100, 0.3)),
        f(matrix<T>(rows, sizes.num_kv_tokens, seed + 200, 0.3)),
        out(static_cast<std::size_t>(sizes.num_q_tokens * sizes.num_q_heads * sizes.value_dim), T(7)) {}

  TensorView<T> out_view() {
    return {out.data(), c.sizes.num_q_tokens, c.sizes.num_q_heads, c.sizes.value_dim};
  }
  /// Keys and values as they are after projecting, summed in A and rounded to R.
  template <class A, class R>
  AttentionCase<R> projected() const {
    Sizes sizes = c.sizes;
    sizes.num_kv_tokens = e.rows();
    AttentionCase<R> result(sizes, 1);
    result.q.clear();
    for (const T& x : c.q) result.q.push_back(static_cast<R>(x));
    result.k = project<A, R>(e, c.k, sizes.num_kv_heads * sizes.head_dim);
    result.v = project<A, R>(f, c.v, sizes.num_kv_heads * sizes.value_dim);
    return result;
  }

  AttentionCase<T> c;
  ByRows<T> e, f;
  std::vector<T> out;
};

template <class T>
void expect_oracle() {
  for (const auto& [sizes, rows] : {std::pair{Sizes{7, 131, 6, 2, 40, 24}, 17},
                                    {Sizes{1, 5, 3, 1, 8, 8}, 1},
                                    {Sizes{33, 70, 4, 4, 64, 64}, 65}}) {
    Linformer<T> l(sizes, rows, 3);
    linformer_attention(l.c.q_view(), l.c.k_view(), l.c.v_view(), l.e, l.f, l.out_view());
    auto in_double = l.template projected<double, double>();
    auto in_t = l.template projected<Accumulator<T>, T>();
    const auto problem = in_double.problem();
    const auto naive = test::naive_attention<T>(in_t.problem());
    EXPECT_TRUE(test::out_within_naive_error<T>(std::span<const T>(l.out), problem,
                                                reference::attention(problem), naive))
        << sizes.name() << ", " << rows << " rows";
  }
}

TEST(Linformer, FollowsTheOracle) {
  expect_oracle<float>();
  expect_oracle<double>();
  expect_oracle<bfloat16>();
}

TEST(Linformer, IsAttentionWhereNothingIsProjected) {
  Linformer<float> l({5, 67, 6, 2, 16, 24}, 67, 4);
  l.e.setIdentity();
  std::vector<float> expected(l.out.size());
  Eigen::Tensor<float, 2, Eigen::RowMajor> lse(5, 6), expected_lse(5, 6);
  const AttentionOptions how{.scale = 0.2};
  const SinkLogits sinks(std::vector<double>(6, 0.5));
  attention(l.c.q_view(), l.c.k_view(), l.c.v_view(), TensorView<float>(expected.data(), 5, 6, 24), how,
            sinks, lse_into(expected_lse));
  linformer_attention(l.c.q_view(), l.c.k_view(), l.c.v_view(), l.e, l.e, l.out_view(), how, sinks,
                      lse_into(lse));
  EXPECT_EQ(l.out, expected);
  EXPECT_EQ(std::vector<float>(lse.data(), lse.data() + lse.size()),
            std::vector<float>(expected_lse.data(), expected_lse.data() + expected_lse.size()));
}

TEST(Linformer, TakesBatchesAndThreadsWithoutChangingABit) {
  Linformer<float> l({4, 90, 6, 2, 16, 24}, 9, 5);
  // Two sequences of a batch, tokens of k in the memory of a wider tensor.
  const Index n = 45, G = 2, D = 16;
  const ByRows<float> e = l.e.leftCols(n), f = l.f.leftCols(n);
  std::vector<float> wide(static_cast<std::size_t>(2 * n * G * 2 * D), 1e30f);
  const TensorView<float> k(wide.data(), {2, n, G, D}, {n * G * 2 * D, G * 2 * D, 2 * D});
  const TensorView<const float> packed(l.c.k.data(), 2, n, G, D), v(l.c.v.data(), 2, n, G, 24),
      q(l.c.q.data(), 2, 2, 6, D);
  for (Index b = 0; b < 2; ++b)
    for (Index t = 0; t < n; ++t)
      for (Index g = 0; g < G; ++g) std::copy_n(packed.at(b, t, g), D, k.at(b, t, g));
  test::Threads threads(3);
  linformer_attention(threads, q, k, v, e, f, TensorView<float>(l.out.data(), 2, 2, 6, 24));
  for (Index b = 0; b < 2; ++b) {
    std::vector<float> alone(2 * 6 * 24);
    linformer_attention(
        TensorView<const float>(q.at(b, 0, 0), 2, 6, D), TensorView<const float>(packed.at(b, 0, 0), n, G, D),
        TensorView<const float>(v.at(b, 0, 0), n, G, 24), e, f, TensorView<float>(alone.data(), 2, 6, 24));
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), l.out.begin() + b * std::ssize(alone))) << b;
  }
}

TEST(Linformer, RefusesProjectionsOfOtherSizes) {
  Linformer<float> l({3, 20, 4, 2, 8, 8}, 5, 6);
  const auto before = l.out;
  const auto said = [&](const MatrixView& e, const MatrixView& f) {
    return message_of(
        [&] { linformer_attention(l.c.q_view(), l.c.k_view(), l.c.v_view(), e, f, l.out_view()); });
  };
  const ByRows<float> narrow = l.e.leftCols(19), low = l.f.topRows(4), none(0, 20);
  const ByRows<double> doubles = l.e.cast<double>();
  EXPECT_EQ(said(narrow, l.f), "key_projection: columns is 19, expected the 20 tokens of k");
  EXPECT_EQ(said(l.e, narrow), "value_projection: columns is 19, expected the 20 tokens of v");
  EXPECT_EQ(said(l.e, low), "value_projection: rows is 4, expected 5 as in key_projection");
  EXPECT_EQ(said(none, l.f), "key_projection: rows is 0, expected at least 1");
  EXPECT_EQ(said(MatrixView(), l.f), "key_projection: elements are missing, expected f64 with f64 only");
  EXPECT_EQ(said(doubles, l.f), "key_projection: elements are f64, expected f64 with f64 only");
  EXPECT_EQ(message_of([&] {
              linformer_attention(l.c.q_view(), l.c.k_view(), TensorView<const float>(l.c.v.data(), 19, 2, 8),
                                  l.e, l.f, l.out_view());
            }),
            "v: tokens is 19, expected 20 as in k");
  EXPECT_EQ(l.out, before);
}

}  // namespace
}  // namespace gqa
