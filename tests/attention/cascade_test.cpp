// SPDX-License-Identifier: Apache-2.0
// A batch that shares what its sequences begin with: attention over each sequence's own concatenation, bit
// for bit where the levels end at multiples of a chunk, within the error bound elsewhere.
#include <gtest/gtest.h>

#include "attention/cascade_case.hpp"
#include "gqa/kv/cache.hpp"

namespace gqa {
namespace {

using test::CascadeCase;
using test::How;
using test::LevelOf;
using test::message_of;
using test::own;
using test::Sizes;
using test::tails;
using test::Threads;

const Sizes& heads = test::cascade_heads;
const std::vector<Index>& queries = test::cascade_queries;

template <class T>
class Cascade : public ::testing::Test {
 protected:
  /// The same bits as unshared, or close to the oracle.
  static void expect_is(CascadeCase<T>& tree, const Window& mask, bool bits) {
    const auto alone = tree.unshared.one_by_one({.mask = mask});
    for (int n : {1, 3}) {
      Threads threads(n);
      const auto shared = tree.attend(threads, mask);
      if (bits) {
        EXPECT_TRUE(test::same(shared, alone)) << "threads " << n;
      }
      for (std::size_t seq = 0; seq < tree.unshared.each.size(); ++seq) {
        const auto problem = test::problem_of(tree.unshared.each[seq], {.mask = mask});
        EXPECT_TRUE(test::within_bound(tree.unshared.of(shared, seq), problem, reference::attention(problem),
                                       test::naive_attention<T>(problem)))
            << "sequence " << seq << ", threads " << n;
      }
    }
  }
};

TYPED_TEST_SUITE(Cascade, test::AllScalars, test::ScalarNames);

TYPED_TEST(Cascade, OfTwoLevels) {
  for (Index prefix : {512, 1024, 700, 3, 0}) {
    SCOPED_TRACE(prefix);
    CascadeCase<TypeParam> tree({{{prefix}, {0, 5}}, tails}, queries, heads, 1);
    this->expect_is(tree, causal(), prefix % chunk_keys == 0);
  }
}

TYPED_TEST(Cascade, OfThreeLevels) {
  // The second level has nodes of different lengths, one of them empty, and one that nobody reads.
  const LevelOf documents{{512, 0, 512, 1024}, {0, 2, 3, 3, 5}}, odd{{100, 0, 512, 77}, {0, 2, 3, 3, 5}};
  for (const auto& [prefix, middle, bits] :
       {std::tuple{Index{512}, documents, true}, {Index{512}, odd, false}, {Index{65}, documents, false}}) {
    SCOPED_TRACE(prefix);
    CascadeCase<TypeParam> tree({{{prefix}, {0, 5}}, middle, tails}, queries, heads, 20);
    this->expect_is(tree, causal(), bits);
  }
}

TYPED_TEST(Cascade, OfSeveralPrefixes) {
  CascadeCase<TypeParam> tree({{{512, 1024}, {0, 2, 5}}, tails}, queries, heads, 40);
  this->expect_is(tree, causal(), true);
}

TYPED_TEST(Cascade, WindowsThatNotAllQueriesSeeWhole) {
  for (Index W : {1, 100, 700, 2000}) {
    SCOPED_TRACE(W);
    CascadeCase<TypeParam> tree({{{512}, {0, 5}}, tails}, queries, heads, 60);
    this->expect_is(tree, sliding_window(W), true);
    CascadeCase<TypeParam> odd({{{333}, {0, 5}}, tails}, queries, heads, 61);
    this->expect_is(odd, sliding_window(W), false);
  }
}

TYPED_TEST(Cascade, OwnPartsThatAreEmptyOrShorterThanTheirQueries) {
  // Queries of the second and the last sequence then sit inside the prefix, which they see in part.
  CascadeCase<TypeParam> tree({{{512}, {0, 5}}, own({0, 4, 0, 0, 0})}, queries, heads, 80);
  this->expect_is(tree, causal(), true);
  this->expect_is(tree, no_mask(), true);
}

TYPED_TEST(Cascade, OfOneLevelIsARaggedCall) {
  CascadeCase<TypeParam> tree({tails}, queries, heads, 90);
  this->expect_is(tree, causal(), true);
}

TEST(CascadeCall, SharedLevelsAreReadOnce) {
  // Counted: five sequences read the tiles of the prefix as often as one does.
  const std::vector<float> memory(2000 * 16, 0.25f);
  const auto reads = [&](const std::vector<Index>& offsets, const Window& mask) {
    Index tiles = 0;
    const auto view = [&](Index seqs, Index keys, bool count) {
      test::FunctionKV<float> kv{.seqs = seqs, .kv_heads = 2, .key_dim = 8, .values_dim = 8};
      kv.positions = {0, keys};
      kv.read = [&memory, &tiles, count](Index, Index, Range want, void*) {
        tiles += count;
        const TileSide side = tile_side(memory.data(), 8);
        return KVTile{.k = side, .v = side, .size = want.size(), .layout = TileLayout::token_major};
      };
      return kv;
    };
    const Index num_seqs = offsets.back();
    std::vector<Index> each;
    for (Index i = 0; i <= num_seqs; ++i) each.push_back(i);
    const std::vector<CascadeLevel<test::FunctionKV<float>>> levels{{view(1, 1024, true), offsets},
                                                                    {view(num_seqs, 64, false), each}};
    std::vector<float> out(static_cast<std::size_t>(num_seqs * 4 * 8));
    Threads threads(1);
    cascade_attention(threads, ragged(TensorView<const float>(memory.data(), num_seqs, 4, 8), each), levels,
                      TensorView<float>(out.data(), num_seqs, 4, 8), mask);
    return tiles;
  };
  const Index once = reads({0, 1}, causal());
  EXPECT_GT(once, 0);
  EXPECT_EQ(reads({0, 5}, causal()), once);
  EXPECT_EQ(reads({0, 5}, sliding_window(2000)), once);
  EXPECT_EQ(reads({0, 5}, sliding_window(1000)), 5 * reads({0, 1}, sliding_window(1000)));
}

TEST(CascadeCall, NaNOfAScoreFunctionStaysInItsRow) {
  CascadeCase<float> tree({{{100}, {0, 2}}, {{50, 60}, {0, 1, 2}}}, {1, 1}, heads, 1);
  // The query of the first sequence sits at 149, that of the second at 159.
  const AnyScoreMod score([](double s, Index h, Index q, Index kv) {
    return h == 1 && q == 159 && kv == 130 ? std::numeric_limits<double>::quiet_NaN() : s;
  });
  Threads threads(1);
  const auto result = tree.attend(threads, causal(), score, SinkLogits(std::vector<double>(6, -1)));
  for (std::size_t row = 0; row < result.lse.size(); ++row)
    EXPECT_EQ(std::isnan(result.lse[row]), row == 7) << row;
  for (std::size_t i = 0; i < result.out.size(); ++i) ASSERT_EQ(std::isnan(result.out[i]), i / 20 == 7) << i;
}

TEST(CascadeCall, WithoutAnExecutorOnTheCallingThread) {
  CascadeCase<float> tree({{{512}, {0, 5}}, tails}, queries, heads, 1);
  Threads threads(2);
  const auto result = tree.unshared.result_of([&](auto out, auto lse) {
    cascade_attention<6, 2>(tree.unshared.q(), tree.levels, out, lse, causal());
  });
  EXPECT_TRUE(test::same(result, tree.attend(threads, causal())));
}

TEST(CascadeCall, NothingToSee) {
  CascadeCase<float> tree({{{0}, {0, 5}}, own({0, 0, 0, 0, 0})}, queries, heads, 1);
  Threads threads(2);
  const auto result = tree.attend(threads, causal());
  EXPECT_EQ(result.out, std::vector<float>(result.out.size(), 0.0f));
  EXPECT_EQ(result.lse, std::vector<float>(result.lse.size(), -std::numeric_limits<float>::infinity()));
}

TEST(CascadeCall, LevelsThatDoNotNest) {
  const auto refused = [](const std::vector<LevelOf>& shape) {
    // Room for any offsets below; the call refuses before it reads a key.
    using View = KVCache<float>::View;
    std::vector<std::unique_ptr<KVCache<float>>> caches;
    std::vector<CascadeLevel<KVList<View>>> levels;
    for (const LevelOf& level : shape) {
      std::vector<View> views;
      for (Index length : level.lengths) {
        caches.push_back(std::make_unique<KVCache<float>>(KVCache<float>::Config{
            .max_tokens = length, .num_kv_heads = 2, .head_dim = 24, .value_dim = 20}));
        views.push_back(caches.back()->layer(0));
      }
      levels.push_back({KVList<View>(views), level.offsets});
    }
    test::RaggedCase<float> c({{1, 0}, {1, 0}, {1, 0}}, heads, 1);
    return message_of([&] {
      Threads threads(1);
      const auto result = c.result_of([&](auto out, auto lse) {
        try {
          cascade_attention(threads, c.q(), levels, out, lse, AttentionOptions{}, causal());
        } catch (...) {
          for (Index i = 0; i < out.tokens * out.heads * out.dim; ++i) EXPECT_EQ(out.data[i], 7);
          throw;
        }
      });
    });
  };
  const LevelOf three{{4, 4, 4}, {0, 1, 2, 3}};
  EXPECT_EQ(refused({}), "levels: none, expected at least 1");
  EXPECT_EQ(refused({{{4, 4}, {0, 1, 3}}, {{4, 4}, {0, 2, 3}}}),
            "levels[1]: node 0 joins sequences that the level before keeps apart");
  EXPECT_EQ(refused({{{4}, {0, 3}}, {{4, 4}, {0, 1, 3}}, {{4, 4}, {0, 2, 3}}}),
            "levels[2]: node 0 joins sequences that the level before keeps apart");
  EXPECT_EQ(refused({{{4}, {0, 1, 3}}, three}),
            "levels[0]: offsets are 3, expected 2, one more than its view has sequences");
  EXPECT_EQ(refused({{{4}, {0, 2}}, three}),
            "levels[0]: offsets end at 2, expected the 3 sequences of the batch");
  EXPECT_NE(refused({{{4}, {1, 3}}, three}).find("offsets begin at 1, expected 0"), std::string::npos);
  EXPECT_NE(refused({{{4, 4, 4}, {0, 2, 1, 3}}, three}).find("offsets[2] is 1, expected at least the 2"),
            std::string::npos);
  EXPECT_EQ(refused({{{4}, {0, 3}}, three}), "nothing thrown");
}

TEST(CascadeCall, ArgumentsThatDoNotFit) {
  CascadeCase<float> tree({{{4}, {0, 2}}, {{4, 4}, {0, 1, 2}}}, {1, 2}, heads, 1);
  Threads threads(1);
  tree.options.q_offset = 3;
  EXPECT_EQ(message_of([&] { tree.attend(threads, causal()); }),
            "q_offset: given, expected none in a cascade");
  const CascadeCase<float> wide({{{4}, {0, 2}}, {{4, 4}, {0, 1, 2}}}, {1, 2}, Sizes{0, 0, 6, 2, 24, 8}, 1);
  const std::vector mixed{tree.levels[0], wide.levels[1]};
  EXPECT_EQ(message_of([&] {
              tree.unshared.result_of([&](auto out, auto lse) {
                cascade_attention(threads, tree.unshared.q(), mixed, out, lse, AttentionOptions{}, causal());
              });
            }),
            "levels[1]: sizes differ from those of levels[0]");
}

TEST(CascadeCall, MaskTensorsThatDoNotFit) {
  // 600 keys are shared, which takes the mask's coverage of them all before any is read.
  CascadeCase<float> tree({{{600}, {0, 3}}, {{4, 4, 4}, {0, 1, 2, 3}}}, {1, 1, 1}, heads, 1);
  Threads threads(1);
  const auto refused = [&](Index batch, Index keys) {
    const std::unique_ptr<bool[]> all(new bool[static_cast<std::size_t>(batch * keys)]);
    std::fill_n(all.get(), batch * keys, true);
    const auto mask = tensor_mask(ScoreTensor<bool>(all.get(), {batch, 1, 1, keys}));
    return message_of([&] { tree.attend(threads, mask); });
  };
  EXPECT_EQ(refused(3, 604), "nothing thrown");
  EXPECT_EQ(refused(1, 604), "nothing thrown");
  EXPECT_NE(refused(2, 604).find("mask tensor"), std::string::npos);
  EXPECT_NE(refused(3, 300).find("mask tensor"), std::string::npos);
}

TEST(CascadeCall, OfNoSequences) {
  CascadeCase<float> tree({{{600}, {0, 0}}, {{4}, {0, 0}}}, {}, heads, 1);
  Threads threads(1);
  EXPECT_EQ(message_of([&] { tree.attend(threads, causal()); }), "nothing thrown");
}

}  // namespace
}  // namespace gqa
