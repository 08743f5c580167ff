// SPDX-License-Identifier: Apache-2.0
// Measures of probabilities: closed forms, and brute force over whole matrices in double precision.
#include <gtest/gtest.h>

#include <cmath>

#include "gqa/inspect/head_divergence.hpp"
#include "gqa/inspect/head_measures.hpp"
#include "gqa/inspect/leave_one_out.hpp"
#include "gqa/inspect/rollout.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

/// Probabilities of tokens x heads x keys.
struct Matrices {
  Index tokens, heads, keys;
  std::vector<float> values = std::vector<float>(static_cast<std::size_t>(tokens * heads * keys));

  float& operator()(Index t, Index h, Index j) {
    return values[static_cast<std::size_t>((t * heads + h) * keys + j)];
  }
  /// The last tokens of the keys, a few at a time.
  ProbabilityRows rows(Index begin, Index end) const {
    return {values.data() + begin * heads * keys, end - begin, heads, keys, keys - tokens + begin, 0};
  }
  ProbabilityRows rows() const { return rows(0, tokens); }
};

/// Causal and random, a few zeros among them.
Matrices random_matrices(Index tokens, Index heads, Index keys, std::uint64_t seed) {
  test::Random random(seed);
  Matrices m{tokens, heads, keys};
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < heads; ++h) {
      const Index end = keys - tokens + t + 1;
      double sum = 0;
      std::vector<double> p;
      for (Index j = 0; j < end; ++j) {
        p.push_back(random.flip(0.2) && j + 1 < end ? 0 : std::exp(2 * random.normal()));
        sum += p.back();
      }
      for (Index j = 0; j < end; ++j) m(t, h, j) = static_cast<float>(p[static_cast<std::size_t>(j)] / sum);
    }
  return m;
}

/// Sums of n floats near 1 and their logarithms: what rounding of the probabilities themselves leaves.
constexpr double tolerance = 1e-5;

TEST(HeadMeasures, AreTheClosedForms) {
  // Head 0 looks at itself, 1 at the token before, 2 at the first, 3 at all alike.
  const Index n = 71;
  Matrices m{n, 4, n};
  for (Index i = 0; i < n; ++i) {
    m(i, 0, i) = 1;
    m(i, 1, std::max<Index>(i - 1, 0)) = 1;
    m(i, 2, 0) = 1;
    for (Index j = 0; j <= i; ++j) m(i, 3, j) = 1 / static_cast<float>(i + 1);
  }
  HeadMeasures measures(4, {.sinks = 1, .window = 5});
  measures.add(m.rows());
  const auto size = static_cast<double>(n);
  double entropy = 0, harmonic = 0, window = 0;
  for (Index i = 1; i <= n; ++i) {
    entropy += std::log(static_cast<double>(i)) / size;
    harmonic += 1 / static_cast<double>(i) / size;
    window += static_cast<double>(std::min<Index>(i, 5)) / static_cast<double>(i) / size;
  }
  const HeadMeasure self = measures.head(0), before = measures.head(1), first = measures.head(2),
                    even = measures.head(3);
  for (const HeadMeasure& one : {self, before, first}) EXPECT_EQ(one.entropy, 0);
  EXPECT_EQ(self.diagonal, 1);
  EXPECT_EQ(self.distance, 0);
  EXPECT_EQ(self.window, 1);
  EXPECT_DOUBLE_EQ(self.sinks, 1 / size);
  EXPECT_DOUBLE_EQ(before.previous, (size - 1) / size);
  EXPECT_DOUBLE_EQ(before.distance, (size - 1) / size);
  EXPECT_EQ(first.sinks, 1);
  EXPECT_DOUBLE_EQ(first.window, 5 / size);
  EXPECT_DOUBLE_EQ(first.distance, (size - 1) / 2);
  EXPECT_NEAR(even.entropy, entropy, tolerance);
  EXPECT_NEAR(even.distance, (size - 1) / 4, 71 * tolerance);
  EXPECT_NEAR(even.diagonal, harmonic, tolerance);
  EXPECT_NEAR(even.sinks, harmonic, tolerance);
  EXPECT_NEAR(even.window, window, tolerance);
  EXPECT_EQ(even.num_rows, n);
  EXPECT_EQ(even.num_induction_rows, 0);
}

