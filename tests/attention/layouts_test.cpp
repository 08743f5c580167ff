// SPDX-License-Identifier: Apache-2.0
// Heads before tokens, Eigen matrices and memory of the caller's: the bits of packed tensors, which are the
// oracle's within its bound.
#include <gtest/gtest.h>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::Result;
using test::Sizes;

template <class T>
using ColumnMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Index H = 6, G = 2, D = 20, Dv = 12;

/// A few sequences, their elements wherever they are wanted, and what each gives from packed tensors.
template <class T>
struct Batch {
  Batch(Index num_q_tokens, Index num_kv_tokens, Index batch = 2) : Sq(num_q_tokens), Sk(num_kv_tokens) {
    for (Index b = 0; b < batch; ++b) {
      each.emplace_back(Sizes{Sq, Sk, H, G, D, Dv}, static_cast<std::uint64_t>(7 * b + Sq));
      expected.push_back(test::run(each.back(), how));
      const auto problem = test::problem_of(each.back(), how);
      EXPECT_TRUE(test::within_bound(expected.back(), problem, reference::attention(problem),
                                     test::naive_attention<T>(problem)));
    }
  }

  /// Copies a packed sequence to where `to(token, head, d)` says.
  template <class To>
  static void spread(const TensorView<const T>& from, To&& to) {
    for (Index t = 0; t < from.tokens; ++t)
      for (Index h = 0; h < from.heads; ++h)
        for (Index d = 0; d < from.dim; ++d) to(t, h, d) = from.at(0, t, h)[d];
  }
  /// Expects the results of sequence b at `out(token, head, d)` and `lse(token, head)`.
  template <class Out, class Lse>
  void expect(Index b, Out&& out, Lse&& lse) const {
    const auto& e = expected[static_cast<std::size_t>(b)];
    Result<T> got = e;
    for (Index t = 0; t < Sq; ++t)
      for (Index h = 0; h < H; ++h) {
        for (Index d = 0; d < Dv; ++d) got.out[static_cast<std::size_t>((t * H + h) * Dv + d)] = out(t, h, d);
        got.lse[static_cast<std::size_t>(t * H + h)] = lse(t, h);
      }
    EXPECT_TRUE(test::same(got, e)) << "sequence " << b;
  }

  Index Sq, Sk;
  How how{.mask = causal()};
  std::vector<AttentionCase<T>> each;
  std::vector<Result<T>> expected;
};

template <class T>
class Layouts : public ::testing::Test {
 protected:
  static void call(const Batch<T>& batch, TensorView<const T> q, TensorView<const T> k, TensorView<const T> v,
                   TensorView<T> out, RowsView<Accumulator<T>> lse) {
    test::attend<T>(batch.how, q, k, v, out, lse);
  }
};

TYPED_TEST_SUITE(Layouts, test::AllScalars, test::ScalarNames);

TYPED_TEST(Layouts, HeadsFirstBatches) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  for (const auto& [Sq, Sk] : {std::pair<Index, Index>{9, 70}, {70, 70}, {1, 600}}) {
    const Batch<T> batch(Sq, Sk);
    Eigen::Tensor<T, 4, Eigen::RowMajor> q(2, H, Sq, D), k(2, G, Sk, D), v(2, G, Sk, Dv), out(2, H, Sq, Dv);
    Eigen::Tensor<T, 4> q2(D, Sq, H, 2), k2(D, Sk, G, 2), v2(Dv, Sk, G, 2), out2(Dv, Sq, H, 2);
    Eigen::Tensor<Acc, 3, Eigen::RowMajor> lse(2, H, Sq);
    Eigen::Tensor<Acc, 3> lse2(Sq, H, 2);
    for (Index b = 0; b < 2; ++b) {
      const auto& c = batch.each[static_cast<std::size_t>(b)];
      const auto put = [&](const TensorView<const T>& from, auto& rows, auto& columns) {
        Batch<T>::spread(from, [&](Index t, Index h, Index d) -> T& { return rows(b, h, t, d); });
        Batch<T>::spread(from, [&](Index t, Index h, Index d) -> T& { return columns(d, t, h, b); });
      };
      put(c.q_view(), q, q2);
      put(c.k_view(), k, k2);
      put(c.v_view(), v, v2);
    }
    this->call(batch, heads_first(q), heads_first(k), heads_first(v), heads_first(out),
               heads_first_rows(lse));
    this->call(batch, heads_first(q2), heads_first(k2), heads_first(v2), heads_first(out2),
               heads_first_rows(lse2));
    for (Index b = 0; b < 2; ++b) {
      batch.expect(
          b, [&](Index t, Index h, Index d) { return out(b, h, t, d); },
          [&](Index t, Index h) { return lse(b, h, t); });
      batch.expect(
          b, [&](Index t, Index h, Index d) { return out2(d, t, h, b); },
          [&](Index t, Index h) { return lse2(t, h, b); });
    }
  }
}

