// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/grouping_report.hpp"

#include <locale>
#include <sstream>

#include "convert/layer_case.hpp"
#include "gqa/convert/grouping_drawing.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::GroupingReport;
using convert::KeyBasis;
using convert::Matrix;
using convert::Weights;

std::string table_of(const GroupingReport& report) {
  std::ostringstream out;
  convert::write_table(out, report);
  return out.str();
}
std::string svg_of(const GroupingReport& report) {
  std::ostringstream out;
  convert::write_svg(out, report);
  return out.str();
}
Index count_of(const std::string& text, const std::string& part) {
  Index count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

/// A report that is known, of 4 heads in 2 groups.
GroupingReport known() {
  GroupingReport report{.grouping = HeadGrouping({0, 1, 0, 0}, 2),
                        .similarity_before = Matrix::identity(4),
                        .similarity_after = Matrix::identity(4)};
  report.similarity_before(0, 2) = report.similarity_before(2, 0) = 0.25;
  report.similarity_before(0, 3) = report.similarity_before(3, 0) = -1;
  report.similarity_after(2, 3) = report.similarity_after(3, 2) = 0.5;
  report.divergence_before = {0.625, 0};
  report.divergence_after = {0.125, 0};
  report.key_rank_before = 12.34;
  report.value_rank_after = 3;
  report.cache_before = {56};
  report.cache_after = {28};
  return report;
}

TEST(GroupingReport, OfHeadsThatDifferByARotation) {
  Weights w = random_weights({.num_q_heads = 3, .num_kv_heads = 3}, 1);
  copy_head(w.wk, w.bk, 8, 0, 1);
  copy_head(w.wv, w.bv, 6, 0, 1);
  for (Index i = 0; i < 8 * 20; ++i) w.wk.row(8)[i] *= -1;  // half a turn of every pair
  const auto basis = KeyBasis::rope(RopeLayout::half, 8);
  const auto report = convert::grouping_report(w, HeadGrouping({0, 0, 1}, 2), basis);
  EXPECT_NEAR(report.similarity_before(0, 1), 0, 1e-12);  // -1 of keys, 1 of values
  EXPECT_NEAR(report.similarity_after(0, 1), 1, 1e-12);
  EXPECT_NEAR(report.similarity_before(2, 2), 1, 1e-12);
  EXPECT_NEAR(report.similarity_after(0, 2), report.similarity_after(2, 0), 1e-12);
  EXPECT_GT(report.divergence_before[0], 0.3);
  EXPECT_LE(report.divergence_after[0], 1e-20);
  EXPECT_EQ(report.divergence_before[1], 0);
  // Two different heads' worth of keys, before and after.
  EXPECT_NEAR(report.key_rank_after, report.key_rank_before, 4);
  EXPECT_EQ(report.cache_after.elements_per_token, 2 * 14);
}

TEST(GroupingReport, EffectiveRankIsTheRankOfEvenSpectra) {
  // Two heads of 4 elements each: 5 orthogonal directions of one length, the others 0.
  Matrix wk(8, 20);
  for (Index i = 0; i < 5; ++i) wk(i, i) = 3;
  const std::vector<double> none;
  EXPECT_NEAR(convert::detail::effective_rank<double>({wk, none, 2}, nullptr), 5, 1e-12);
  EXPECT_EQ(convert::detail::effective_rank<double>({Matrix(8, 20), none, 2}, nullptr), 0);
  // Singular values 3 and 1: shares of 3/4 and 1/4.
  Matrix uneven(8, 20);
  uneven(0, 0) = 3;
  uneven(1, 1) = 1;
  EXPECT_NEAR(convert::detail::effective_rank<double>({uneven, none, 2}, nullptr), 4 / std::pow(3, 0.75),
              1e-12);
}

TEST(GroupingReport, FallsWithFewerGroups) {
  const Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 6, .inputs = 60, .biases = true}, 2);
  const auto x = activations<double>(90, 60, 3);
  convert::Calibration calibration(60);
  calibration.add(x.data(), 90);
  for (const auto* c : {static_cast<const convert::Calibration*>(nullptr), &std::as_const(calibration)}) {
    const auto report =
        convert::grouping_report(w, HeadGrouping::contiguous(6, 2), KeyBasis::rope(RopeLayout::half, 8), c);
    EXPECT_LT(report.key_rank_after, report.key_rank_before);
    EXPECT_LT(report.value_rank_after, report.value_rank_before);
    EXPECT_LE(report.key_rank_after, 16);
    const auto all = HeadGrouping::contiguous(6, 1);
    EXPECT_NEAR(
        convert::grouping_report(w, all, KeyBasis::fixed(), c).divergence_before[0],
        convert::merge_heads(w, all, convert::Method::mean(), {.calibration = c}).report.relative_error(),
        1e-12);
    for (std::size_t g = 0; g < 2; ++g) {
      EXPECT_LT(report.divergence_after[g], report.divergence_before[g]);
      EXPECT_LE(report.divergence_before[g], 1);
    }
  }
}

