// SPDX-License-Identifier: Apache-2.0
// The gradients of a whole layer against finite differences of its forward in double.
#include "gqa/layer/attention_tape.hpp"

#include <gtest/gtest.h>

#include "gqa/mask.hpp"
#include "layer/layer_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::ByRows;
using test::LayerCase;
using test::LayerSizes;
using test::message_of;

/// A layer with a loss, sum(r y), over a batch in which one sequence is empty.
struct Training {
  std::vector<Index> offsets = {0, 5, 5, 12};
  LayerCase<double> c;
  ByRows<double> x, r;
  LayerMemory<double> memory;

  explicit Training(const LayerSizes& s)
      : c(s), x(test::matrix<double>(12, s.in_dim, 5)), r(test::matrix<double>(12, s.out_dim, 6)) {}

  double loss() {
    ByRows<double> y(12, c.s.out_dim);
    c.layer().forward(Serial{}, memory, x, std::span<const Index>(offsets), y, causal());
    return y.cwiseProduct(r).sum();
  }
  AttentionGradients<double> gradients() {
    AttentionTape<double> tape;
    AttentionGradients<double> g;
    ByRows<double> y(12, c.s.out_dim);
    tape.forward(Serial{}, c.layer(), memory, x, std::span<const Index>(offsets), y, causal());
    tape.backward(Serial{}, c.layer(), memory, r, g, causal());
    return g;
  }
  /// Some of `gradient` against differences of the loss by the parameters, which are ours.
  void expect_differences(std::span<double> parameters, std::span<const double> gradient, const char* what) {
    ASSERT_EQ(parameters.size(), gradient.size()) << what;
    const double step = 1e-5;
    double worst = 0, largest = 1;
    for (std::size_t i = 0; i < parameters.size(); i += 1 + parameters.size() / 23) {
      const double was = parameters[i];
      parameters[i] = was + step;
      const double more = loss();
      parameters[i] = was - step;
      const double less = loss();
      parameters[i] = was;
      worst = std::max(worst, std::abs(gradient[i] - (more - less) / (2 * step)));
      largest = std::max(largest, std::abs(gradient[i]));
    }
    // Central differences leave 1e-10 of the third derivative, and a loss of about 10 rounded at 1e-5: 1e-10.
    EXPECT_LE(worst, 1e-6 * largest) << what;
  }
};

TEST(AttentionTape, GradientsAreFiniteDifferences) {
  for (const LayerSizes& s :
       {LayerSizes{}, LayerSizes{.H = 4, .G = 1, .D = 6, .Dv = 5, .in_dim = 7, .out_dim = 9, .bias = false},
        LayerSizes{.H = 5, .G = 3, .D = 4, .Dv = 4, .norm = false, .kv_head_of = {2, 0, 2, 0, 0}}}) {
    Training t(s);
    const auto g = t.gradients();
    const auto span = [](ByRows<double>& m) {
      return std::span(m.data(), static_cast<std::size_t>(m.size()));
    };
    t.expect_differences(span(t.x), g.x.values(), "x");
    t.expect_differences(span(t.c.q), g.q.values(), "q");
    t.expect_differences(span(t.c.k), g.k.values(), "k");
    t.expect_differences(span(t.c.v), g.v.values(), "v");
    t.expect_differences(span(t.c.o), g.output.values(), "output");
    t.expect_differences(t.c.q_bias, g.q_bias.values(), "q bias");
    t.expect_differences(t.c.k_bias, g.k_bias.values(), "k bias");
    t.expect_differences(t.c.v_bias, g.v_bias.values(), "v bias");
    t.expect_differences(t.c.o_bias, g.output_bias.values(), "output bias");
    t.expect_differences(t.c.q_norm, g.q_norm, "q norm");
    t.expect_differences(t.c.k_norm, g.k_norm, "k norm");
  }
}

template <class T>
std::vector<T> all_of(const AttentionGradients<T>& g) {
  std::vector<T> all;
  for (const auto* part :
       {&g.x, &g.q, &g.k, &g.v, &g.output, &g.q_bias, &g.k_bias, &g.v_bias, &g.output_bias})
    all.insert(all.end(), part->values().begin(), part->values().end());
  for (const auto* part : {&g.q_norm, &g.k_norm})
    for (const double value : *part) all.push_back(static_cast<T>(value));
  return all;
}

