// SPDX-License-Identifier: Apache-2.0
// Every score function and learned sinks through attention, in prefill and decode, MHA, GQA, MQA and every
// dtype.
#include <gtest/gtest.h>

#include "score/attention_law.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;
using Modify = std::function<double(double score, Index q_head, Index q_pos, Index kv_pos)>;

bool visible(Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos; }

template <class T>
class ModifiedAttention : public ::testing::Test {
 protected:
  /// `make(num_q_heads)` gives the score function for a number of heads.
  template <class Make>
  static void expect_is(Make make, const Modify& modify) {
    std::uint64_t seed = 1;
    for (const Sizes& sizes : test::attention_shapes()) {
      auto c = test::poisoned_case<T>(sizes, seed++, visible);
      auto problem = c.problem();
      problem.visible = visible;
      problem.modify = modify;
      test::expect_attention_is(c, problem, true, causal(), AnyScoreMod(make(sizes.num_q_heads)));
    }
  }
};

using Scalars = test::AllScalars;
TYPED_TEST_SUITE(ModifiedAttention, Scalars);

double distance(Index q, Index kv) { return static_cast<double>(q > kv ? q - kv : kv - q); }

TYPED_TEST(ModifiedAttention, SoftCap) {
  this->expect_is([](Index) { return soft_cap(1.5); },
                  [](double s, Index, Index, Index) { return 1.5 * std::tanh(s / 1.5); });
}

TYPED_TEST(ModifiedAttention, Alibi) {
  const auto slopes = [](Index H) {
    std::vector<double> list;
    for (Index h = 0; h < H; ++h) list.push_back(0.25 / static_cast<double>(h + 1));
    return list;
  };
  this->expect_is([=](Index H) { return alibi(slopes(H)); },
                  [](double s, Index h, Index q, Index kv) {
                    return s - 0.25 / static_cast<double>(h + 1) * distance(q, kv);
                  });
}

TYPED_TEST(ModifiedAttention, RelativeBias) {
  // Bucket = distance up to 7, then by powers: with 16 buckets and distance 128, sqrt(2) a bucket from 8 on.
  const auto table = test::random_values<float>(1, 16 * 7);
  const auto bucket = [](Index q, Index kv) {
    const double n = static_cast<double>(std::max<Index>(q - kv, 0));
    return n < 8 ? static_cast<Index>(n)
                 : std::min<Index>(15, 8 + static_cast<Index>(std::floor(2 * std::log2(n / 8) + 1e-12)));
  };
  this->expect_is(
      [=](Index H) {
        std::vector<float> own;
        for (std::size_t b = 0; b < 16; ++b) {
          for (std::size_t h = 0; h < static_cast<std::size_t>(H); ++h) own.push_back(table[b * 7 + h]);
        }
        return relative_bias({.num_buckets = 16, .max_distance = 128, .bidirectional = false}, own, H);
      },
      [=](double s, Index h, Index q, Index kv) {
        return s + static_cast<double>(table[static_cast<std::size_t>(bucket(q, kv) * 7 + h)]);
      });
}

TYPED_TEST(ModifiedAttention, TensorBiasWithMinusInfinity) {
  for (const Sizes& sizes : test::attention_shapes()) {
    const Index H = sizes.num_q_heads, Sq = sizes.num_q_tokens, Sk = sizes.num_kv_tokens;
    auto bias = test::random_values<float>(2, H * Sq * Sk);
    for (std::size_t i = 0; i < bias.size(); i += 5) bias[i] = -std::numeric_limits<float>::infinity();
    AttentionCase<TypeParam> c(sizes, 4);
    auto problem = c.problem();
    problem.modify = [&](double s, Index h, Index q, Index kv) {
      return s + static_cast<double>(bias[static_cast<std::size_t>((h * Sq + q - (Sk - Sq)) * Sk + kv)]);
    };
    test::expect_attention_is(c, problem, false,
                              AnyScoreMod(tensor_bias(ScoreTensor<float>(bias.data(), {1, H, Sq, Sk}))));
  }
}