TEST(HeadMeasures, FindInduction) {
  // a b c a b c a: from the second a on, the key after the last copy.
  const std::vector<std::int32_t> tokens{7, 8, 9, 7, 8, 9, 7};
  Matrices m{7, 2, 7};
  for (Index i = 0; i < 7; ++i) {
    m(i, 0, i < 3 ? i : i - 2) = 1;
    m(i, 1, i) = 1;
  }
  HeadMeasures measures(2, {.tokens = tokens});
  measures.add(m.rows());
  EXPECT_EQ(measures.head(0).num_induction_rows, 4);
  EXPECT_EQ(measures.head(0).induction, 1);
  EXPECT_EQ(measures.head(1).induction, 0);
  // A token that follows itself: its own key comes after a copy.
  const std::vector<std::int32_t> same{5, 5};
  HeadMeasures doubled(2, {.tokens = same});
  Matrices two{2, 2, 2};
  two(0, 0, 0) = two(0, 1, 0) = two(1, 0, 1) = two(1, 1, 0) = 1;
  doubled.add(two.rows());
  EXPECT_EQ(doubled.head(0).induction, 1);
  EXPECT_EQ(doubled.head(1).induction, 0);
}

TEST(HeadMeasures, AreBruteForceWhateverThePieces) {
  Matrices m = random_matrices(37, 3, 65, 1);
  std::vector<std::int32_t> tokens;
  test::Random random(2);
  for (int i = 0; i < 65; ++i) tokens.push_back(static_cast<std::int32_t>(random.integer(0, 20)));
  const HeadMeasureOptions options{.sinks = 3, .window = 7, .tokens = tokens};
  HeadMeasures whole(3, options), pieces(3, options);
  whole.add(m.rows());
  for (Index begin = 0; begin < 37; begin += 5) pieces.add(m.rows(begin, std::min<Index>(begin + 5, 37)));
  for (Index h = 0; h < 3; ++h) {
    HeadMeasure exact;
    Index rows = 0;
    for (Index t = 0; t < 37; ++t) {
      const Index i = 28 + t;
      bool copied = false;
      for (Index j = 0; j <= i; ++j) {
        const auto p = static_cast<double>(m(t, h, j));
        if (p > 0) exact.entropy -= p * std::log(p) / 37;
        exact.distance += p * static_cast<double>(i - j) / 37;
        exact.sinks += j < 3 ? p / 37 : 0;
        exact.window += i - j < 7 ? p / 37 : 0;
        exact.diagonal += i == j ? p / 37 : 0;
        exact.previous += i == j + 1 ? p / 37 : 0;
        if (j > 0 && tokens[static_cast<std::size_t>(j - 1)] == tokens[static_cast<std::size_t>(i)]) {
          copied = true;
          exact.induction += p;
        }
      }
      rows += copied;
    }
    const HeadMeasure found = whole.head(h), other = pieces.head(h);
    EXPECT_NEAR(found.entropy, exact.entropy, tolerance);
    EXPECT_NEAR(found.distance, exact.distance, 65 * tolerance);
    EXPECT_NEAR(found.sinks, exact.sinks, tolerance);
    EXPECT_NEAR(found.window, exact.window, tolerance);
    EXPECT_NEAR(found.diagonal, exact.diagonal, tolerance);
    EXPECT_NEAR(found.previous, exact.previous, tolerance);
    EXPECT_NEAR(found.induction, exact.induction / static_cast<double>(rows), tolerance);
    EXPECT_EQ(found.num_induction_rows, rows);
    for (auto member :
         {&HeadMeasure::entropy, &HeadMeasure::distance, &HeadMeasure::sinks, &HeadMeasure::window,
          &HeadMeasure::diagonal, &HeadMeasure::previous, &HeadMeasure::induction})
      EXPECT_EQ(found.*member, other.*member);
  }
}

TEST(HeadMeasures, TakeRowsThatSinksTookFromAndRowsThatSeeNothing) {
  Matrices m{2, 1, 2};
  m(1, 0, 0) = m(1, 0, 1) = 0.125F;  // most of it went to a learned sink
  HeadMeasures measures(1, {.sinks = 1});
  measures.add(m.rows());
  EXPECT_EQ(measures.head(0).num_rows, 1);
  EXPECT_NEAR(measures.head(0).entropy, std::log(2.0), 1e-12);
  EXPECT_EQ(measures.head(0).distance, 0.5);
  EXPECT_EQ(measures.head(0).sinks, 0.125);
}