TYPED_TEST(Layouts, HeadsFirstOfOneSequenceIntoACache) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  const Batch<T> batch(9, 70, 1);
  Eigen::Tensor<T, 3, Eigen::RowMajor> q(H, 9, D), k(G, 70, D), v(G, 70, Dv), out(H, 9, Dv);
  Eigen::Tensor<Acc, 2, Eigen::RowMajor> lse(H, 9);
  const auto put = [&](const TensorView<const T>& from, auto& to) {
    Batch<T>::spread(from, [&](Index t, Index h, Index d) -> T& { return to(h, t, d); });
  };
  put(batch.each[0].q_view(), q);
  put(batch.each[0].k_view(), k);
  put(batch.each[0].v_view(), v);
  const typename KVCache<T>::Config config{
      .max_tokens = 70, .num_kv_heads = G, .head_dim = D, .value_dim = Dv};
  KVCache<T> appended(config), written(config);
  appended.append(heads_first(k), heads_first(v));
  written.write(0, written.extend(70), heads_first(k), heads_first(v));
  for (const auto* cache : {&appended, &written}) {
    out.setZero();
    test::attend<T>(batch.how, TensorView<const T>(heads_first(q)), cache->layer(0), heads_first(out),
                    heads_first_rows(lse));
    batch.expect(
        0, [&](Index t, Index h, Index d) { return out(h, t, d); },
        [&](Index t, Index h) { return lse(h, t); });
  }
}

TYPED_TEST(Layouts, MemoryOfTheCallers) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  const Batch<T> batch(9, 70, 1);
  const auto& c = batch.each[0];
  std::vector<T> out(9 * H * Dv), turned(9 * H * Dv), q(static_cast<std::size_t>(9 * H * D));
  std::vector<Acc> lse(9 * H);
  const RowsView<Acc> rows{lse.data(), 1, 9, H, 9 * H, H, 1};
  this->call(batch, TensorView(c.q.data(), 9, H, D), TensorView(c.k.data(), 70, G, D),
             TensorView(c.v.data(), 70, G, Dv), TensorView(out.data(), 9, H, Dv), rows);
  EXPECT_TRUE(test::same(Result<T>{out, lse}, batch.expected[0]));
  // heads x tokens x dim
  Batch<T>::spread(c.q_view(), [&](Index t, Index h, Index d) -> T& {
    return q[static_cast<std::size_t>((h * 9 + t) * D + d)];
  });
  this->call(batch, heads_first(TensorView<const T>(q.data(), H, 9, D)), TensorView(c.k.data(), 70, G, D),
             TensorView(c.v.data(), 70, G, Dv), heads_first(TensorView(turned.data(), H, 9, Dv)), rows);
  batch.expect(
      0, [&](Index t, Index h, Index d) { return turned[static_cast<std::size_t>((h * 9 + t) * Dv + d)]; },
      [&](Index t, Index h) { return lse[static_cast<std::size_t>(t * H + h)]; });
}

