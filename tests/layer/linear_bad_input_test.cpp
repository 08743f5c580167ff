// SPDX-License-Identifier: Apache-2.0
// What linear() refuses, with which words, and that nothing is written then.
#include <gtest/gtest.h>

#include <limits>

#include "gqa/layer/linear.hpp"
#include "layer/matrices.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::ByColumns;
using test::ByRows;
using test::message_of;

struct LinearRefuses : ::testing::Test {
  ByRows<float> x = test::matrix<float>(4, 12, 1), w = test::matrix<float>(7, 12, 2);
  ByRows<float> y = ByRows<float>::Constant(4, 7, 3);
  Eigen::VectorXf bias = Eigen::VectorXf::Ones(7);

  void TearDown() override { EXPECT_TRUE((y.array() == 3).all()) << "something was written"; }
};

TEST_F(LinearRefuses, SizesThatDisagree) {
  EXPECT_EQ(message_of([&] { linear(x.leftCols(11), w, y); }), "x: columns is 11, expected 12 as in weight");
  EXPECT_EQ(message_of([&] { linear(x, w.topRows(6), y); }),
            "y: columns is 7, expected 6 as in the rows of weight");
  EXPECT_EQ(message_of([&] { linear(x.topRows(3), w, y); }), "y: rows is 4, expected 3 as in x");
  EXPECT_EQ(message_of([&] { linear(x, w, bias.head(6), y); }),
            "bias: size is 6, expected 7 as in the rows of weight");
}

TEST_F(LinearRefuses, DoubleBesideOtherTypes) {
  const ByRows<double> wide = w.cast<double>();
  const Eigen::VectorXd wide_bias = bias.cast<double>();
  EXPECT_EQ(message_of([&] { linear(x, wide, y); }),
            "weight: elements are f64 and those of y f32, expected f64 with f64 only");
  EXPECT_EQ(message_of([&] { linear(x, w, wide_bias, y); }),
            "bias: elements are f64 and those of y f32, expected f64 with f64 only");
  EXPECT_EQ(message_of([&] { linear(MatrixView(), w, y); }), "x: no matrix is given");
  ByRows<double> out(4, 7);
  const ByRows<double> in = x.cast<double>();
  EXPECT_EQ(message_of([&] { linear(in, wide, out, {.round_to_bf16 = true}); }),
            "round_to_bf16: elements are f64, expected f32, f16 or bf16");
}

TEST_F(LinearRefuses, MemoryThatIsWritten) {
  ByRows<float> square = test::matrix<float>(7, 7, 3);
  const ByRows<float> before = square;
  EXPECT_EQ(message_of([&] { linear(square, square, square); }),
            "y: shares memory with x, expected memory of its own");
  EXPECT_EQ(message_of([&] { linear(x.leftCols(7), square, square.topRows(4)); }),
            "y: shares memory with weight, expected memory of its own");
  EXPECT_EQ(message_of([&] { linear(x, w, square.row(5), square.middleRows(2, 4)); }),
            "y: shares memory with bias, expected memory of its own");
  EXPECT_EQ(square, before);
}

TEST_F(LinearRefuses, SizesThatOverflow) {
  const Index most = std::numeric_limits<Index>::max();
  EXPECT_EQ(message_of<std::length_error>([&] { MatrixView(w.data(), most / 4, 8); }).substr(0, 25),
            "matrix: the size 23058430");
  EXPECT_EQ(message_of([&] { MatrixView(w.data(), -1, 8); }),
            "matrix: sizes are -1 x 8, expected none to be negative");
  EXPECT_EQ(message_of([&] { MatrixView(w.data(), 2, 8, 7); }),
            "matrix: stride is 7, expected at least the 8 elements between");
  EXPECT_EQ(message_of([&] { MatrixView(w).middle_rows(3, 5); }),
            "matrix: rows 3 to 8, expected some of its 7");
}

TEST_F(LinearRefuses, ElementsThatLieApart) {
  const Eigen::Map<const ByRows<float>, 0, Eigen::Stride<Eigen::Dynamic, 2>> apart(
      w.data(), 3, 6, Eigen::Stride<Eigen::Dynamic, 2>(12, 2));
  EXPECT_EQ(message_of([&] { MatrixView{apart}; }),
            "matrix: neighbouring elements lie 2 apart, expected side by side");
  Eigen::Tensor<float, 3, Eigen::RowMajor> heads(4, 3, 8);
  const TensorView<float> some(heads.data(), {1, 4, 3, 4}, {96, 24, 8});
  EXPECT_EQ(message_of([&] { MatrixView{some}; }), "matrix: heads lie 8 apart, expected the 4 of head_dim");
}

TEST(Linear, WritesBesideItsInputInOneMatrix) {
  // Column blocks of one matrix: x on the left, y on the right.
  ByRows<float> both = test::matrix<float>(5, 30, 1);
  const auto w = test::matrix<float>(9, 20, 2);
  const ByRows<float> x = both.leftCols(20);
  ByRows<float> expected(5, 9);
  linear(x, w, expected);
  linear(both.leftCols(20), w, both.middleCols(20, 9));
  EXPECT_EQ(both.middleCols(20, 9), expected);
  EXPECT_EQ(message_of([&] { linear(both.leftCols(20), w, both.middleCols(19, 9)); }),
            "y: shares memory with x, expected memory of its own");
}

}  // namespace
}  // namespace gqa
