// SPDX-License-Identifier: Apache-2.0
// The same numbers handed over in every way attention takes them give the same bits.
#include <gtest/gtest.h>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;
using RowMajor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
using ColMajor = Eigen::Tensor<float, 3>;

constexpr Index Sq = 9, Sk = 70, H = 6, G = 2, D = 20, Dv = 12;

class Tensors : public ::testing::Test {
 protected:
  AttentionCase<float> c{Sizes{Sq, Sk, H, G, D, Dv}, 1};
  std::vector<float> expected = test::run(c, {.mask = causal()}).out;

  static RowMajor row_major(const std::vector<float>& values, Index tokens, Index heads, Index dim) {
    return Eigen::TensorMap<const RowMajor>(values.data(), tokens, heads, dim);
  }
  static ColMajor col_major(const std::vector<float>& values, Index tokens, Index heads, Index dim) {
    return Eigen::TensorMap<const ColMajor>(values.data(), dim, heads, tokens);  // the same memory
  }
  template <class Out>
  void expect_out(const Out& out) const {
    ASSERT_EQ(static_cast<std::size_t>(out.size()), expected.size());
    EXPECT_EQ(std::vector<float>(out.data(), out.data() + out.size()), expected);
  }
};

TEST_F(Tensors, RowMajorReturningATensor) {
  const RowMajor q = row_major(c.q, Sq, H, D), k = row_major(c.k, Sk, G, D), v = row_major(c.v, Sk, G, Dv);
  const auto out = attention(q, k, v, causal());
  static_assert(std::is_same_v<decltype(out), const RowMajor>);
  EXPECT_EQ(out.dimension(0), Sq);
  EXPECT_EQ(out.dimension(1), H);
  EXPECT_EQ(out.dimension(2), Dv);
  expect_out(out);
  expect_out(attention<H, G>(q, k, v, causal()));
  expect_out(attention<H>(q, k, v, causal()));
}

TEST_F(Tensors, ColumnMajorReturningATensor) {
  const auto out =
      attention(col_major(c.q, Sq, H, D), col_major(c.k, Sk, G, D), col_major(c.v, Sk, G, Dv), causal());
  static_assert(std::is_same_v<decltype(out), const ColMajor>);
  EXPECT_EQ(out.dimension(0), Dv);
  EXPECT_EQ(out.dimension(2), Sq);
  expect_out(out);
}

TEST_F(Tensors, LayoutsMix) {
  RowMajor out(Sq, H, Dv);
  attention(col_major(c.q, Sq, H, D), row_major(c.k, Sk, G, D),
            Eigen::TensorMap<ColMajor>(c.v.data(), Dv, G, Sk), out, causal());
  expect_out(out);
}

TEST_F(Tensors, Maps) {
  std::vector<float> memory(expected.size());
  Eigen::TensorMap<RowMajor> out(memory.data(), Sq, H, Dv);
  attention(Eigen::TensorMap<const RowMajor>(c.q.data(), Sq, H, D),
            Eigen::TensorMap<Eigen::Tensor<const float, 3, Eigen::RowMajor>>(c.k.data(), Sk, G, D),
            Eigen::TensorMap<RowMajor>(c.v.data(), Sk, G, Dv), out, causal());
  expect_out(out);
}

