// SPDX-License-Identifier: Apache-2.0
// What holds of the gradient whatever its parts: the same bits on any number of threads and in any batch, GQA
// is MHA with repeated keys, and queries may come in any slices.
#include "attention/backward.hpp"
#include "gqa/kernel/tuning.hpp"

namespace gqa {
namespace {

using test::GradientCase;
using test::Sizes;
using test::Threads;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Large enough that queries are cut into slices.
const Sizes sliced{700, 3100, 8, 1, 8};

TEST(BackwardLaws, ThreadsChangeNoBit) {
  ASSERT_GT(detail::tuning::backward_slices(sliced.num_q_tokens, 8, sliced.num_kv_tokens), 1);
  for (const Sizes& sizes : {sliced, Sizes{130, 200, 6, 3, 24}}) {
    GradientCase<float> serial(sizes, 51);
    serial.run({.mask = causal()});
    for (int n : {2, 3, 7}) {
      Threads threads(n);
      GradientCase<float> parallel(sizes, 51);
      parallel.run({.mask = causal(), .threads = &threads});
      EXPECT_GT(threads.calls(), 0);
      EXPECT_TRUE(serial.same_gradients(parallel)) << n << " threads, " << sizes.name();
    }
  }
}

/// A soft-cap's cap is shared by all KV heads and slices, each of which sums up its own part.
TEST(BackwardLaws, ThreadsChangeNoBitOfParameters) {
  const SinkLogits sinks(std::vector<double>(8, 0.5));
  for (Index num_kv_heads : {1, 8}) {
    const auto run = [&](Threads* threads) {
      GradientCase<float> c({sliced.num_q_tokens, sliced.num_kv_tokens, 8, num_kv_heads, 8}, 52);
      std::vector<double> score(9), d_sinks(8);
      c.run({.mask = window(40, 0),
             .score = soft_cap(2) | alibi(8),
             .sinks = &sinks,
             .threads = threads,
             .score_gradient = &score,
             .sink_gradient = &d_sinks});
      score.insert(score.end(), d_sinks.begin(), d_sinks.end());
      return score;
    };
    Threads threads(3);
    EXPECT_EQ(run(nullptr), run(&threads)) << num_kv_heads << " KV heads";
  }
}

/// Slices of queries as calls of their own: dq has the same bits, and dk and dv are the sums.
template <class T>
void expect_slices(const Sizes& sizes, const std::vector<Index>& cuts, double tolerance) {
  GradientCase<T> whole(sizes, 53);
  whole.run({.mask = causal()});
  std::vector<double> dk(whole.dk.size()), dv(whole.dv.size());
  const Index row = sizes.num_q_heads * sizes.head_dim;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Index begin = cuts[i], end = cuts[i + 1];
    Sizes part = sizes;
    part.num_q_tokens = end - begin;
    GradientCase<T> c(part, 53);
    c.q.assign(whole.q.begin() + begin * row, whole.q.begin() + end * row);
    c.d_out.assign(whole.d_out.begin() + begin * row, whole.d_out.begin() + end * row);
    c.k = whole.k;
    c.v = whole.v;
    c.run({.mask = causal(), .q_offset = sizes.num_kv_tokens - sizes.num_q_tokens + begin});
    for (Index j = 0; j < (end - begin) * row; ++j) ASSERT_EQ(c.dq[at(j)], whole.dq[at(begin * row + j)]);
    for (std::size_t j = 0; j < dk.size(); ++j) dk[j] += static_cast<double>(c.dk[j]);
    for (std::size_t j = 0; j < dv.size(); ++j) dv[j] += static_cast<double>(c.dv[j]);
  }
  for (std::size_t j = 0; j < dk.size(); ++j) {
    ASSERT_NEAR(dk[j], static_cast<double>(whole.dk[j]), tolerance);
    ASSERT_NEAR(dv[j], static_cast<double>(whole.dv[j]), tolerance);
  }
}

TEST(BackwardLaws, QueriesMayComeInAnySlices) {
  // Sums of up to 240 x 4 terms of about 1, in float or double.
  for (Index cut : {1, 63, 64, 100, 239}) {
    expect_slices<float>({240, 300, 4, 1, 16}, {0, cut, 240}, 1e-4);
    expect_slices<double>({240, 300, 4, 1, 16}, {0, cut, 240}, 1e-12);
  }
  expect_slices<float>(sliced, {0, 350, 700}, 1e-3);
}

TEST(BackwardLaws, GroupedIsMultiHeadWithRepeatedKeysSummedUp) {
  const Index S = 130, H = 6, G = 2, D = 24;
  GradientCase<double> grouped({S, S, H, G, D}, 54), repeated({S, S, H, H, D}, 54);
  for (Index j = 0; j < S; ++j)
    for (Index h = 0; h < H; ++h)
      for (Index d = 0; d < D; ++d) {
        repeated.k[at((j * H + h) * D + d)] = grouped.k[at((j * G + h / 3) * D + d)];
        repeated.v[at((j * H + h) * D + d)] = grouped.v[at((j * G + h / 3) * D + d)];
      }
  grouped.run({.mask = causal()});
  repeated.run({.mask = causal()});
  EXPECT_EQ(grouped.dq, repeated.dq);
  for (Index j = 0; j < S; ++j)
    for (Index g = 0; g < G; ++g)
      for (Index d = 0; d < D; ++d) {
        double dk = 0, dv = 0;
        for (Index h = 3 * g; h < 3 * g + 3; ++h) {
          dk += repeated.dk[at((j * H + h) * D + d)];
          dv += repeated.dv[at((j * H + h) * D + d)];
        }
        ASSERT_NEAR(grouped.dk[at((j * G + g) * D + d)], dk, 1e-12);
        ASSERT_NEAR(grouped.dv[at((j * G + g) * D + d)], dv, 1e-12);
      }
}

}  // namespace
}  // namespace gqa
