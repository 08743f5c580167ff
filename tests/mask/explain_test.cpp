// SPDX-License-Identifier: Apache-2.0
#include "gqa/explain.hpp"

#include <gtest/gtest.h>

#include "gqa/mask.hpp"

namespace gqa {
namespace {

TEST(Explain, PictureOfASlidingWindow) {
  const auto e = explain(sliding_window(3), 8, 8, {.q_block = 4, .kv_block = 4});
  EXPECT_EQ(e.text(),
            "0 |#...    |\n"
            "1 |##..    |\n"
            "2 |###.    |\n"
            "3 |.###    |\n"
            "4 |..###...|\n"
            "5 |...###..|\n"
            "6 |....###.|\n"
            "7 |.....###|\n"
            "Queries 0 to 7 down, keys 0 to 7 across. # attends, . is masked, blank is never read.\n"
            "32.8 % of pairs attend, 75.0 % are computed; blocks: 1 skipped, 3 partial, 0 full\n");
  EXPECT_DOUBLE_EQ(e.visible_fraction(), 21.0 / 64);
  EXPECT_DOUBLE_EQ(e.computed_fraction(), 0.75);
}

TEST(Explain, QueriesAtTheEndOfALongerContext) {
  const auto e = explain(sinks(1) | sliding_window(2), 2, 8, {.q_block = 2, .kv_block = 2});
  EXPECT_EQ(e.text().rfind("6 |#.  .##.|\n7 |#.  ..##|\n", 0), 0u) << e.text();
  EXPECT_EQ(e.blocks_skipped, 1);
}

TEST(Explain, LargeSquaresShowBlocks) {
  const auto e = explain(causal(), 1024, 1024, {.max_rows = 16, .max_columns = 16});
  EXPECT_EQ(e.q_cell, 64);
  EXPECT_EQ(e.blocks_full, 16 * 15 / 2);
  EXPECT_EQ(e.blocks_partial, 16);
  EXPECT_EQ(e.blocks_skipped, 16 * 15 / 2);
  EXPECT_EQ(e.num_visible, 1024 * 1025 / 2);
  ASSERT_EQ(e.cells.size(), 16u);
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 16; ++j) {
      EXPECT_EQ(e.cells[i][j], j < i    ? Explanation::Cell::attends
                               : j == i ? Explanation::Cell::mixed
                                        : Explanation::Cell::skipped);
    }
  }
  // Fewer characters: each stands for 2 x 4 blocks, and those that hold some of each are mixed.
  const auto small = explain(causal(), 1024, 1024, {.max_rows = 8, .max_columns = 4});
  EXPECT_EQ(small.q_cell, 128);
  EXPECT_EQ(small.kv_cell, 256);
  EXPECT_EQ(small.text().rfind("   0 |+   |\n 128 |+   |\n 256 |#+  |\n 384 |#+  |\n"
                               " 512 |##+ |\n 640 |##+ |\n 768 |###+|\n 896 |###+|\n",
                               0),
            0u)
      << small.text();
  EXPECT_EQ(small.blocks_skipped, e.blocks_skipped);
}

TEST(Explain, OneHeadOfAPerHeadMask) {
  const auto mask = per_head({causal(), sliding_window(1)});
  EXPECT_EQ(explain(mask, 4, 4, {.q_head = 0}).num_visible, 10);
  EXPECT_EQ(explain(mask, 4, 4, {.q_head = 1}).num_visible, 4);
}

TEST(Explain, SvgHoldsTheSummaryAndARectangleARun) {
  const auto e = explain(causal(), 3, 3);
  const std::string svg = e.svg();
  EXPECT_EQ(svg.rfind("<svg xmlns=", 0), 0u);
  EXPECT_NE(svg.find(e.summary()), std::string::npos);
  std::size_t rectangles = 0;
  for (std::size_t at = svg.find("<rect"); at != std::string::npos; at = svg.find("<rect", at + 1))
    ++rectangles;
  EXPECT_EQ(rectangles, 2 + 2 + 2 + 1u);  // background and frame; rows of 2, 2 and 1 runs
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
}

TEST(Explain, NothingToShow) {
  const auto e = explain(causal(), 0, 5);
  EXPECT_EQ(e.visible_fraction(), 0);
  EXPECT_TRUE(e.cells.empty());
  EXPECT_NE(e.text().find("0.0 % of pairs attend"), std::string::npos);
  EXPECT_FALSE(e.svg().empty());
}

TEST(Explain, RefusesNonsense) {
  EXPECT_THROW(explain(causal(), 4, 4, {.q_block = 0}), std::invalid_argument);
  EXPECT_THROW(explain(causal(), 4, 4, {.kv_block = -1}), std::invalid_argument);
  EXPECT_THROW(explain(causal(), 4, 4, {.max_rows = 0}), std::invalid_argument);
  EXPECT_THROW(explain(causal(), Range{0, 4}, Range{-2, 4}), std::invalid_argument);
}

}  // namespace
}  // namespace gqa