TYPED_TEST(Layouts, MatricesOfAllHeads) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  const Batch<T> batch(70, 70, 1);
  const auto& c = batch.each[0];
  // One projection's rows, q k v side by side; columns of their own.
  RowMajor<T> qkv(70, H * D + G * D + G * Dv), out(70, H * Dv);
  ColumnMajor<T> q(H * D, 70), k(G * D, 70), v(G * Dv, 70), columns(H * Dv, 70);
  const auto put = [&](const TensorView<const T>& from, Index first, auto& to) {
    Batch<T>::spread(from, [&](Index t, Index h, Index d) -> T& { return qkv(t, first + h * from.dim + d); });
    Batch<T>::spread(from, [&](Index t, Index h, Index d) -> T& { return to(h * from.dim + d, t); });
  };
  put(c.q_view(), 0, q);
  put(c.k_view(), H * D, k);
  put(c.v_view(), H * D + G * D, v);
  std::vector<Acc> lse(70 * H);
  const RowsView<Acc> rows{lse.data(), 1, 70, H, 70 * H, H, 1};
  const auto lse_at = [&](Index t, Index h) { return lse[static_cast<std::size_t>(t * H + h)]; };

  const RowMajor<T>& constant = qkv;
  this->call(batch, heads_of(qkv.leftCols(H * D), H), heads_of(constant.middleCols(H * D, G * D), G),
             heads_of(qkv.rightCols(G * Dv), G), heads_of(out, H), rows);
  batch.expect(
      0, [&](Index t, Index h, Index d) { return out(t, h * Dv + d); }, lse_at);
  this->call(batch, heads_of(q, H), heads_of(k, G), heads_of(v, G), heads_of(columns, H), rows);
  batch.expect(
      0, [&](Index t, Index h, Index d) { return columns(h * Dv + d, t); }, lse_at);
  out.setZero();
  this->call(
      batch, heads_of(q.transpose(), H), heads_of(Eigen::Map<const ColumnMajor<T>>(k.data(), G * D, 70), G),
      heads_of(Eigen::Ref<const ColumnMajor<T>>(v), G), heads_of(out.block(0, 0, 70, H * Dv), H), rows);
  batch.expect(
      0, [&](Index t, Index h, Index d) { return out(t, h * Dv + d); }, lse_at);

  KVCache<T> cache({.max_tokens = 70, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
  cache.append(heads_of(k, G), heads_of(v, G));
  out.setZero();
  test::attend<T>(batch.how, TensorView<const T>(heads_of(q, H)), cache.layer(0), heads_of(out, H), rows);
  batch.expect(
      0, [&](Index t, Index h, Index d) { return out(t, h * Dv + d); }, lse_at);
}

TYPED_TEST(Layouts, AMatrixAHead) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  const Batch<T> batch(9, 70, 1);
  const auto& c = batch.each[0];
  std::vector<ColumnMajor<T>> q(H, ColumnMajor<T>(D, 9)), k(G, ColumnMajor<T>(D, 70)),
      out(H, ColumnMajor<T>(Dv, 9));
  std::vector<RowMajor<T>> v(G, RowMajor<T>(70, Dv));  // the other layout beside them
  std::vector<std::vector<Acc>> lse(H, std::vector<Acc>(9));
  const auto at = [](auto& list, Index i) -> auto& { return list[static_cast<std::size_t>(i)]; };
  Batch<T>::spread(c.q_view(), [&](Index t, Index h, Index d) -> T& { return at(q, h)(d, t); });
  Batch<T>::spread(c.k_view(), [&](Index t, Index h, Index d) -> T& { return at(k, h)(d, t); });
  Batch<T>::spread(c.v_view(), [&](Index t, Index h, Index d) -> T& { return at(v, h)(t, d); });
  for (Index h = 0; h < H; ++h)
    this->call(batch, heads_of(at(q, h)), heads_of(at(k, h / 3)), heads_of(at(v, h / 3)),
               heads_of(at(out, h)), {at(lse, h).data(), 1, 9, 1, 9, 1, 1});
  batch.expect(
      0, [&](Index t, Index h, Index d) { return at(out, h)(d, t); },
      [&](Index t, Index h) { return at(lse, h)[static_cast<std::size_t>(t)]; });
}

TEST(HeadsOf, MatricesThatDoNotFit) {
  const auto message_of = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing thrown";
  };
  Eigen::MatrixXf matrix(10, 3);
  EXPECT_EQ(message_of([&] { heads_of(matrix, 4); }),
            "matrix: a token has 10 elements, expected a multiple of the 4 heads");
  EXPECT_EQ(message_of([&] { heads_of(matrix, 0); }), "num_heads is 0, expected at least 1");
  using Strided = Eigen::Map<Eigen::MatrixXf, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  EXPECT_EQ(message_of([&] {
              heads_of(Strided(matrix.data(), 5, 3, {10, 2}));
            }),
            "matrix: a token's elements lie 2 apart, expected side by side");
  Eigen::VectorXf token(10);
  EXPECT_EQ(heads_of(token, 2).tokens, 1);
  EXPECT_EQ(heads_of(token, 2).dim, 5);
  Eigen::RowVectorXf row(10);
  EXPECT_EQ(heads_of(row, 2).tokens, 1);
  static_assert(std::is_same_v<decltype(heads_of(std::as_const(matrix))), TensorView<const float>>);
  static_assert(std::is_same_v<decltype(heads_of(matrix.leftCols(1))), TensorView<float>>);
}

}  // namespace
}  // namespace gqa
