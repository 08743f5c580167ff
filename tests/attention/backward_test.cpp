// SPDX-License-Identifier: Apache-2.0
// The gradient against the oracle's: every dtype, group size, length and head_dim.
#include "attention/backward.hpp"

namespace gqa {
namespace {

using test::BackwardHow;
using test::GradientCase;
using test::Sizes;

template <class T>
class Backward : public ::testing::Test {
 protected:
  template <class DT = Accumulator<T>>
  static void expect_oracle(const Sizes& sizes, std::uint64_t seed, const Window& mask = causal(),
                            BackwardHow how = {}) {
    GradientCase<T, DT> c(sizes, seed);
    how.mask = mask;
    c.run(how);
    auto problem = c.gradient_problem();
    problem.forward.visible = test::visible_by(mask);
    if (how.scale) problem.forward.scale = *how.scale;
    if (how.q_offset) problem.forward.q_offset = *how.q_offset;
    c.expect(problem, "seed " + std::to_string(seed));
  }
};
TYPED_TEST_SUITE(Backward, test::AllScalars, test::ScalarNames);

TYPED_TEST(Backward, Lengths) {
  std::uint64_t seed = 1;
  for (Index Sk : {0, 1, 2, 15, 17, 63, 64, 65, 127, 129, 239})
    for (Index Sq : {Index{1}, Index{33}, Sk}) {
      this->expect_oracle(Sizes{Sq, Sk, 4, 2, 24}, seed++);
      this->expect_oracle(Sizes{Sq, Sk, 4, 2, 24}, seed++, no_mask());
    }
  this->expect_oracle(Sizes{239, 64, 2, 1, 8}, seed++);  // most rows see nothing
}

TYPED_TEST(Backward, GroupSizes) {
  std::uint64_t seed = 100;
  for (const auto& [H, G] :
       {std::pair<Index, Index>{1, 1}, {3, 3}, {6, 2}, {4, 1}, {7, 1}, {71, 1}, {142, 2}})
    this->expect_oracle(Sizes{9, 70, H, G, 16}, seed++);
}

TYPED_TEST(Backward, HeadDims) {
  std::uint64_t seed = 200;
  for (Index D : {1, 7, 40, 64, 80, 96, 112, 128, 257})
    for (Index Dv : {D, Index{1}, Index{50}}) this->expect_oracle(Sizes{9, 75, 4, 2, D, Dv}, seed++);
}

TYPED_TEST(Backward, Windows) {
  std::uint64_t seed = 300;
  for (const Window mask : {sliding_window(1), sliding_window(64), sliding_window(100), window(0, 0),
                            window(10, -1), window(-1, 30), window(5, 80)})
    for (const Sizes& sizes : {Sizes{150, 150, 4, 2, 16}, Sizes{20, 290, 4, 2, 16}})
      this->expect_oracle(sizes, seed++, mask);
}

TYPED_TEST(Backward, ScalesAndOffsets) {
  std::uint64_t seed = 400;
  for (double scale : {0.0, -0.3, 1.7})
    this->expect_oracle(Sizes{30, 70, 4, 2, 16}, seed++, causal(), {.scale = scale});
  for (Index offset : {0, 1, 65, 400})
    this->expect_oracle(Sizes{30, 170, 4, 2, 16}, seed++, causal(), {.q_offset = offset});
}

TEST(BackwardResults, AreRoundedToTheTypeOfTheGradients) {
  GradientCase<bfloat16, float> wide({70, 70, 4, 2, 24}, 7);
  GradientCase<bfloat16, bfloat16> narrow({70, 70, 4, 2, 24}, 7);
  wide.run({.mask = causal()});
  narrow.run({.mask = causal()});
  for (std::size_t i = 0; i < wide.dk.size(); ++i)
    ASSERT_EQ(static_cast<float>(narrow.dk[i]), static_cast<float>(static_cast<bfloat16>(wide.dk[i])));
}

/// The whole way in double against central differences of attention() itself.
TEST(BackwardResults, AreTheDifferencesOfTheForward) {
  GradientCase<double> c({5, 9, 4, 2, 3, 2}, 9);
  const BackwardHow how{.mask = causal(), .score = soft_cap(3) | alibi(4)};
  const auto loss = [&] {
    c.run(how);
    double sum = 0;
    for (std::size_t i = 0; i < c.out.size(); ++i) sum += c.out[i] * c.d_out[i];
    return sum;
  };
  loss();
  const auto expect = [&](const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double at = x[i];
      x[i] = at + 1e-5;
      const double up = loss();
      x[i] = at - 1e-5;
      const double down = loss();
      x[i] = at;
      EXPECT_NEAR(gradient[i], (up - down) / 2e-5, 1e-6 * std::max(1.0, test::detail::largest(gradient)))
          << name << "[" << i << "]";
    }
  };
  const auto dq = c.dq, dk = c.dk, dv = c.dv;
  expect("dq", c.q, dq);
  expect("dk", c.k, dk);
  expect("dv", c.v, dv);
}

}  // namespace
}  // namespace gqa
