// SPDX-License-Identifier: Apache-2.0
// Any map from query heads to KV heads: against the oracle, and bit for bit what each query head gives alone.
#include <gtest/gtest.h>

#include "attention/ragged_case.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::How;
using test::message_of;
using test::Result;
using test::Sizes;
using test::Threads;

template <Scalar T>
struct Grouped {
  /// `sizes.num_q_heads` need not be a multiple of `sizes.num_kv_heads`.
  Grouped(const Sizes& sizes, const HeadGrouping& map, std::uint64_t seed) : c(sizes, seed), grouping(map) {}

  template <class KV>
  Result<T> run_over(const KV& kv, const How& how) const {
    const Sizes& s = c.sizes;
    const Index rows = s.num_q_tokens * s.num_q_heads;
    Result<T> result{std::vector<T>(static_cast<std::size_t>(rows * s.value_dim), T(7)),
                     std::vector<Accumulator<T>>(static_cast<std::size_t>(rows), 7)};
    Threads serial(1);
    attention(how.threads != nullptr ? *how.threads : serial, c.q_view(), kv,
              TensorView<T>(result.out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim), grouping,
              how.mask,
              LseOutput<Accumulator<T>>{
                  {result.lse.data(), 1, s.num_q_tokens, s.num_q_heads, rows, s.num_q_heads, 1}});
    return result;
  }
  Result<T> run(const How& how) const { return run_over(ContiguousKV<T>(c.k_view(), c.v_view()), how); }
  Result<T> run_cached(const How& how) const {
    const auto cache = test::cache_of(c);
    return run_over(cache.layer(0), how);
  }

  /// Each query head by a call of its own over its own KV head, without a map.
  Result<T> head_by_head(const How& how) const {
    const Sizes& s = c.sizes;
    Result<T> all{std::vector<T>(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads * s.value_dim)),
                  std::vector<Accumulator<T>>(static_cast<std::size_t>(s.num_q_tokens * s.num_q_heads))};
    for (Index h = 0; h < s.num_q_heads; ++h) {
      const Index g = grouping.kv_head(h);
      const auto q = c.q_view(), k = c.k_view(), v = c.v_view();
      const auto head = [](const TensorView<const T>& x, Index i) {
        return TensorView<const T>(x.data + i * x.head_stride, {1, x.tokens, 1, x.dim},
                                   {x.batch_stride, x.token_stride, x.head_stride});
      };
      const auto one = test::run<T>(how, head(q, h), s.value_dim, head(k, g), head(v, g));
      for (Index t = 0; t < s.num_q_tokens; ++t) {
        std::copy_n(one.out.begin() + t * s.value_dim, s.value_dim,
                    all.out.begin() + (t * s.num_q_heads + h) * s.value_dim);
        all.lse[static_cast<std::size_t>(t * s.num_q_heads + h)] = one.lse[static_cast<std::size_t>(t)];
      }
    }
    return all;
  }

  AttentionCase<T> c;
  HeadGrouping grouping;
};

/// `few` query heads on the last KV head, `many` on the first, interleaved where both are left.
HeadGrouping uneven(Index many, Index few, Index num_kv_heads) {
  std::vector<Index> map;
  for (Index h = 0; h < many + few; ++h) map.push_back(h % 2 == 1 && h / 2 < few ? num_kv_heads - 1 : 0);
  return HeadGrouping(map, num_kv_heads);
}

std::vector<HeadGrouping> maps() {
  return {
      HeadGrouping::contiguous(6, 2), HeadGrouping::strided(6, 2),
      HeadGrouping({1, 0, 0, 0, 0, 1}, 2),    // unequal
      HeadGrouping({3, 0, 3, 1, 3}, 4),       // nobody reads KV head 2; 5 is no multiple of 4
      HeadGrouping({2, 2, 2, 2, 2, 2, 2}, 3)  // nobody reads any other
  };
}

template <class T>
class HeadMap : public ::testing::Test {};

using Scalars = ::testing::Types<float, half, bfloat16>;
TYPED_TEST_SUITE(HeadMap, Scalars, test::ScalarNames);