TEST(HeadDivergence, IsZeroToLnTwo) {
  const Index n = 9;
  Matrices m{n, 4, n + 1};  // heads 0 and 1 alike, 2 elsewhere, 3 half of each
  for (Index t = 0; t < n; ++t) {
    m(t, 0, t) = m(t, 1, t) = 1;
    m(t, 2, t + 1) = 1;
    m(t, 3, t) = m(t, 3, t + 1) = 0.5F;
  }
  HeadDivergence divergence(4);
  divergence.add(m.rows());
  // H(3/4, 1/4) - H(1/2, 1/2) / 2
  const double half = 2 * std::log(2.0) - 0.75 * std::log(3.0) - std::log(2.0) / 2;
  EXPECT_EQ(divergence.between(0, 1), 0);
  EXPECT_EQ(divergence.between(2, 2), 0);
  EXPECT_NEAR(divergence.between(0, 2), std::log(2.0), 1e-15);
  EXPECT_NEAR(divergence.between(3, 1), half, 1e-15);
  const auto groups = HeadGrouping::contiguous(4, 2);
  EXPECT_NEAR(divergence.within_groups(groups), half / 2, 1e-15);
  EXPECT_NEAR(divergence.between_groups(groups), (std::log(2.0) + half) / 2, 1e-15);
  EXPECT_EQ(divergence.within_groups(HeadGrouping::contiguous(4, 4)), 0);
  EXPECT_EQ(divergence.between_groups(HeadGrouping::contiguous(4, 1)), 0);
}

TEST(HeadDivergence, IsBruteForceWhateverThePieces) {
  Matrices m = random_matrices(37, 5, 41, 3);
  HeadDivergence whole(5), pieces(5);
  whole.add(m.rows());
  for (Index begin = 0; begin < 37; begin += 4) pieces.add(m.rows(begin, std::min<Index>(begin + 4, 37)));
  const auto plogp = [](double p) { return p > 0 ? -p * std::log(p) : 0; };
  for (Index a = 0; a < 5; ++a)
    for (Index b = 0; b < 5; ++b) {
      double exact = 0;
      for (Index t = 0; t < 37; ++t)
        for (Index j = 0; j < 41; ++j) {
          const auto p = static_cast<double>(m(t, a, j)), q = static_cast<double>(m(t, b, j));
          exact += (plogp((p + q) / 2) - (plogp(p) + plogp(q)) / 2) / 37;
        }
      EXPECT_NEAR(whole.between(a, b), exact, tolerance);
      EXPECT_EQ(whole.between(a, b), pieces.between(a, b));
      EXPECT_EQ(whole.between(a, b), whole.between(b, a));
    }
}

TEST(Rollout, IsTheProductOfItsLayers) {
  const Index n = 23, layers = 4;
  using Square = std::vector<std::vector<double>>;
  const auto zeros = Square(static_cast<std::size_t>(n), std::vector<double>(static_cast<std::size_t>(n)));
  Square product = zeros;
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) product[i][i] = 1;
  Rollout all(n), some(n, {0, 11, 22, 11});
  for (Index l = 0; l < layers; ++l) {
    Matrices m = random_matrices(n, 3, n, 10 + static_cast<std::uint64_t>(l));
    Square next = zeros;
    for (Index i = 0; i < n; ++i)
      for (Index k = 0; k < n; ++k) {
        double a = i == k ? 0.5 : 0;
        for (Index h = 0; h < 3; ++h) a += static_cast<double>(m(i, h, k)) / 6;
        for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j)
          next[static_cast<std::size_t>(i)][j] += a * product[static_cast<std::size_t>(k)][j];
      }
    product = next;
    for (Index begin = 0; begin < n; begin += 6) {
      all.add(m.rows(begin, std::min<Index>(begin + 6, n)));
      some.add(m.rows(begin, std::min<Index>(begin + 6, n)));
    }
    all.next_layer();
    some.next_layer();
  }
  for (Index i = 0; i < n; ++i) {
    double sum = 0;
    for (Index j = 0; j < n; ++j) {
      sum += all(i, j);
      EXPECT_NEAR(all(i, j), product[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)], tolerance);
    }
    EXPECT_NEAR(sum, 1, 1e-12);
    for (Index s = 0; s < 4; ++s) EXPECT_EQ(some(i, s), all(i, some.sources()[static_cast<std::size_t>(s)]));
  }
}

