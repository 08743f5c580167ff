// SPDX-License-Identifier: Apache-2.0
// The gradient through score functions and learned sinks, and by their parameters.
#include "attention/backward.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::BackwardHow;
using test::GradientCase;
using test::Sizes;

constexpr Index H = 4, G = 2, Sq = 40, Sk = 90;
const Sizes sizes{Sq, Sk, H, G, 16};
std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// A function of the oracle's, and its derivative.
struct Formula {
  std::function<double(double, Index, Index, Index)> modify, derivative;
};

template <class T>
void expect_oracle(const AnyScoreMod& score, const Formula& formula, const BackwardHow& beside = {}) {
  GradientCase<T> c(sizes, 21);
  BackwardHow how = beside;
  how.mask = causal();
  how.score = score;
  c.run(how);
  auto problem = c.gradient_problem();
  problem.forward.visible = test::visible_by(causal());
  problem.forward.modify = formula.modify;
  problem.derivative = formula.derivative;
  c.expect(problem, "score function");
}

const Formula capped{[](double s, Index, Index, Index) { return 2 * std::tanh(s / 2); },
                     [](double s, Index, Index, Index) { return 1 - std::pow(std::tanh(s / 2), 2); }};
const std::vector<double> slopes{0.1, -0.05, 0.2, 0.3};

TEST(BackwardScores, PassThroughEachFunction) {
  expect_oracle<float>(soft_cap(2), capped);
  expect_oracle<double>(soft_cap(2), capped);
  expect_oracle<bfloat16>(soft_cap(2), capped);
  expect_oracle<float>(alibi(slopes), {[](double s, Index h, Index q, Index kv) {
                                         return s - slopes[at(h)] * std::abs(static_cast<double>(q - kv));
                                       },
                                       {}});
  expect_oracle<float>(temperature([](Index q) { return 0.1 * static_cast<double>(q % 7); }),
                       {[](double s, Index, Index q, Index) { return s * 0.1 * static_cast<double>(q % 7); },
                        [](double, Index, Index q, Index) { return 0.1 * static_cast<double>(q % 7); }});
  expect_oracle<float>(score_fn([](double s, Index h, Index, Index) { return s * s * 0.1 + double(h); },
                                [](double s, Index, Index, Index) { return 0.2 * s; }),
                       {[](double s, Index h, Index, Index) { return s * s * 0.1 + double(h); },
                        [](double s, Index, Index, Index) { return 0.2 * s; }});
}

TEST(BackwardScores, ABiasOfMinusInfinityHidesAKey) {
  expect_oracle<float>(score_fn([](double s, Index, Index, Index kv) { return kv % 3 == 1 ? -HUGE_VAL : s; },
                                [](double, Index, Index, Index) { return 1.0; }),
                       {[](double s, Index, Index, Index kv) { return kv % 3 == 1 ? -HUGE_VAL : s; }, {}});
}

/// Gradients of a call in double by its parameters are central differences; `make(parameters)` is its score
/// function.
double loss_of(GradientCase<double>& c, const BackwardHow& how) {
  c.run(how);
  double sum = 0;
  for (std::size_t i = 0; i < c.out.size(); ++i) sum += c.out[i] * c.d_out[i];
  return sum;
}

template <class Make>
void expect_differences(const std::vector<double>& score_parameters, const std::vector<double>& sinks,
                        Make make, test::Threads* threads = nullptr) {
  GradientCase<double> c(sizes, 22);
  const auto loss = [&](const std::vector<double>& p, const std::vector<double>& s,
                        std::vector<double>* d_p = nullptr, std::vector<double>* d_s = nullptr) {
    const SinkLogits logits(s);
    BackwardHow how{.mask = causal(), .score = make(p), .sinks = &logits, .threads = threads};
    how.score_gradient = d_p;
    how.sink_gradient = d_s;
    return loss_of(c, how);
  };
  std::vector<double> d_p(score_parameters.size(), 7), d_s(H, 7);
  loss(score_parameters, sinks, &d_p, &d_s);
  for (std::size_t i = 0; i < d_p.size(); ++i) {
    auto up = score_parameters, down = up;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    EXPECT_NEAR(d_p[i], (loss(up, sinks) - loss(down, sinks)) / 2e-5, 1e-6 * test::detail::largest(d_p))
        << "parameter " << i;
  }
  for (std::size_t i = 0; i < d_s.size(); ++i) {
    auto up = sinks, down = up;
    up[i] += 1e-5;
    down[i] -= 1e-5;
    if (std::isinf(sinks[i])) {
      EXPECT_EQ(d_s[i], 0);
      continue;
    }
    EXPECT_NEAR(d_s[i], (loss(score_parameters, up) - loss(score_parameters, down)) / 2e-5,
                1e-6 * test::detail::largest(d_s))
        << "sink " << i;
  }
}

const std::vector<double> some_sinks{0.5, -1, 2, -HUGE_VAL};

TEST(BackwardScores, ParametersOfEachFunction) {
  expect_differences({2.0}, some_sinks, [](const auto& p) { return AnyScoreMod(soft_cap(p[0])); });
  expect_differences(slopes, some_sinks, [](const auto& p) { return AnyScoreMod(alibi(p)); });
  expect_differences(test::random_values<double>(1, 8 * H), some_sinks, [](const auto& p) {
    return AnyScoreMod(relative_bias({.num_buckets = 8, .max_distance = 30, .bidirectional = false}, p, H));
  });
  expect_differences(test::random_values<double>(2, H * Sk), some_sinks, [](const auto& p) {
    return AnyScoreMod(tensor_bias(ScoreTensor<double>(p.data(), {1, H, 1, Sk})));
  });
}

TEST(BackwardScores, ParametersOfAChain) {
  test::Threads threads(3);
  expect_differences(
      {2, 0.1, 0.2, 0.3, 0.4}, some_sinks,
      [](const auto& p) {
        return AnyScoreMod(alibi({p[1], p[2], p[3], p[4]}) | soft_cap(p[0]));
      },
      &threads);
}

TEST(BackwardScores, ASinkIsNotReachedByRowsThatSeeNothing) {
  GradientCase<float> c({3, 5, H, G, 8}, 23);
  c.d_out[0] = std::numeric_limits<float>::quiet_NaN();
  const SinkLogits sinks({0.5, 0.5, 0.5, 0.5});
  std::vector<double> d_score(1), d_sinks(H, 7);
  c.run({.mask = as_mask([](Index q_pos, Index) { return q_pos != 2; }),
         .score = soft_cap(3),
         .sinks = &sinks,
         .score_gradient = &d_score,
         .sink_gradient = &d_sinks});
  for (double x : d_sinks) EXPECT_TRUE(std::isfinite(x) && x != 0) << x;
  EXPECT_TRUE(std::isfinite(d_score[0]));
}

TEST(BackwardScores, AFunctionWithoutADerivativeBehindAnyScoreModIsRefused) {
  GradientCase<float> c(sizes, 24);
  const AnyScoreMod score(score_fn([](double s, Index, Index, Index) { return s; }));
  EXPECT_EQ(test::message_of([&] { c.run({.score = score}); }),
            "AnyScoreMod: a score function without a derivative, expected score_fn(f, derivative)");
  EXPECT_EQ(c.dq[0], 7) << "something was written";
}

}  // namespace
}  // namespace gqa
