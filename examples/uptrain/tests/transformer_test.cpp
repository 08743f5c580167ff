// SPDX-License-Identifier: Apache-2.0
// The loss of the whole model against its definition, and its gradient against finite differences, in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "model_case.hpp"
#include "transformer.inl"

namespace uptrain {
namespace {

using namespace test;

class TransformerTest : public testing::TestWithParam<Index> {};

TEST_P(TransformerTest, LossIsThatOfItsDefinition) {
  const Shape shape = small_shape(GetParam());
  Transformer<double> model(shape);
  const auto p = random_parameters(model.places(), 1);
  for (const Index sequences : {3, 1, 4}) {
    const Batch batch = random_batch(shape, sequences, 2);
    EXPECT_NEAR(model.loss(p, batch), naive_loss(shape, p, batch), 1e-12);
  }
}

TEST_P(TransformerTest, GradientIsThatOfFiniteDifferences) {
  const Shape shape = small_shape(GetParam());
  Transformer<double> model(shape);
  auto p = random_parameters(model.places(), 3);
  const Batch batch = random_batch(shape, 3, 4);
  std::vector<double> gradient(p.size(), NAN);
  const double loss = model.loss_and_gradient(p, batch, gradient);
  EXPECT_EQ(loss, model.loss(p, batch));
  double largest = 0;
  for (const double x : gradient) largest = std::max(largest, std::abs(x));
  // Central differences are wrong by h^2 / 6 third derivatives and by roundings of the loss over h: both of
  // the order of 1e-11.
  const double h = 1e-5;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double kept = p[i];
    p[i] = kept + h;
    const double above = model.loss(p, batch);
    p[i] = kept - h;
    const double below = model.loss(p, batch);
    p[i] = kept;
    ASSERT_NEAR(gradient[i], (above - below) / (2 * h), 1e-8 * largest) << "parameter " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(KvHeads, TransformerTest, testing::Values(1, 3),
                         [](const auto& param) { return "G" + std::to_string(param.param); });

TEST(Transformer, RefusesOtherNumbersOfParameters) {
  Transformer<double> model(small_shape(3));
  std::vector<double> p(static_cast<std::size_t>(model.places().size) - 1), gradient(p.size());
  const Batch batch = random_batch(model.shape(), 1, 1);
  EXPECT_THROW(model.loss(p, batch), std::invalid_argument);
  p.push_back(0);
  EXPECT_THROW(model.loss_and_gradient(p, batch, gradient), std::invalid_argument);
}

TEST(Shape, RefusesSizesThatDoNotFit) {
  for (const auto change : {+[](Shape& s) { s.vocabulary = 0; }, +[](Shape& s) { s.layers = -1; },
                            +[](Shape& s) { s.num_kv_heads = 2; }, +[](Shape& s) { s.width = 9; },
                            +[](Shape& s) { s.hidden = 0; }, +[](Shape& s) { s.context = 0; }}) {
    Shape shape = small_shape(3);
    change(shape);
    EXPECT_THROW(Places{shape}, std::invalid_argument);
  }
  Shape shape = small_shape(3);
  shape.vocabulary = shape.width << 58;
  EXPECT_THROW(Places{shape}, std::length_error);
}

}  // namespace
}  // namespace uptrain