TEST(GroupingReport, AsTable) {
  EXPECT_EQ(table_of(known()),
            "group  heads  similarity  aligned  lost by mean  aligned\n"
            "    0  0 2 3       -0.25     0.17        62.5 %   12.5 %\n"
            "    1  1            1.00     1.00         0.0 %    0.0 %\n"
            "effective rank of keys 12.3 -> 0.0, of values 0.0 -> 3.0; cache 56 -> 28 elements a token\n");
}

TEST(GroupingReport, AsSvg) {
  const std::string svg = svg_of(known());
  EXPECT_EQ(svg.substr(0, 38), "<svg xmlns=\"http://www.w3.org/2000/svg");
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
  EXPECT_EQ(count_of(svg, "<rect"), 1 + 2 * (16 + 2) + 21 + 4);
  EXPECT_EQ(count_of(svg, "stroke=\"black\""), 4);
  EXPECT_EQ(count_of(svg, "rgb(31,111,159)"), 8 + 1);  // the diagonals, and of the scale
  EXPECT_EQ(count_of(svg, "rgb(255,140,35)"), 2 + 1);  // -1
  // Heads 0 and 3, which stand third in the first group.
  EXPECT_EQ(count_of(svg, "<rect x=\"120\" y=\"40\" width=\"40\" height=\"40\" fill=\"rgb(255,140,35)\"/>"),
            1);
  EXPECT_EQ(count_of(svg, ">-1.00<"), 2);
  EXPECT_EQ(count_of(svg, ">62.5 %<"), 1);
  EXPECT_EQ(count_of(svg, "<text"), count_of(svg, "</text>"));
  // Heads stand in the order of their groups, and a frame is as large as its group.
  EXPECT_LT(svg.find(">3</text>"), svg.find(">1</text>"));
  EXPECT_NE(svg.find("width=\"120\" height=\"120\" fill=\"none\""), std::string::npos);
}

// A decimal comma would break the picture.
TEST(GroupingReport, DoesNotFollowTheLocale) {
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\1"; }
  };
  const std::string svg = svg_of(known()), table = table_of(known());
  const std::locale before = std::locale::global(std::locale(std::locale(), new Comma));
  EXPECT_EQ(svg_of(known()), svg);
  EXPECT_EQ(table_of(known()), table);
  std::locale::global(before);
}

TEST(GroupingReport, SaysWhatDoesNotFit) {
  GroupingReport report = known();
  report.similarity_after = Matrix(3, 4);
  EXPECT_EQ(message_of([&] { table_of(report); }), "report: similarities are 3 x 4, expected 4 x 4");
  EXPECT_EQ(message_of([&] { svg_of(report); }), "report: similarities are 3 x 4, expected 4 x 4");
  report = known();
  report.divergence_before.pop_back();
  EXPECT_EQ(message_of([&] { svg_of(report); }), "report: divergences are of 1 groups, expected 2");
  report = known();
  report.divergence_before[0] = NAN;
  EXPECT_EQ(message_of([&] { table_of(report); }),
            "report: divergences: element 0 is nan, expected a finite number");
  const Weights w = random_weights({}, 4);
  EXPECT_EQ(
      message_of([&] { convert::grouping_report(w, HeadGrouping::contiguous(6, 2), KeyBasis::fixed()); }),
      "grouping: heads is 6, expected the 4 KV heads of the weights");
}

}  // namespace
}  // namespace gqa::test