TEST(Rollout, LeavesTokensThatSeeNothingAsTheyAre) {
  Matrices m{2, 1, 2};
  m(1, 0, 0) = 0.5F;  // and half to a learned sink
  Rollout rollout(2);
  rollout.add(m.rows());
  EXPECT_EQ(rollout(0, 0), 1);
  EXPECT_EQ(rollout(1, 0), 0.5);
  EXPECT_EQ(rollout(1, 1), 0.5);
}

TEST(LeaveOneOut, IsWhatALinearModelLoses) {
  // The sum of all that heads say, head h of layer l saying 10 l + h in each of 3 tokens.
  const auto loss = [](std::optional<HeadPlace> without) {
    double sum = 0;
    for (Index l = 0; l < 2; ++l) {
      std::vector<double> said(3 * 5 * 2);
      const TensorView<double> view(said.data(), 3, 5, 2);
      for (std::size_t i = 0; i < said.size(); ++i)
        said[i] = static_cast<double>(10 * l + static_cast<Index>(i) / 2 % 5);
      if (without && without->layer == l) leave_out(view, without->head);
      for (const double x : said) sum += x;
    }
    return sum;
  };
  const HeadImportance importance = leave_one_out(2, 5, loss);
  EXPECT_EQ(importance.loss, 6 * (0 + 1 + 2 + 3 + 4) * 2 + 6 * 5 * 10);
  for (Index l = 0; l < 2; ++l)
    for (Index h = 0; h < 5; ++h) EXPECT_EQ(importance(l, h), -6.0 * static_cast<double>(10 * l + h));
}

TEST(Inspect, RefusesWhatIsNotThere) {
  Matrices m = random_matrices(3, 2, 3, 5);
  const auto contains = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  contains(message_of<std::invalid_argument>([] { HeadMeasures(0); }), "num_heads is 0");
  contains(message_of<std::invalid_argument>([] { HeadMeasures(1, {.sinks = -1}); }), "sinks is -1");
  contains(message_of<std::invalid_argument>([&] { HeadMeasures(3).add(m.rows()); }), "2 heads, expected 3");
  const std::vector<std::int32_t> tokens{1, 2};
  contains(message_of<std::invalid_argument>([&] { HeadMeasures(2, {.tokens = tokens}).add(m.rows()); }),
           "position 3, expected those of the 2");
  contains(message_of<std::invalid_argument>([&] { (void)HeadMeasures(2).head(2); }), "head is 2");
  // Nothing of rows with a value that is no probability is measured.
  HeadMeasures measures(2);
  for (const float wrong : {-0.25F, std::nanf(""), 1e30F}) {
    Matrices bad = m;
    bad(1, 1, 0) = wrong;
    contains(message_of<std::invalid_argument>([&] { measures.add(bad.rows()); }), "of the token at 1 is");
    contains(message_of<std::invalid_argument>([&] { HeadDivergence(2).add(bad.rows()); }),
             "expected 0 to 1");
    contains(message_of<std::invalid_argument>([&] { Rollout(3).add(bad.rows()); }), "expected 0 to 1");
  }
  EXPECT_EQ(measures.head(0).num_rows, 0);
  contains(message_of<std::invalid_argument>([] { HeadDivergence(0); }), "num_heads is 0");
  contains(message_of<std::invalid_argument>([&] { HeadDivergence(3).add(m.rows()); }), "2 heads");
  contains(message_of<std::invalid_argument>([] { (void)HeadDivergence(2).between(0, 2); }), "0 and 2");
  contains(message_of<std::invalid_argument>(
               [] { (void)HeadDivergence(2).within_groups(HeadGrouping::contiguous(4, 2)); }),
           "4 query heads, expected 2");
  contains(message_of<std::invalid_argument>([] { Rollout(0); }), "num_tokens is 0");
  contains(message_of<std::invalid_argument>([] { Rollout(2, {2}); }), "source is 2");
  contains(message_of<std::invalid_argument>([&] { Rollout(2).add(m.rows()); }), "expected at most 2");
  contains(message_of<std::invalid_argument>([] { (void)leave_one_out(0, 1, [](auto) { return 0.0; }); }),
           "0 layers");
  contains(
      message_of<std::invalid_argument>([&] { leave_out(TensorView<float>(m.values.data(), 1, 2, 3), 2); }),
      "head is 2");
}

}  // namespace
}  // namespace gqa
