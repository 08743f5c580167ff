// SPDX-License-Identifier: Apache-2.0
// Every wrong argument of a mask or a score function is refused with its name.
#include <gtest/gtest.h>

#include <cmath>

#include "gqa/mask.hpp"
#include "gqa/score.hpp"
#include "score/expect_refused.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::expect_refused;

TEST(BadMask, Windows) {
  expect_refused([] { sliding_window(0); }, {"sliding_window", "W is 0"});
  expect_refused([] { sliding_window(-3); }, {"W is -3", "at least 1"});
  expect_refused([] { window(-2, 0); }, {"window", "left is -2"});
  expect_refused([] { window(0, -7); }, {"right is -7"});
  expect_refused([] { chunked(0); }, {"chunked", "size is 0"});
  expect_refused([] { prefix(-1); }, {"prefix", "n is -1"});
  expect_refused([] { sinks(-1); }, {"sinks", "n is -1"});
  expect_refused([] { dilated(0); }, {"dilated", "step is 0"});
}

TEST(BadMask, Documents) {
  expect_refused([] { document({0, 1, 1, 0}); }, {"document", "ids[3] is 0", "sorted"});
  expect_refused(
      [] {
        check_mask(document({0, 1, 1}), {1, 1, {3, 4}, {0, 4}});
      },
      {"ids has 3", "at least 4"});
  EXPECT_NO_THROW(check_mask(document({0, 1, 1}), {1, 1, {-1, 3}, {0, 3}}));
}

TEST(BadMask, Trees) {
  expect_refused([] { tree({-1, 2, 0}); }, {"tree", "parents[1] is 2", "after its child"});
  expect_refused([] { tree({1, 0}); }, {"parents[0] is 1", "cycle"});
  expect_refused([] { tree({-1, 1}); }, {"parents[1] is 1", "cycle"});
  expect_refused([] { tree({-2}); }, {"parents[0] is -2"});
  expect_refused([] { tree({-1, 7}); }, {"parents[1] is 7", "[0, 2)"});
  expect_refused([] { tree({-1}, -4); }, {"first_position is -4"});
  expect_refused([] { check_mask(tree({-1, 0}, 10), {1, 1, {10, 13}, {0, 13}}); }, {"2 nodes", "13"});
  EXPECT_NO_THROW(check_mask(tree({-1, 0}, 10), {1, 1, {10, 12}, {0, 12}}));
}

TEST(BadMask, Blocks) {
  const bool bitmap[6] = {};
  expect_refused([&] { BlockMask::from_bitmap({2, 4}, bitmap); }, {"blocks", "6 entries", "2 x 4"});
  const auto yes = [](Index, Index) { return true; };
  expect_refused([&] { BlockMask::from_predicate({2, 2, 0, 64}, yes); }, {"q_block is 0"});
  expect_refused([&] { BlockMask::from_predicate({2, 2, 64, -1}, yes); }, {"kv_block is -1"});
  expect_refused([&] { BlockMask::from_predicate({-2, 2}, yes); }, {"-2 x 2"});
  const auto mask = blocks(BlockMask::from_predicate({2, 3, 64, 32}, yes));
  expect_refused([&] { check_mask(mask, {1, 1, {0, 129}, {0, 96}}); }, {"2 blocks of 64 queries", "129"});
  expect_refused([&] { check_mask(mask, {1, 1, {0, 128}, {0, 97}}); }, {"3 blocks of 32 keys", "97"});
  EXPECT_NO_THROW(check_mask(mask, {1, 1, {0, 128}, {0, 96}}));
  const Index huge = Index{1} << 40;
  EXPECT_THROW(BlockMask::from_bitmap({huge, huge}, bitmap), std::length_error);
}

TEST(BadMask, Tensors) {
  const bool values[1000] = {};
  const auto mask = tensor_mask(ScoreTensor<bool>(values, {2, 3, 4, 8}));
  EXPECT_NO_THROW(check_mask(mask, {2, 3, {4, 8}, {0, 8}}));
  expect_refused(
      [&] {
        check_mask(mask, {3, 3, {4, 8}, {0, 8}});
      },
      {"mask tensor", "batch is 2", "expected 3"});
  expect_refused([&] { check_mask(mask, {2, 6, {4, 8}, {0, 8}}); }, {"heads is 3", "expected 6"});
  expect_refused([&] { check_mask(mask, {2, 3, {3, 8}, {0, 8}}); }, {"queries is 4", "expected 5"});
  expect_refused([&] { check_mask(mask, {2, 3, {5, 9}, {0, 9}}); }, {"keys is 8", "expected 9"});
  expect_refused([&] { check_mask(mask, {2, 3, {2, 6}, {0, 6}}); }, {"keys is 8", "expected 6"});
  const auto placed = tensor_mask(ScoreTensor<bool>(values, {1, 1, 4, 8}, 2));
  EXPECT_NO_THROW(check_mask(placed, {2, 3, {2, 6}, {0, 6}}));
  expect_refused(
      [&] {
        check_mask(placed, {2, 3, {3, 7}, {0, 7}});
      },
      {"4 queries begin at position 2", "expected positions 3 to 6"});
  expect_refused([&] { ScoreTensor<bool>(values, {1, -1, 4, 8}); }, {"1 x -1 x 4 x 8"});
}