/// As in PyTorch: -inf added to NaN is NaN. A mask is what keeps garbage out.
TYPED_TEST(ModifiedAttention, ABiasOfMinusInfinityIsArithmeticAndAMaskIsNot) {
  using T = TypeParam;
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  const Index n = 4, hidden = 2;
  Eigen::Tensor<float, 2, Eigen::RowMajor> bias(n, n);
  Eigen::Tensor<bool, 2, Eigen::RowMajor> allowed(n, n);
  bias.setZero();
  allowed.setConstant(true);
  for (Index i = 0; i < n; i += 2) {
    bias(i, hidden) = -std::numeric_limits<float>::infinity();
    allowed(i, hidden) = false;
  }
  AttentionCase<T> clean({n, n, 2, 1, 8}, 1);
  const auto expected = attention(clean.q_view(), clean.k_view(), clean.v_view(), tensor_mask(allowed));
  const auto biased = attention(clean.q_view(), clean.k_view(), clean.v_view(), tensor_bias(bias));
  const Index row = 2 * 8;
  for (Index i = 0; i < row; ++i)
    EXPECT_NEAR(static_cast<double>(biased.data()[i]), static_cast<double>(expected.data()[i]), 0.02);
  for (const auto& [in_key, garbage] : {std::pair{true, nan}, {true, inf}, {false, nan}, {false, inf}}) {
    AttentionCase<T> c = clean;
    (in_key ? c.k : c.v)[static_cast<std::size_t>(hidden * 8)] = garbage;
    const auto masked = attention(c.q_view(), c.k_view(), c.v_view(), tensor_mask(allowed));
    const auto added = attention(c.q_view(), c.k_view(), c.v_view(), tensor_bias(bias));
    for (Index i = 0; i < n; ++i) {
      if (i % 2 == 0) {
        for (Index j = 0; j < row; ++j)
          EXPECT_EQ(static_cast<double>(masked.data()[i * row + j]),
                    static_cast<double>(expected.data()[i * row + j]));
      }
      // An infinite key's score is +-inf by the query's sign: -inf + -inf is a weight of 0.
      if (std::isnan(static_cast<double>(garbage)) || !in_key) {
        const double x = static_cast<double>(added.data()[i * row]);
        EXPECT_TRUE(i % 2 == 0 || in_key ? std::isnan(x) : !std::isfinite(x)) << i << ": " << x;
      }
    }
  }
}

TYPED_TEST(ModifiedAttention, ChainInStageOrder) {
  this->expect_is(
      [](Index H) {
        return alibi(std::vector<double>(static_cast<std::size_t>(H), 0.01)) | soft_cap(4) |
               temperature([](Index q) { return 1 + 0.001 * static_cast<double>(q); });
      },
      [](double s, Index, Index q, Index kv) {
        return 4 * std::tanh(s * (1 + 0.001 * static_cast<double>(q)) / 4) - 0.01 * distance(q, kv);
      });
}

TYPED_TEST(ModifiedAttention, LambdaOfOnesOwn) {
  const auto f = [](double s, Index h, Index q, Index kv) {
    return s * s / 4 + 0.1 * static_cast<double>((h + q * kv) % 3);
  };
  this->expect_is([=](Index) { return f; }, f);
}

TYPED_TEST(ModifiedAttention, LearnedSinks) {
  for (const Sizes& sizes : test::attention_shapes()) {
    auto sinks = test::random_values<double>(3, sizes.num_q_heads, 3);
    sinks[0] = -std::numeric_limits<double>::infinity();
    auto c = test::poisoned_case<TypeParam>(sizes, 6, visible);
    auto problem = c.problem();
    problem.visible = visible;
    problem.sink_logits = sinks;
    test::expect_attention_is(c, problem, true, causal(), SinkLogits(sinks));
    problem.modify = [](double s, Index, Index, Index) { return 2 * std::tanh(s / 2); };
    test::expect_attention_is(c, problem, true, causal(), SinkLogits(sinks), AnyScoreMod(soft_cap(2)));
  }
}

TEST(ModifiedAttention, NaNOfAScoreFunctionStaysInItsRow) {
  AttentionCase<float> c(
      {.num_q_tokens = 70, .num_kv_tokens = 200, .num_q_heads = 4, .num_kv_heads = 2, .head_dim = 16}, 1);
  auto problem = c.problem();
  problem.modify = [](double s, Index h, Index q, Index kv) {
    return h == 1 && q == 150 && kv == 77 ? std::numeric_limits<double>::quiet_NaN() : s;
  };
  test::expect_attention_is(c, problem, true, no_mask(), AnyScoreMod(problem.modify));
  const auto exact = reference::attention(problem);
  EXPECT_EQ(std::count_if(exact.lse.begin(), exact.lse.end(), [](double x) { return std::isnan(x); }), 1);
}

TEST(ModifiedAttention, WrongSizesAreRefused) {
  AttentionCase<float> c(
      {.num_q_tokens = 2, .num_kv_tokens = 6, .num_q_heads = 2, .num_kv_heads = 1, .head_dim = 4}, 1);
  EXPECT_THROW(attention(c.q_view(), c.k_view(), c.v_view(), alibi(3)), std::invalid_argument);
  EXPECT_THROW(attention(c.q_view(), c.k_view(), c.v_view(), soft_cap(3) | alibi(3)), std::invalid_argument);
  EXPECT_THROW(attention(c.q_view(), c.k_view(), c.v_view(), SinkLogits({1, 2, 3})), std::invalid_argument);
}

}  // namespace
}  // namespace gqa