TYPED_TEST(HeadMap, IsTheOracle) {
  std::uint64_t seed = 1;
  for (const HeadGrouping& map : maps()) {
    for (const auto& [Sq, Sk] : {std::pair<Index, Index>{1, 300}, {70, 131}, {65, 65}, {9, 4}}) {
      Grouped<TypeParam> grouped(Sizes{Sq, Sk, map.num_q_heads(), map.num_kv_heads(), 24, 20}, map, seed++);
      for (const How& how : {How{.mask = causal()}, How{.mask = sliding_window(33)}}) {
        auto problem = test::problem_of(grouped.c, how);
        problem.kv_head_of = [&](Index h) { return map.kv_head(h); };
        const auto exact = reference::attention(problem);
        const auto naive = test::naive_attention<TypeParam>(problem);
        EXPECT_TRUE(test::within_bound(grouped.run(how), problem, exact, naive)) << grouped.c.sizes.name();
        EXPECT_TRUE(test::within_bound(grouped.run_cached(how), problem, exact, naive))
            << "cache: " << grouped.c.sizes.name();
      }
    }
  }
}

TYPED_TEST(HeadMap, ContiguousIsTheDefaultInEveryBit) {
  for (const Sizes& sizes : {Sizes{1, 2000, 6, 2, 24}, Sizes{150, 700, 6, 2, 24, 20}, Sizes{20, 90, 7, 1, 16},
                             Sizes{20, 90, 3, 3, 16}}) {
    Grouped<TypeParam> grouped(sizes, HeadGrouping::contiguous(sizes.num_q_heads, sizes.num_kv_heads), 1);
    for (int n : {1, 3}) {
      Threads threads(n);
      const How how{.mask = causal(), .threads = &threads};
      EXPECT_TRUE(test::same(grouped.run(how), test::run(grouped.c, how))) << sizes.name();
      EXPECT_TRUE(test::same(grouped.run_cached(how), test::run_cached(grouped.c, how))) << sizes.name();
    }
  }
}

TYPED_TEST(HeadMap, EachHeadIsAsAlone) {
  auto list = maps();
  list.push_back(uneven(70, 3, 2));
  for (const HeadGrouping& map : list) {
    for (const auto& [Sq, Sk] : {std::pair<Index, Index>{1, 3000}, {400, 600}, {3, 1}}) {
      Grouped<TypeParam> grouped(Sizes{Sq, Sk, map.num_q_heads(), map.num_kv_heads(), 8, 12}, map, 3);
      for (const How& asked : {How{.mask = causal()}, How{.mask = sliding_window(70)}}) {
        const auto alone = grouped.head_by_head(asked);
        for (int n : {1, 3}) {
          Threads threads(n);
          How how = asked;
          how.threads = &threads;
          EXPECT_TRUE(test::same(grouped.run(how), alone)) << grouped.c.sizes.name() << ", threads " << n;
        }
      }
    }
  }
}

TEST(HeadGroups, AKVHeadNobodyReadsIsNotRead) {
  const HeadGrouping map({3, 0, 3, 1, 3}, 4);
  for (const auto& [Sq, Sk] : {std::pair<Index, Index>{1, 1500}, {20, 300}}) {
    Grouped<float> grouped(Sizes{Sq, Sk, 5, 4, 8}, map, 3);
    const auto before = grouped.run({.mask = causal()});
    for (Index j = 0; j < Sk; ++j)
      for (Index d = 0; d < 8; ++d)
        grouped.c.k[static_cast<std::size_t>((j * 4 + 2) * 8 + d)] =
            grouped.c.v[static_cast<std::size_t>((j * 4 + 2) * 8 + d)] =
                std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(test::same(grouped.run({.mask = causal()}), before));

    std::vector<Index> read(4);
    test::FunctionKV<float> counting{.kv_heads = 4, .key_dim = 8, .values_dim = 8, .positions = {0, Sk}};
    const auto tensors = ContiguousKV<float>(grouped.c.k_view(), grouped.c.v_view());
    counting.read = [&](Index seq, Index kv_head, Range want, void* scratch) {
      ++read[static_cast<std::size_t>(kv_head)];
      return tensors.tile(seq, kv_head, want, scratch);
    };
    EXPECT_TRUE(test::same(grouped.run_over(counting, {.mask = causal()}), before));
    EXPECT_EQ(read[2], 0);
    EXPECT_GT(read[0], 0);
    EXPECT_EQ(read[3], read[0]) << "three query heads read it, once";
  }
}