TEST(BadMask, PerHeadAndCompositionsPassChecksOn) {
  expect_refused([] { per_head(std::vector<AnyMask>{}); }, {"per_head", "empty"});
  const auto two = per_head({causal(), sliding_window(3)});
  expect_refused(
      [&] {
        check_mask(two, {1, 3, {0, 4}, {0, 4}});
      },
      {"per_head", "2 entries", "3 query heads"});
  const AttentionExtent four{1, 1, {0, 4}, {0, 4}};
  const auto short_ids = document({0, 0});
  expect_refused([&] { check_mask(causal() & short_ids, four); }, {"document"});
  expect_refused([&] { check_mask(short_ids | causal(), four); }, {"document"});
  expect_refused([&] { check_mask(!short_ids, four); }, {"document"});
  expect_refused([&] { check_mask(AnyMask(short_ids), four); }, {"document"});
  expect_refused([&] { check_mask(per_head({short_ids}), four); }, {"document"});
  expect_refused([&] { check_mask(per_head([&](Index) { return short_ids; }), four); }, {"document"});
  EXPECT_NO_THROW(check_mask(causal() & !sliding_window(2), four));
}

TEST(BadMask, LayerPatterns) {
  expect_refused([] { LayerPattern(0, 0); }, {"layer pattern", "0 local to 0"});
  expect_refused([] { LayerPattern(-1, 2); }, {"-1 local"});
}

TEST(BadScoreMod, SoftCap) {
  expect_refused([] { soft_cap(0); }, {"soft_cap", "cap is 0"});
  expect_refused([] { soft_cap(-30); }, {"cap is -30"});
  expect_refused([] { soft_cap(std::nan("")); }, {"cap is nan"});
  expect_refused([] { soft_cap(HUGE_VAL); }, {"cap is inf"});
}

TEST(BadScoreMod, SizesThatDoNotFitTheHeads) {
  const AttentionExtent six{1, 6, {0, 4}, {0, 4}};
  expect_refused([] { alibi(Index{0}); }, {"alibi", "num_q_heads is 0"});
  expect_refused([&] { alibi(std::vector<double>(4, 0.5)).check(six); },
                 {"alibi", "slopes has 4", "6 query heads"});
  expect_refused([&] { as_score_chain(alibi(4) | soft_cap(3)).check(six); }, {"alibi"});
  expect_refused([&] { SinkLogits({1, 2}).check(six); }, {"sink logits", "size is 2", "6 query heads"});
  expect_refused([&] { relative_bias({}, std::vector<float>(32 * 2), 2).check(six); },
                 {"relative_bias", "num_q_heads is 2", "expected 6"});
  const auto bias = test::random_values<float>(1, 100);
  expect_refused(
      [&] {
        tensor_bias(ScoreTensor<float>(bias.data(), {1, 2, 4, 4})).check(six);
      },
      {"bias tensor", "heads is 2", "expected 6"});
  EXPECT_NO_THROW(
      (alibi(6) | soft_cap(3) | tensor_bias(ScoreTensor<float>(bias.data(), {1, 1, 4, 4}))).check(six));
}

TEST(BadScoreMod, RelativeBias) {
  const std::vector<float> table(64);
  expect_refused([&] { relative_bias({}, table, 3); }, {"table has 64", "32 buckets x 3"});
  expect_refused([&] { relative_bias({.num_buckets = 0}, table, 2); }, {"num_buckets is 0"});
  expect_refused([&] { relative_bias({.num_buckets = 30}, table, 2); },
                 {"num_buckets is 30", "multiple of 4"});
  expect_refused([&] { relative_bias({.max_distance = 8}, table, 2); }, {"max_distance is 8"});
  expect_refused([&] { relative_bias({}, table, 0); }, {"num_q_heads is 0"});
  expect_refused([] { llama4_temperature(0.1, 0); }, {"floor_scale is 0"});
}

}  // namespace
}  // namespace gqa
