// SPDX-License-Identifier: Apache-2.0
// A ring has the bits of a cache that keeps everything with the window as its mask; and of a ring's sinks and
// recent tokens, two calls make attention with the positions within the cache.
#include "gqa/kv/ring.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "gqa/attention_weights.hpp"
#include "laws/windowed_case.hpp"

namespace gqa {
namespace {

using test::TokenModel;

template <class T>
class RingLaw : public ::testing::Test {};
TYPED_TEST_SUITE(RingLaw, test::AllScalars, test::ScalarNames);

template <class T>
void expect_ring_law(const typename RingCache<T>::Config& c, Index tokens, std::uint64_t seed) {
  RingCache<T> cache(c);
  TokenModel<T> model({{c.num_kv_heads, c.head_dim, c.value_dim, c.window, c.sinks}});
  SCOPED_TRACE("window " + std::to_string(c.window) + ", sinks " + std::to_string(c.sinks) + ", max_span " +
               std::to_string(c.max_span) + ", rollback " + std::to_string(c.rollback));
  test::expect_law(model, cache, c.max_span, c.rollback, tokens, seed);
}

TYPED_TEST(RingLaw, SameBitsAsACacheOfEverythingWithTheMask) {
  for (const std::uint64_t seed : test::seeds(12)) {
    test::Random random(seed);
    expect_ring_law<TypeParam>({.window = random.integer(1, 300),
                                .sinks = seed % 2 == 0 ? 0 : random.integer(1, 130),
                                .max_span = random.integer(1, 200),
                                .rollback = random.integer(0, 100),
                                .num_kv_heads = random.integer(1, 2),
                                .head_dim = random.pick(std::vector<Index>{1, 16, 33, 40}),
                                .value_dim = random.pick(std::vector<Index>{8, 17, 64})},
                               1700, seed);
  }
}

TYPED_TEST(RingLaw, AroundTheWindowTokenByToken) {
  // The sizes just below, at and above a window and its ring, each of them seen.
  for (const Index window : {1, 8, 63, 64, 65}) {
    const Index end = window + ring_tokens(window) + 70;
    expect_ring_law<TypeParam>({.window = window, .num_kv_heads = 1, .head_dim = 8, .value_dim = 8}, end, 1);
    expect_ring_law<TypeParam>(
        {.window = window, .sinks = 4, .rollback = 3, .num_kv_heads = 1, .head_dim = 8, .value_dim = 8}, end,
        2);
  }
}

TYPED_TEST(RingLaw, SpansLongerThanTheWindow) {
  for (const Index window : {1, 10, 64})
    for (const Index sinks : {0, 4, 600})
      expect_ring_law<TypeParam>({.window = window,
                                  .sinks = sinks,
                                  .max_span = 700,
                                  .num_kv_heads = 1,
                                  .head_dim = 16,
                                  .value_dim = 16},
                                 3000, 3);
}

TYPED_TEST(RingLaw, NaNsThatNoWindowReachesLeaveNoTrace) {
  // Slots are used again without being cleared; tiles are kept whole.
  using T = TypeParam;
  const CacheLayer layer{1, 9, 7, 50, 3};
  const auto config = typename RingCache<T>::Config{
      .window = 50, .sinks = 3, .max_span = 21, .num_kv_heads = 1, .head_dim = 9, .value_dim = 7};
  RingCache<T> with(config), without(config);
  const auto x = test::random_values<T>(1, 21 * 9);
  const std::vector<T> nan(x.size(), std::numeric_limits<T>::quiet_NaN());
  test::Random random(1);
  while (with.size() < 700) {
    const Index n = with.size() == 0 ? 3 : random.integer(1, 21);
    const bool dirty = with.size() > 0 && with.size() < 300;
    const T* const data = dirty ? nan.data() : x.data();
    with.append(TensorView<const T>(data, n, 1, 9), TensorView<const T>(data, n, 1, 7));
    without.append(TensorView<const T>(x.data(), n, 1, 9), TensorView<const T>(x.data(), n, 1, 7));
    if (with.size() - n < 321 + 50) continue;
    ASSERT_TRUE(same(test::last_queries<T>(with.layer(0), layer, n, 2),
                     test::last_queries<T>(without.layer(0), layer, n, 2)))
        << with.size();
  }
}

TEST(RingLawAtLength, TwentyThousandTokensInConstantMemory) {
  const CacheLayer layer{2, 16, 16, 500, 4};
  RingCache<bfloat16> cache(
      {.window = 500, .sinks = 4, .max_span = 64, .rollback = 8, .num_kv_heads = 2, .head_dim = 16});
  TokenModel<bfloat16> model({layer});
  auto all = test::unbounded(model, 30000);
  model.add(cache, 1);
  const Index allocated = cache.allocated_bytes(), bookkeeping = cache.bookkeeping_bytes();
  EXPECT_EQ(allocated, (ring_tokens(500, 64, 8) + 64) * cache.bytes_per_token());
  for (int step = 0; model.size() < 20000; ++step) {
    model.add(cache, step % 3 == 0 ? 1 : 64);
    if (step % 7 == 0) model.truncate(cache, model.size() - (step % 3 == 0 ? 0 : 8));
    ASSERT_EQ(cache.allocated_bytes(), allocated);
    if (step % 50 != 0) continue;
    test::follow(model, all);
    ASSERT_NO_FATAL_FAILURE(test::expect_same_bits(model, cache, all, 1, 5));
  }
  EXPECT_EQ(cache.bookkeeping_bytes(), bookkeeping);
  model.expect_in(cache);
}

TEST(RingLawAtLength, ThreadsChangeNoBit) {
  RingCache<float> cache({.window = 3000, .sinks = 70, .max_span = 500, .num_kv_heads = 1, .head_dim = 32});
  const CacheLayer layer{1, 32, 32, 3000, 70};
  TokenModel<float> model({layer});
  while (model.size() < 9000) model.add(cache, 500);
  const auto expected = test::last_queries<float>(cache.layer(0), layer, 2, 9, 2);
  Eigen::ThreadPool pool(3);
  const auto q = test::random_values<float>(9, 2 * 2 * 32);
  std::vector<float> out(2 * 2 * 32);
  attention(pool, TensorView<const float>(q.data(), 2, 2, 32), cache, TensorView<float>(out.data(), 2, 2, 32),
            test::mask_of(layer));
  EXPECT_EQ(out, expected.out);
}

TEST(RingLawAtLength, WeightsOfDroppedTokensAreZero) {
  // What reads rows of scores skips the hole between the sinks and the rest, too.
  const CacheLayer layer{1, 16, 16, 100, 5};
  RingCache<float> cache({.window = 100, .sinks = 5, .max_span = 30, .num_kv_heads = 1, .head_dim = 16});
  TokenModel<float> model({layer});
  auto all = test::unbounded(model, 700);
  while (model.size() < 690) model.add(cache, 30);
  test::follow(model, all);
  const auto q = test::random_values<float>(9, 30 * 2 * 16);
  const TensorView<const float> queries(q.data(), 30, 2, 16);
  const std::vector<Index> tokens = {0, 17, 29}, heads = {0, 1};
  const WeightRows rows{.tokens = tokens, .q_heads = heads};
  const auto of_ring = attention_weights(queries, cache, rows, test::mask_of(layer));
  const auto of_all = attention_weights(queries, all[0], rows, test::mask_of(layer));
  ASSERT_EQ(of_ring.dimension(2), 690);
  for (Index i = 0; i < of_all.size(); ++i) ASSERT_EQ(of_ring.data()[i], of_all.data()[i]) << i;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double each : x) sum += each * each;
  return std::sqrt(sum);
}

/// x turned to a position as RoPE does it: pairs (x[d], x[d + D / 2]) by position / 100^(2 d / D).
std::vector<double> turned(std::vector<double> x, Index position) {
  const std::size_t half = x.size() / 2;
  for (std::size_t d = 0; d < half; ++d) {
    const double angle =
        static_cast<double>(position) * std::pow(100, -static_cast<double>(d) / double(half));
    const double a = x[d], b = x[d + half];
    x[d] = a * std::cos(angle) - b * std::sin(angle);
    x[d + half] = a * std::sin(angle) + b * std::cos(angle);
  }
  return x;
}

TYPED_TEST(RingLaw, PartsWithQueriesTurnedApartAreAttentionWithPositionsWithinTheCache) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  constexpr Index W = 70, S = 5, D = 8, Dv = 6, H = 3, N = 40;
  RingCache<T> cache(
      {.window = W, .sinks = S, .max_span = N, .num_kv_heads = 1, .head_dim = D, .value_dim = Dv});
  const auto raw_k = test::random_values<double>(1, 3000 * D),
             raw_v = test::random_values<double>(2, 3000 * Dv);
  const auto key = [&](Index j) {
    return std::vector<double>(raw_k.data() + j * D, raw_k.data() + (j + 1) * D);
  };
  for (Index begin = 0; begin < 400; begin += N) {
    std::vector<T> k, v;
    for (Index j = begin; j < begin + N; ++j) {
      for (const double x : turned(key(j), j)) k.push_back(T(x));  // at its absolute position, once
      for (Index c = 0; c < Dv; ++c) v.push_back(T(raw_v[static_cast<std::size_t>(j * Dv + c)]));
    }
    cache.append(TensorView<const T>(k.data(), N, 1, D), TensorView<const T>(v.data(), N, 1, Dv));

    const auto raw_q = test::random_values<double>(static_cast<std::uint64_t>(begin) + 3, N * H * D);
    const auto query = [&](Index i, Index h) {
      const double* q = raw_q.data() + ((i - begin) * H + h) * D;
      return std::vector<double>(q, q + D);
    };
    const auto first_of_window = [](Index i) { return std::max(i - W + 1, Index{S}); };
    std::vector<T> q_sinks, q_recent;
    for (Index i = begin; i < begin + N; ++i) {
      for (Index h = 0; h < H; ++h) {
        for (const double x : turned(query(i, h), i - first_of_window(i) + S)) q_sinks.push_back(T(x));
        for (const double x : turned(query(i, h), i)) q_recent.push_back(T(x));
      }
    }
    std::vector<T> out(N * H * Dv);
    const TensorView<T> out_view(out.data(), N, H, Dv);
    OnlineSoftmax<Acc> state(N * H, Dv);
    const AttentionOptions at{.scale = 0.5, .q_offset = begin};
    attention(TensorView<const T>(q_sinks.data(), N, H, D), cache.sinks(0), out_view, sinks(S), at,
              state_into(state));
    attention(TensorView<const T>(q_recent.data(), N, H, D), cache.recent(0), out_view, sliding_window(W), at,
              resume(state));

    // Every key and query turned to its place in the list of what is seen, in double.
    for (Index i = begin; i < begin + N; ++i) {
      for (Index h = 0; h < H; ++h) {
        std::vector<Index> seen;
        for (Index j = 0; j <= i; ++j)
          if (j < S || j > i - W) seen.push_back(j);
        const auto q = turned(query(i, h), std::ssize(seen) - 1);
        std::vector<double> sum(Dv);
        double total = 0, longest_key = 0, largest_value = 0;
        for (Index place = 0; place < std::ssize(seen); ++place) {
          const Index j = seen[static_cast<std::size_t>(place)];
          const auto k_here = turned(key(j), place);
          double score = 0;
          for (std::size_t d = 0; d < D; ++d) score += q[d] * k_here[d];
          const double p = std::exp(0.5 * score);
          total += p;
          longest_key = std::max(longest_key, norm(k_here));
          for (Index c = 0; c < Dv; ++c)
            largest_value = std::max(largest_value, std::abs(raw_v[static_cast<std::size_t>(j * Dv + c)]));
          for (Index c = 0; c < Dv; ++c)
            sum[static_cast<std::size_t>(c)] += p * raw_v[static_cast<std::size_t>(j * Dv + c)];
        }
        // Keys, queries, values and weights are rounded to T; sums to their own type; angles to double.
        const double unit = test::detail::unit_roundoff<T>(), of_sums = test::detail::unit_roundoff<Acc>();
        const double of_scores = 0.5 * norm(q) * longest_key * (2 * unit + D * of_sums + 2 * 400 * 0x1p-53);
        const double bound = largest_value * (2 * of_scores + 3 * unit + (W + S) * of_sums);
        for (Index c = 0; c < Dv; ++c)
          ASSERT_NEAR(static_cast<double>(out[static_cast<std::size_t>(((i - begin) * H + h) * Dv + c)]),
                      sum[static_cast<std::size_t>(c)] / total, bound)
              << "query " << i << ", head " << h;
      }
    }
  }
}

}  // namespace
}  // namespace gqa
