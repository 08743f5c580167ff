// SPDX-License-Identifier: Apache-2.0
#include "calibrate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "session.hpp"
#include "tiny_session.hpp"

namespace convert {
namespace {

using generate::test::some_tokens;
using generate::test::TinyModel;

/// E[x x^T] of the layer's inputs as its keys see it, Wk E[x x^T] Wk^T.
generate::Matrix key_moments(const generate::Model& model, const gqa::convert::Calibration& calibration,
                             std::size_t layer) {
  const auto moments = calibration.moments();
  generate::Matrix m(moments.rows(), moments.cols());
  for (Index i = 0; i < m.rows(); ++i)
    for (Index j = 0; j < m.cols(); ++j) m(i, j) = static_cast<float>(moments(i, j));
  generate::Matrix wk(model.sizes.k_size(), m.cols());
  for (Index i = 0; i < wk.rows(); ++i)
    model.layers[layer].qkv.weight.read_row(model.sizes.q_size() + i,
                                            {wk.data() + i * wk.cols(), static_cast<std::size_t>(wk.cols())});
  return wk * m * wk.transpose();
}

// A text in pieces of one token: all stand at position 0, where keys are not turned.
TEST(Calibrate, SeesWhatTheProjectionsRead) {
  TinyModel tiny;
  const auto tokens = some_tokens(90, 5);
  const auto layers = calibrate(tiny.model, tiny.executor, tokens, 1);
  ASSERT_EQ(layers.size(), 2U);
  const Index size = tiny.model.sizes.k_size();
  std::vector<generate::Matrix> expected(2, generate::Matrix::Zero(size, size));
  const auto session =
      generate::make_session(tiny.model, generate::CacheType::f32, tiny.executor,
                             [&](Index layer, const auto&, const auto& k, const auto&, const auto&) {
                               const Eigen::Map<const generate::Vector> key(k.data, size);
                               expected[static_cast<std::size_t>(layer)] += key.transpose() * key / 90;
                             });
  for (const generate::TokenId& token : tokens) {
    session->clear();
    session->append({&token, 1});
  }
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(layers[layer].tokens(), 90);
    const auto seen = key_moments(tiny.model, layers[layer], layer);
    EXPECT_LT((seen - expected[layer]).norm(), 1e-5 * expected[layer].norm()) << layer;
  }
}

// In one piece tokens see each other: after the first layer that shows, and pieces do not.
TEST(Calibrate, CutsTextsIntoPieces) {
  TinyModel tiny;
  const auto tokens = some_tokens(50, 6);
  const auto apart = [&](Index context) { return calibrate(tiny.model, tiny.executor, tokens, context); };
  const auto whole = apart(50), same = apart(200), halves = apart(25);
  EXPECT_EQ(whole[1].moments(), same[1].moments());
  EXPECT_NE(whole[1].moments(), halves[1].moments());
  gqa::convert::Calibration sum(tiny.model.sizes.model_dim);
  const auto first = calibrate(tiny.model, tiny.executor, std::span(tokens).first(25), 50)[1].moments();
  const auto second = calibrate(tiny.model, tiny.executor, std::span(tokens).last(25), 50)[1].moments();
  const auto both = halves[1].moments();
  for (std::size_t i = 0; i < both.values().size(); ++i)
    ASSERT_NEAR(both.values()[i], (first.values()[i] + second.values()[i]) / 2,
                1e-12 * std::abs(both.values()[i]) + 1e-15);
}

TEST(Calibrate, StopsAndRefuses) {
  TinyModel tiny;
  const auto tokens = some_tokens(50, 6);
  EXPECT_TRUE(calibrate(tiny.model, tiny.executor, tokens, 20, {}, [] { return true; }).empty());
  EXPECT_THROW(calibrate(tiny.model, tiny.executor, {}, 20), std::invalid_argument);
  const std::vector<generate::TokenId> wrong{3, 272};
  EXPECT_THROW(calibrate(tiny.model, tiny.executor, wrong, 20), std::invalid_argument);
}

}  // namespace
}  // namespace convert
