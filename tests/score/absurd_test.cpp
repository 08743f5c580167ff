// SPDX-License-Identifier: Apache-2.0
// Arguments near the end of Index mean what they say; nothing overflows (under UndefinedBehaviorSanitizer)
// and no pointer leaves its array.
#include <gtest/gtest.h>

#include <limits>

#include "mask/mask_laws.hpp"

#include "gqa/score.hpp"

namespace gqa {
namespace {

using test::Exactness;
using test::expect_mask_is;

constexpr Index most = std::numeric_limits<Index>::max(), least = std::numeric_limits<Index>::min();
const auto yes = [](Index, Index) { return true; };

TEST(Absurd, OneBlockForEverything) {
  for (const Index size : {most, most - 1, most / 2, max_position}) {
    const auto all = blocks(BlockMask::from_predicate({1, 1, size, size}, yes));
    expect_mask_is(
        all, [](Index q, Index) { return q >= 0; }, Exactness::exact);
    EXPECT_EQ(all.coverage({0, max_position}, all_positions), Coverage::full);
    EXPECT_EQ(intersect(kv_bounds(all, {5, 6}), all_positions), all_positions);
    EXPECT_NO_THROW(check_mask(all, {1, 1, {0, max_position}, all_positions}));
    expect_mask_is(
        blocks(BlockMask::from_predicate({1, 1, size, size}, [](Index, Index) { return false; })),
        [](Index, Index) { return false; }, Exactness::exact);
  }
  expect_mask_is(
      blocks(BlockMask::from_predicate({5, 1, 4, most}, [](Index i, Index) { return i != 1; })),
      [](Index q, Index) { return q >= 0 && q / 4 != 1; }, Exactness::exact);
}

TEST(Absurd, TablesWithoutBlocks) {
  for (const auto& [rows, columns] : {std::pair{Index{0}, most}, {most, Index{0}}, {Index{0}, Index{0}}}) {
    const auto table = BlockMask::from_predicate({rows, columns, 1, 1}, yes);
    EXPECT_EQ(table.density(), 0);
    expect_mask_is(
        blocks(table), [](Index, Index) { return false; }, Exactness::exact);
  }
  EXPECT_THROW(BlockMask::from_predicate({2, 1, most, 1}, yes), std::length_error);
  EXPECT_THROW(BlockMask::from_predicate({most, most, 1, 1}, yes), std::length_error);
}

TEST(Absurd, StepsBeyondEveryDistance) {
  for (const Index step : {most, most - 1, most / 2, max_position}) {
    expect_mask_is(
        dilated(step), [](Index q, Index kv) { return q == kv; }, Exactness::exact);
    expect_mask_is(
        sliding_window(6) & dilated(step), [](Index q, Index kv) { return q == kv; }, Exactness::exact);
    EXPECT_EQ(dilated(step).coverage({100, 101}, {100, 101}), Coverage::full);
  }
  // No distance of two positions is a multiple of it, whatever their sides of 0.
  EXPECT_FALSE(dilated(most)(-max_position, 0));
  EXPECT_EQ(dilated(most).coverage({-max_position, -max_position + 1}, {0, 64}), Coverage::none);
  EXPECT_EQ(dilated(most).coverage({max_position - 1, max_position}, {0, 64}), Coverage::none);
}

TEST(Absurd, WindowsAndPrefixes) {
  const auto past = [](Index q, Index kv) { return kv <= q; };
  for (const Index size : {most, most - 1, max_position}) {
    expect_mask_is(sliding_window(size), past, Exactness::exact);
    expect_mask_is(window(size, 0), past, Exactness::exact);
    expect_mask_is(window(size, size), yes, Exactness::exact);
    expect_mask_is(prefix(size), yes, Exactness::exact);
    expect_mask_is(sinks(size), past, Exactness::exact);
    expect_mask_is(
        chunked(size), [](Index q, Index kv) { return q >= 0 && kv <= q; }, Exactness::exact);
  }
  // The query furthest before all keys still sees every one of them, and nothing else is after it.
  EXPECT_TRUE(no_mask()(-max_position, max_position - 1));
  EXPECT_EQ(no_mask().coverage({-max_position, max_position}, all_positions), Coverage::full);
  EXPECT_EQ(causal().coverage({-max_position, -max_position + 1}, {0, 64}), Coverage::none);
  EXPECT_EQ((!no_mask()).coverage({-max_position, max_position}, all_positions), Coverage::none);
  EXPECT_EQ((dilated(2) & dilated(3)).coverage({-max_position, max_position}, all_positions),
            Coverage::partial);
  EXPECT_EQ(window(most, 0), causal());
}

TEST(Absurd, TreesFarAway) {
  for (const Index first : {most, most - 1, max_position}) {
    const auto far = tree({-1, 0, 0}, first);
    expect_mask_is(
        far, [](Index q, Index kv) { return kv <= q; }, Exactness::exact);
    EXPECT_EQ(far.coverage({0, max_position}, {0, 1}), Coverage::full);
    EXPECT_NO_THROW(check_mask(far, {1, 1, {0, max_position}, all_positions}));
  }
  EXPECT_THROW(tree({most}, 0), std::invalid_argument);
  EXPECT_THROW(tree({least}, 0), std::invalid_argument);
}

TEST(Absurd, RowsFarAway) {
  const bool values[12] = {true, true, true, true, true, true, true, true, true, true, true, true};
  const auto biases = test::random_values<float>(1, 12);
  std::vector<float> scores(3, 1);
  for (const Index first : {least, least + 1, most, most - 3, -max_position, max_position}) {
    const ScoreTensor<bool> tensor(values, {1, 1, 4, 3}, first);
    expect_mask_is(
        tensor_mask(tensor).at(0, 0), [](Index, Index) { return false; }, Exactness::exact);
    EXPECT_THROW(check_mask(tensor_mask(tensor), {1, 1, {0, 4}, {0, 3}}), std::invalid_argument);
    const auto bias = tensor_bias(ScoreTensor<float>(biases.data(), {1, 1, 4, 3}, first));
    bias.mod(std::span<float>(scores), ScoreRow{0, 0, 2, 0});
    EXPECT_EQ(scores, std::vector<float>(3, 1));
    EXPECT_THROW(bias.check({1, 1, {0, 4}, {0, 3}}), std::invalid_argument);
    // One row counts for all, wherever it is said to be.
    const auto row = tensor_mask(ScoreTensor<bool>(values, {1, 1, 1, 3}, first));
    EXPECT_NO_THROW(check_mask(row, {1, 1, {0, 4}, {0, 3}}));
    expect_mask_is(
        row.at(0, 0), [](Index, Index kv) { return kv < 3; }, Exactness::exact);
  }
  for (const Index size : {least, Index{-1}}) {
    EXPECT_THROW(ScoreTensor<bool>(values, {1, 1, size, most}, {0, 0, 0}), std::invalid_argument);
    EXPECT_THROW(ScoreTensor<bool>(values, {1, 1, most, size}, {0, 0, 0}), std::invalid_argument);
  }
  EXPECT_THROW(ScoreTensor<bool>(values, {1, most, most, most}), std::length_error);
  // The same row for every query and sequence, by strides of 0.
  const auto zero_strides = tensor_mask(ScoreTensor<bool>(values, {most, most, most, 3}, {0, 0, 0}, 0));
  expect_mask_is(
      zero_strides.at(most - 1, most - 1), [](Index q, Index kv) { return q >= 0 && kv < 3; },
      Exactness::exact);
  // Without keys there is nothing to point at.
  const auto empty = tensor_mask(ScoreTensor<bool>(nullptr, {1, 1, 4, 0}, {3, 3, 3}, 0));
  expect_mask_is(
      empty.at(0, 0), [](Index, Index) { return false; }, Exactness::exact);
}

/// T5's bucket by its definition, in long double.
Index bucket_of(Index relative, const RelativeBuckets& b) {
  const Index per_side = b.bidirectional ? b.num_buckets / 2 : b.num_buckets, exact = per_side / 2;
  const Index side = b.bidirectional && relative > 0 ? per_side : 0;
  const Index n = b.bidirectional ? std::abs(relative) : std::max<Index>(-relative, 0);
  if (n < exact) return side + n;
  const long double x = std::log(static_cast<long double>(n) / static_cast<long double>(exact)) /
                        std::log(static_cast<long double>(b.max_distance) / static_cast<long double>(exact));
  return side + std::min(exact + static_cast<Index>(x * static_cast<long double>(per_side - exact) + 1e-9L),
                         per_side - 1);
}

TEST(Absurd, RelativeBiasReachesAsFarAsItSays) {
  for (const bool both : {false, true}) {
    for (const Index reach :
         {Index{128}, Index{4095}, Index{4097}, Index{100000}, max_position, most - 1, most}) {
      const RelativeBuckets buckets{32, reach, both};
      std::vector<double> table;
      for (Index i = 0; i < 64; ++i) table.push_back(static_cast<double>(i));
      const auto bias = relative_bias(buckets, table, 2);
      const auto expect_row = [&](Index q_pos, Index kv_begin) {
        std::vector<double> scores(300, 0);
        bias.mod(std::span<double>(scores), ScoreRow{0, 1, q_pos, kv_begin});
        for (Index j = 0; j < 300; ++j)
          ASSERT_EQ(scores[static_cast<std::size_t>(j)],
                    static_cast<double>(2 * bucket_of(kv_begin + j - q_pos, buckets) + 1))
              << "reach " << reach << ", relative " << kv_begin + j - q_pos;
      };
      for (const Index distance : {0, 150, 4000, 4200, 9000, 100100, 40000000}) {
        ASSERT_NO_FATAL_FAILURE(expect_row(0, distance));
        ASSERT_NO_FATAL_FAILURE(expect_row(distance, 0));
      }
      ASSERT_NO_FATAL_FAILURE(expect_row(max_position - 1, 0));
      ASSERT_NO_FATAL_FAILURE(expect_row(-max_position, 0));
      ASSERT_NO_FATAL_FAILURE(expect_row(-max_position, max_position - 300));
      for (const Index relative : {least, most}) EXPECT_LT(buckets.of(relative), 32);
    }
  }
  // Buckets that no bias can be made of still do not crash.
  EXPECT_EQ((RelativeBuckets{0, 0, true}.of(5)), 0);
  EXPECT_EQ((RelativeBuckets{1, 1, false}.of(-5)), 0);
  EXPECT_THROW(relative_bias({most - 3, most, true}, std::vector<float>(8), 2), std::length_error);
}

TEST(Absurd, LayerPatterns) {
  const LayerPattern all_local(most, most), all_global(0, most);
  EXPECT_TRUE(all_local.is_local(1000));
  EXPECT_EQ(all_local.count_local(most / 4), most / 4);
  EXPECT_FALSE(all_global.is_local(1000));
  EXPECT_EQ(all_global.count_local(most), 0);
  EXPECT_EQ(LayerPattern(most, 1).count_local(1000), 1000);
}

TEST(Absurd, Explanations) {
  const auto e = explain(causal(), 5, 9, {.q_block = most, .kv_block = most});
  EXPECT_EQ(e.num_visible, 5 * 4 + 5 * 6 / 2);
  EXPECT_EQ(e.blocks_partial, 1);
  EXPECT_EQ(explain(causal(), {-3, 4}, {0, 4}, {.q_block = most, .max_rows = 1}).num_visible, 10);
  EXPECT_EQ(explain(causal(), 200, 200, {.kv_block = most, .max_columns = most}).num_visible, 200 * 201 / 2);
  EXPECT_THROW(explain(causal(), {least, most}, {0, most}), std::invalid_argument);
  EXPECT_THROW(explain(causal(), {0, 1}, {0, most}), std::invalid_argument);
  EXPECT_THROW(explain(causal(), most, least), std::invalid_argument);
  EXPECT_THROW(explain(causal(), -1, 4), std::invalid_argument);
  const bool values[12] = {};
  EXPECT_THROW(explain(tensor_mask(ScoreTensor<bool>(values, {1, 2, 2, 3})), 2, 3, {.q_head = 2}),
               std::invalid_argument);
  EXPECT_THROW(explain(tensor_mask(ScoreTensor<bool>(values, {2, 1, 2, 3})), 2, 3, {.seq = -1}),
               std::invalid_argument);
  EXPECT_THROW(explain(per_head({causal(), causal()}), 2, 3, {.q_head = 2}), std::invalid_argument);
}

}  // namespace
}  // namespace gqa