TEST_F(Tensors, StridedQueriesKeysValuesAndOutputs) {
  // Heads before tokens, rows of an odd stride, values interleaved with keys as one projection leaves them.
  const auto spread = [](const std::vector<float>& x, Index tokens, Index heads, Index dim,
                         Index token_stride, Index head_stride, std::vector<float>& into, Index offset) {
    for (Index t = 0; t < tokens; ++t)
      for (Index h = 0; h < heads; ++h)
        for (Index d = 0; d < dim; ++d)
          into[static_cast<std::size_t>(offset + t * token_stride + h * head_stride + d)] =
              x[static_cast<std::size_t>((t * heads + h) * dim + d)];
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> q(static_cast<std::size_t>(H * Sq * 23), nan),
      kv(static_cast<std::size_t>(Sk * 77), nan), out(static_cast<std::size_t>(Sq * 101 + H * 13), nan);
  spread(c.q, Sq, H, D, 23, Sq * 23, q, 0);
  spread(c.k, Sk, G, D, 77, D, kv, 0);
  spread(c.v, Sk, G, Dv, 77, Dv, kv, G * D);
  const TensorView<float> out_view(out.data(), {1, Sq, H, Dv}, {0, 101, 13});
  attention(TensorView<const float>(q.data(), {1, Sq, H, D}, {0, 23, Sq * 23}),
            TensorView<const float>(kv.data(), {1, Sk, G, D}, {0, 77, D}),
            TensorView<const float>(kv.data() + G * D, {1, Sk, G, Dv}, {0, 77, Dv}), out_view, causal());
  std::vector<float> packed;
  for (Index t = 0; t < Sq; ++t)
    for (Index h = 0; h < H; ++h)
      packed.insert(packed.end(), out_view.at(0, t, h), out_view.at(0, t, h) + Dv);
  EXPECT_EQ(packed, expected);
  std::size_t untouched = 0;
  for (float x : out) untouched += std::isnan(x);
  EXPECT_EQ(untouched, out.size() - expected.size()) << "wrote between the rows";
}

TEST_F(Tensors, TokensBackwards) {
  std::vector<float> k, v;
  for (Index t = Sk - 1; t >= 0; --t) {
    k.insert(k.end(), c.k.begin() + t * G * D, c.k.begin() + (t + 1) * G * D);
    v.insert(v.end(), c.v.begin() + t * G * Dv, c.v.begin() + (t + 1) * G * Dv);
  }
  RowMajor out(Sq, H, Dv);
  attention(c.q_view(), TensorView<const float>(k.data() + (Sk - 1) * G * D, {1, Sk, G, D}, {0, -G * D, D}),
            TensorView<const float>(v.data() + (Sk - 1) * G * Dv, {1, Sk, G, Dv}, {0, -G * Dv, Dv}), out,
            causal());
  expect_out(out);
}

TEST_F(Tensors, BatchesOfRankFourInBothLayouts) {
  const Index B = 3;
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(B, Sq, H, D), k(B, Sk, G, D), v(B, Sk, G, Dv);
  Eigen::Tensor<float, 4> q_col(D, H, Sq, B), k_col(D, G, Sk, B), v_col(Dv, G, Sk, B);
  std::vector<float> all;
  for (Index b = 0; b < B; ++b) {
    const AttentionCase<float> one(c.sizes, static_cast<std::uint64_t>(b + 10));
    const auto put = [&](const std::vector<float>& from, float* rows, float* columns) {
      std::copy(from.begin(), from.end(), rows + b * static_cast<Index>(from.size()));
      std::copy(from.begin(), from.end(), columns + b * static_cast<Index>(from.size()));
    };
    put(one.q, q.data(), q_col.data());
    put(one.k, k.data(), k_col.data());
    put(one.v, v.data(), v_col.data());
    const auto out = test::run(one, {.mask = causal()}).out;
    all.insert(all.end(), out.begin(), out.end());
  }
  expected = all;
  const auto out = attention(q, k, v, causal());
  static_assert(std::is_same_v<decltype(out), const Eigen::Tensor<float, 4, Eigen::RowMajor>>);
  expect_out(out);
  const auto out_col = attention(q_col, k_col, v_col, causal());
  static_assert(std::is_same_v<decltype(out_col), const Eigen::Tensor<float, 4>>);
  EXPECT_EQ(out_col.dimension(3), B);
  expect_out(out_col);
}

TEST_F(Tensors, LseOfRankTwoAndThreeInBothLayouts) {
  const auto lse = test::run(c, {.mask = causal()}).lse;
  Eigen::Tensor<float, 2, Eigen::RowMajor> rows(Sq, H);
  Eigen::Tensor<float, 2> columns(H, Sq);
  Eigen::Tensor<float, 3, Eigen::RowMajor> batch(1, Sq, H);
  RowMajor out(Sq, H, Dv);
  attention(c.q_view(), c.k_view(), c.v_view(), out, lse_into(rows), causal());
  attention(c.q_view(), c.k_view(), c.v_view(), out, causal(), lse_into(columns));
  attention(c.q_view(), c.k_view(), c.v_view(), out, causal(), lse_into(batch));
  expect_out(out);
  EXPECT_EQ(std::vector<float>(rows.data(), rows.data() + rows.size()), lse);
  EXPECT_EQ(std::vector<float>(columns.data(), columns.data() + columns.size()), lse);
  EXPECT_EQ(std::vector<float>(batch.data(), batch.data() + batch.size()), lse);
}

TEST_F(Tensors, CachesOfOneLayerAreTakenAsTheyAre) {
  KVCache<float, G, D, Dv> cache({.max_tokens = Sk});
  cache.append(c.k_view(), c.v_view());
  RowMajor out(Sq, H, Dv);
  attention<H, G>(c.q_view(), cache, out, causal());
  expect_out(out);
  expect_out(attention<H, G>(row_major(c.q, Sq, H, D), cache, causal()));
  expect_out(attention(row_major(c.q, Sq, H, D), cache.layer(0), causal()));
  KVCache<float> layers(
      {.max_tokens = Sk, .num_layers = 2, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
  EXPECT_THROW(attention(c.q_view(), layers, out), std::invalid_argument);
}

/// Queries of TQ over a cache of T, outputs of TO, against the oracle and the bound of a naive run in the
/// coarser.
template <class TQ, class T, class TO, class Coarser = T>
void expect_mixed(const Sizes& sizes, std::uint64_t seed) {
  AttentionCase<T> stored(sizes, seed);
  const auto queries = test::random_values<TQ>(seed + 77, static_cast<Index>(stored.q.size()));
  auto problem = test::problem_of(stored, {.mask = causal()});
  const auto q64 = test::to_double<TQ>(queries);
  problem.q = q64;
  const auto cache = test::cache_of(stored);
  std::vector<TO> out(static_cast<std::size_t>(sizes.num_q_tokens * sizes.num_q_heads * sizes.value_dim));
  attention(TensorView<const TQ>(queries.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.head_dim),
            cache.layer(0),
            TensorView<TO>(out.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.value_dim), causal());
  const auto exact = reference::attention(problem);
  EXPECT_TRUE(test::out_within_naive_error<Coarser>(std::span<const TO>(out), problem, exact))
      << sizes.name();
  if constexpr (std::is_same_v<TQ, float> && std::is_same_v<TO, float>) {
    // Nothing but the stored keys and values is rounded to 16 bits: far closer than a run in T.
    const double error = test::max_error<float, double>(out, exact.out);
    EXPECT_LE(error, 1e-5) << sizes.name();
  }
}

TEST(MixedTypes, FloatQueriesOver16BitCaches) {
  std::uint64_t seed = 1;
  for (const Sizes& sizes : {Sizes{1, 200, 8, 2, 64}, Sizes{20, 77, 6, 2, 33, 15}, Sizes{5, 600, 7, 1, 40}}) {
    expect_mixed<float, bfloat16, float>(sizes, seed++);
    expect_mixed<float, half, float>(sizes, seed++);
  }
}

TEST(MixedTypes, SixteenBitQueriesOverOtherCaches) {
  const Sizes sizes{3, 150, 4, 2, 40};
  expect_mixed<bfloat16, half, float>(sizes, 11);
  expect_mixed<half, bfloat16, bfloat16>(sizes, 12);
  expect_mixed<half, float, half, half>(sizes, 13);
}

}  // namespace
}  // namespace gqa