TEST(HeadGroups, MasksScoresAndSinksKnowTheQueryHead) {
  const HeadGrouping map({1, 0, 1, 1, 0}, 2);
  const std::vector<double> sinks{1, -2, 0.5, 3, 0};
  for (const auto& [Sq, Sk] : {std::pair<Index, Index>{1, 700}, {40, 90}}) {
    AttentionCase<float> c(Sizes{Sq, Sk, 5, 2, 16}, 4);
    auto problem = c.problem();
    problem.kv_head_of = [&](Index h) { return map.kv_head(h); };
    problem.sink_logits = sinks;
    problem.visible = [](Index h, Index q, Index kv) { return kv <= q && q - kv < 10 + 30 * h; };
    problem.modify = [](double s, Index h, Index, Index) { return s + 0.1 * static_cast<double>(h); };
    const auto exact = reference::attention(problem);
    Result<float> result{std::vector<float>(exact.out.size()), std::vector<float>(exact.lse.size())};
    attention(c.q_view(), c.k_view(), c.v_view(), TensorView<float>(result.out.data(), Sq, 5, 16),
              AnyScoreMod(problem.modify), SinkLogits(sinks), map,
              per_head({sliding_window(10), sliding_window(40), sliding_window(70), sliding_window(100),
                        sliding_window(130)}),
              LseOutput<float>{{result.lse.data(), 1, Sq, 5, Sq * 5, 5, 1}});
    EXPECT_TRUE(test::within_bound(result, problem, exact, test::naive_attention<float>(problem)));
  }
}

TEST(HeadGroups, MapsThatDoNotFit) {
  const auto refused = [](const Sizes& sizes, const HeadGrouping& map) {
    const Grouped<float> grouped(sizes, map, 1);
    return message_of([&] { grouped.run({.mask = causal()}); });
  };
  EXPECT_EQ(refused(Sizes{2, 3, 5, 2, 8}, HeadGrouping({0, 1, 0, 1}, 2)),
            "HeadGrouping: query heads is 4, expected 5 as in q");
  EXPECT_EQ(refused(Sizes{2, 3, 3, 2, 8}, HeadGrouping({0, 1, 0, 1}, 2)),
            "HeadGrouping: query heads is 4, expected 3 as in q");
  EXPECT_EQ(refused(Sizes{2, 3, 4, 3, 8}, HeadGrouping({0, 1, 0, 1}, 2)),
            "HeadGrouping: KV heads is 2, expected 3 as in k");
  EXPECT_EQ(refused(Sizes{2, 3, 4, 1, 8}, HeadGrouping({0, 1, 0, 1}, 2)),
            "HeadGrouping: KV heads is 2, expected 1 as in k");
}

TEST(HeadGroups, HeadsGivenBesideAMapAreChecked) {
  const AttentionCase<float> c(Sizes{2, 3, 4, 2, 8}, 1);
  const auto map = HeadGrouping::strided(4, 2);
  const auto refused = [&]<Index H, Index G>(std::integer_sequence<Index, H, G>) {
    return message_of([&] { attention<H, G>(c.q_view(), c.k_view(), c.v_view(), map); });
  };
  EXPECT_EQ(refused(std::integer_sequence<Index, 4, 2>{}), "nothing thrown");
  EXPECT_EQ(refused(std::integer_sequence<Index, 8, 2>{}), "q: heads is 4, expected 8");
  EXPECT_EQ(refused(std::integer_sequence<Index, 4, 4>{}), "k: heads is 2, expected 4");
}

}  // namespace
}  // namespace gqa