TEST(AttentionTape, ThreadsChangeNoBitAndForwardIsTheLayers) {
  const LayerCase<float> c({});
  const auto x = test::matrix<float>(200, 20, 5), dy = test::matrix<float>(200, 20, 6);
  LayerMemory<> memory;
  ByRows<float> expected(200, 20), y(200, 20);
  c.layer().forward(Serial{}, memory, x, expected, causal());
  std::vector<float> first;
  for (int threads : {1, 2, 3, 8}) {
    test::Threads pool(threads);
    AttentionTape<> tape;
    AttentionGradients<> g;
    tape.forward(pool, c.layer(), memory, x, y, causal());
    EXPECT_EQ(y, expected);
    tape.backward(pool, c.layer(), memory, dy, g, causal());
    if (first.empty()) first = all_of(g);
    EXPECT_EQ(all_of(g), first) << threads << " threads";
    tape.backward(pool, c.layer(), memory, dy, g, causal());
    EXPECT_EQ(all_of(g), first) << "again";
  }
}

TEST(AttentionTape, GradientsAreSumsOverSequences) {
  // Of more tokens than one block of a sum has; and of no tokens they are 0.
  const LayerCase<double> c({});
  const auto x = test::matrix<double>(150, 20, 5), dy = test::matrix<double>(150, 20, 6);
  const auto of_weights = [&](const std::vector<Index>& offsets) {
    LayerMemory<double> memory;
    AttentionTape<double> tape;
    AttentionGradients<double> g;
    const Index first = offsets.front(), n = offsets.back() - first;
    std::vector<Index> from_0;
    for (const Index offset : offsets) from_0.push_back(offset - first);
    ByRows<double> y(n, 20);
    tape.forward(Serial{}, c.layer(), memory, x.middleRows(first, n), std::span<const Index>(from_0), y,
                 causal());
    tape.backward(Serial{}, c.layer(), memory, dy.middleRows(first, n), g, causal());
    g.x.resize(0, 0);
    return all_of(g);
  };
  const auto both = of_weights({0, 70, 150}), one = of_weights({0, 70}), other = of_weights({70, 150});
  ASSERT_EQ(both.size(), one.size());
  double largest = 0;
  for (const double value : both) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < both.size(); ++i) EXPECT_NEAR(both[i], one[i] + other[i], 1e-13 * largest) << i;
  for (const double value : of_weights({9, 9})) EXPECT_EQ(value, 0);
}

TEST(AttentionTape, FusedWeightsHaveTheSameGradients) {
  const LayerSizes s;
  const LayerCase<float> c(s);
  ByRows<float> qkv(c.q.rows() + c.k.rows() + c.v.rows(), s.in_dim);
  qkv << c.q, c.k, c.v;
  std::vector<float> bias = c.q_bias;
  bias.insert(bias.end(), c.k_bias.begin(), c.k_bias.end());
  bias.insert(bias.end(), c.v_bias.begin(), c.v_bias.end());
  AttentionProjections fused{.output = c.projections().output, .qkv = {qkv, bias}};
  const AttentionLayer<> layers[] = {c.layer(), AttentionLayer<>(fused, c.config())};
  const auto x = test::matrix<float>(9, s.in_dim, 5), dy = test::matrix<float>(9, s.out_dim, 6);
  std::vector<float> gradients[2];
  for (std::size_t i = 0; i < 2; ++i) {
    LayerMemory<> memory;
    AttentionTape<> tape;
    AttentionGradients<> g;
    ByRows<float> y(9, s.out_dim);
    tape.forward(Serial{}, layers[i], memory, x, y, causal());
    tape.backward(Serial{}, layers[i], memory, dy, g, causal());
    gradients[i] = all_of(g);
  }
  EXPECT_EQ(gradients[0], gradients[1]);
}

TEST(AttentionTape, Refuses) {
  const LayerCase<float> c({});
  LayerMemory<> memory;
  AttentionTape<> tape;
  AttentionGradients<> g;
  const auto x = test::matrix<float>(4, 20, 5), dy = test::matrix<float>(4, 20, 6);
  const auto backward = [&] { tape.backward(Serial{}, c.layer(), memory, dy, g, causal()); };
  EXPECT_EQ(message_of<std::logic_error>(backward), "AttentionTape: backward before a forward");
  ByRows<float> y(4, 20);
  tape.forward(Serial{}, c.layer(), memory, x, y, causal());
  EXPECT_EQ(message_of([&] { tape.backward(Serial{}, c.layer(), memory, dy.topRows(3), g, causal()); }),
            "dy: sizes are 3 x 20, expected 4 x 20 as y in the forward");
  const LayerCase<float> other({.H = 4, .G = 4});
  EXPECT_EQ(message_of([&] { tape.backward(Serial{}, other.layer(), memory, dy, g, causal()); }),
            "AttentionTape: the layer has other sizes than that of the forward");
}

}  // namespace
}  // namespace gqa
