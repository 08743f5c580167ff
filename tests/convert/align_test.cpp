// SPDX-License-Identifier: Apache-2.0
#include "gqa/convert/align.hpp"

#include <complex>

#include "convert/layer_case.hpp"
#include "support/message_of.hpp"

namespace gqa::test {
namespace {

using convert::Calibration;
using convert::KeyBasis;
using convert::Weights;

struct Position {
  const char* name;
  KeyBasis basis;
  std::optional<RopeConfig> rope;
};

/// Every way keys may depend on their position, for heads of 8 elements.
std::vector<Position> positions() {
  std::vector<Position> all = {{"none", KeyBasis::unrestricted(), {}}, {"fixed", KeyBasis::fixed(), {}}};
  for (const Index rotary_dim : {8, 4})
    for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
      const RopeConfig rope{.layout = layout, .head_dim = 8, .rotary_dim = rotary_dim, .theta = 50};
      all.push_back({"rope", KeyBasis::rope(rope), rope});
    }
  return all;
}

double distance_within(const Weights& w, const HeadGrouping& grouping) {
  double sum = 0;
  for (Index h = 0; h < w.num_kv_heads(); ++h)
    for (Index k = 0; k < h; ++k)
      if (grouping.kv_head(h) == grouping.kv_head(k))
        for (const auto* m : {&w.wk, &w.wv}) {
          const Index size = m->rows() / w.num_kv_heads() * m->cols();
          for (Index i = 0; i < size; ++i) {
            const double d = m->values()[static_cast<std::size_t>(h * size + i)] -
                             m->values()[static_cast<std::size_t>(k * size + i)];
            sum += d * d;
          }
        }
  return sum;
}

// The law: whatever is aligned, and for whatever inputs, the layer is the same function.
TEST(Align, LeavesTheLayerUnchanged) {
  const auto grouping = HeadGrouping({0, 1, 0, 0}, 2);
  for (const bool biases : {false, true})
    for (const auto& position : positions()) {
      const Weights w = random_weights({.biases = biases}, 3);
      const auto x = activations<double>(17, w.kv_inputs(), 4);
      Calibration calibration(w.kv_inputs());
      calibration.add(x.data(), 17);
      for (const Calibration* c : {static_cast<const Calibration*>(nullptr), &std::as_const(calibration)}) {
        const auto aligned = convert::align_heads(w, grouping, position.basis, c).weights;
        EXPECT_LE(relative_distance(run_layer(aligned, x, position.rope), run_layer(w, x, position.rope)),
                  1e-12)
            << position.name;
        const auto x32 = std::vector<float>(x.begin(), x.end());
        EXPECT_LE(relative_distance(run_layer(aligned, x32, position.rope), run_layer(w, x32, position.rope)),
                  1e-5)
            << position.name;
        EXPECT_NE(aligned.wv, w.wv);
        EXPECT_EQ(aligned.wk == w.wk, position.basis.is_fixed());
      }
    }
}

// Query heads that share a KV head turn with it: the source may be grouped-query attention.
TEST(Align, TurnsEveryReaderOfAHead) {
  Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 3, .biases = true}, 5);
  w.heads = HeadGrouping({2, 0, 1, 1, 0, 2}, 3);
  const RopeConfig rope{.layout = RopeLayout::half, .head_dim = 8, .theta = 50};
  const auto x = activations<double>(9, w.kv_inputs(), 6);
  const auto aligned = convert::align_heads(w, HeadGrouping::contiguous(3, 1), KeyBasis::rope(rope)).weights;
  EXPECT_LE(relative_distance(run_layer(aligned, x, rope), run_layer(w, x, rope)), 1e-12);
}

TEST(Align, BringsHeadsNoFurtherApart) {
  for (const std::uint64_t seed : seeds(5))
    for (const auto& position : positions()) {
      const Weights w = random_weights({.num_q_heads = 6, .num_kv_heads = 6}, seed);
      const auto grouping = HeadGrouping::contiguous(6, 2);
      const auto aligned = convert::align_heads(w, grouping, position.basis).weights;
      EXPECT_LT(distance_within(aligned, grouping), 0.9 * distance_within(w, grouping)) << position.name;
    }
}

// Turning each head to the others, one after another, ends at a local best. The one reached is the better of
// two, here found by angles alone: from no turns at all, which these seeds need and not (20), and from all
// turned to the head they can be turned to best, which they need (38) and which must be that head (62).
TEST(Align, EndsWhereTheBetterOfTwoBeginningsLeads) {
  const Index heads = 12, inputs = 4;
  using Complex = std::complex<double>;
  using Turns = std::vector<Complex>;
  const auto at = [](Index h) { return static_cast<std::size_t>(h); };
  for (const std::uint64_t seed : {1, 20, 38, 62}) {
    const Weights w = random_weights(
        {.num_q_heads = heads, .num_kv_heads = heads, .head_dim = 2, .value_dim = 2, .inputs = inputs}, seed);
    const auto product = [&](Index h, Index k) {  // of head h and the conjugate of head k
      Complex sum = 0;
      for (Index c = 0; c < inputs; ++c)
        sum += Complex(w.wk(2 * h, c), w.wk(2 * h + 1, c)) *
               std::conj(Complex(w.wk(2 * k, c), w.wk(2 * k + 1, c)));
      return sum;
    };
    const auto unit = [](Complex x) { return x / std::abs(x); };
    const auto climbed = [&](Turns turns) {
      for (int sweep = 0; sweep < 300; ++sweep)
        for (Index h = 0; h < heads; ++h) {
          Complex pull = 0;
          for (Index k = 0; k < heads; ++k)
            if (k != h) pull += turns[at(k)] * product(k, h);
          turns[at(h)] = unit(pull);
        }
      double sum = 0;
      for (Index h = 0; h < heads; ++h)
        for (Index k = 0; k < h; ++k)
          sum += std::real(turns[at(h)] * std::conj(turns[at(k)]) * product(h, k));
      return sum;
    };
    const auto all_turned_to = [&](Index r) {
      Turns turns(at(heads), 1);
      for (Index h = 0; h < heads; ++h)
        if (h != r) turns[at(h)] = unit(product(r, h));
      return turns;
    };
    std::vector<double> agreement(at(heads));
    for (Index r = 0; r < heads; ++r)
      for (Index h = 0; h < heads; ++h)
        if (h != r) agreement[at(r)] += std::abs(product(r, h));
    const auto reference = std::max_element(agreement.begin(), agreement.end()) - agreement.begin();
    const double from_none = climbed(Turns(at(heads), 1)), from_one = climbed(all_turned_to(reference));
    EXPECT_EQ(seed == 20, from_none > from_one + 1e-2);
    if (seed == 38) {
      EXPECT_GT(from_one, from_none + 1e-2);
    }
    if (seed == 62) {
      EXPECT_GT(from_one, std::max(from_none, climbed(all_turned_to(0))) + 1e-2);
    }

    const auto aligned =
        convert::align_heads(w, HeadGrouping::contiguous(heads, 1), KeyBasis::rope(RopeLayout::half, 2))
            .weights;
    double reached = 0, energy = 0;
    for (Index h = 0; h < heads; ++h)
      for (Index k = 0; k <= h; ++k)
        for (Index i = 0; i < 2; ++i)
          for (Index c = 0; c < inputs; ++c)
            (h == k ? energy : reached) += aligned.wk(2 * h + i, c) * aligned.wk(2 * k + i, c);
    EXPECT_NEAR(reached, std::max(from_none, from_one), 1e-5 * energy) << seed;
  }
}

// The nearest orthogonal matrix by what makes it that: R^T R = 1, and R^T m is symmetric with no eigenvalue
// below 0 (the polar decomposition is unique where m is regular). Condition numbers up to those that Newton's
// iteration turns away, and singular ones.
TEST(Align, NearestOrthogonalIsThePolarFactor) {
  using Algebra = convert::detail::Algebra<double>;
  Random random(12);
  for (const Index n : {1, 2, 7, 33})
    for (const double decay : {1.0, 1e-4, 1e-9, 1e-12, 1e-18, 0.0})
      for (const double size : {1.0, 1e-140, 1e140}) {
        const auto u = Algebra::symmetric_eigen(Algebra::product_transposed(random_matrix(random, n, n),
                                                                            random_matrix(random, n, n)))
                           .vectors;
        convert::Matrix scaled = random_matrix(random, n, n);
        for (Index i = 0; i < n; ++i)
          for (Index j = 0; j < n; ++j) scaled(i, j) *= size * (i == n - 1 ? decay : 1);
        const convert::Matrix m = Algebra::product(u, scaled);
        bool unique = false;
        const convert::Matrix r = Algebra::nearest_orthogonal(m, unique);
        SCOPED_TRACE(testing::Message() << n << " elements, " << decay << " of " << size);
        EXPECT_EQ(unique, decay >= 1e-12 || (n == 1 && decay > 0));
        convert::Matrix gram(n, n), p(n, n);
        Algebra::add_gram(r, gram);
        double largest = 0;
        for (Index i = 0; i < n; ++i)
          for (Index j = 0; j < n; ++j) {
            EXPECT_NEAR(gram(i, j), i == j ? 1 : 0, 1e-13 * static_cast<double>(n));
            for (Index k = 0; k < n; ++k) p(i, j) += r(k, i) * m(k, j) / size;
            largest = std::max(largest, std::abs(p(i, j)));
          }
        for (Index i = 0; i < n; ++i)
          for (Index j = 0; j < i; ++j)
            EXPECT_NEAR(p(i, j), p(j, i), 1e-13 * static_cast<double>(n) * largest);
        for (Index i = 0; i < n; ++i)
          for (Index j = 0; j < i; ++j) p(i, j) = p(j, i) = (p(i, j) + p(j, i)) / 2;
        EXPECT_GE(Algebra::symmetric_eigen(p).values.back(), -1e-13 * static_cast<double>(n) * largest);
      }
}

// A basis for the wrong layout would change scores: what the others leave alone is not left alone by these.
TEST(Align, KeepsRopeOnlyInItsOwnLayout) {
  const Weights w = random_weights({}, 7);
  const auto x = activations<double>(17, w.kv_inputs(), 8);
  const auto grouping = HeadGrouping::contiguous(4, 2);
  const RopeConfig half{.layout = RopeLayout::half, .head_dim = 8, .theta = 50};
  for (const KeyBasis& wrong : {KeyBasis::unrestricted(), KeyBasis::rope(RopeLayout::interleaved, 8),
                                KeyBasis::rope(RopeLayout::half, 4)})
    EXPECT_GT(relative_distance(run_layer(convert::align_heads(w, grouping, wrong).weights, x, half),
                                run_layer(w, x, half)),
              1e-3);
}

TEST(Align, FirstHeadsOfGroupsAndLonelyOnesKeepTheirBits) {
  const Weights w = random_weights({.biases = true}, 9);
  const auto aligned =
      convert::align_heads(w, HeadGrouping({0, 1, 0, 2}, 3), KeyBasis::unrestricted()).weights;
  for (const Index head : {0, 1, 3})
    for (Index i = 0; i < 8 * w.kv_inputs(); ++i)
      ASSERT_EQ(aligned.wk.row(head * 8)[i], w.wk.row(head * 8)[i]) << "head " << head;
  EXPECT_NE(aligned.wk(16, 0), w.wk(16, 0));
  EXPECT_NE(aligned.bk, w.bk);
}

// Pruned heads are zero: any rotation is as good, and the layer stays what it is.
TEST(Align, HeadsOfZeroAreToldAndDoNoHarm) {
  for (const auto& position : positions()) {
    Weights w = random_weights({}, 10);
    for (Index i = 0; i < 8; ++i)
      for (Index c = 0; c < w.kv_inputs(); ++c) w.wk(8 + i, c) = 0;
    const auto aligned = convert::align_heads(w, HeadGrouping::contiguous(4, 2), position.basis);
    EXPECT_EQ(aligned.ambiguous_keys, position.basis.is_fixed() ? 0 : 2) << position.name;
    EXPECT_EQ(aligned.ambiguous_values, 0) << position.name;
    const auto x = activations<double>(11, w.kv_inputs(), 11);
    EXPECT_LE(relative_distance(run_layer(aligned.weights, x, position.rope), run_layer(w, x, position.rope)),
              1e-12);
  }
}

// Fewer inputs than a head has elements: the products of heads are singular.
TEST(Align, HeadsOfLowRankAreToldAndDoNoHarm) {
  const Weights w = random_weights({.inputs = 5}, 12);
  const auto aligned = convert::align_heads(w, HeadGrouping::contiguous(4, 2), KeyBasis::unrestricted());
  EXPECT_EQ(aligned.ambiguous_keys, 4);
  EXPECT_EQ(aligned.ambiguous_values, 4);
  const auto x = activations<double>(11, w.kv_inputs(), 13);
  EXPECT_LE(relative_distance(run_layer(aligned.weights, x, {}), run_layer(w, x, {})), 1e-12);
}

TEST(Align, SaysWhatDoesNotFit) {
  const Weights w = random_weights({}, 14);
  const auto align = [&](const HeadGrouping& grouping, const KeyBasis& basis,
                         const Calibration* c = nullptr) {
    return message_of([&] { convert::align_heads(w, grouping, basis, c); });
  };
  const auto pairs = HeadGrouping::contiguous(4, 2);
  EXPECT_EQ(align(HeadGrouping::contiguous(6, 2), KeyBasis::fixed()),
            "grouping: heads is 6, expected the 4 KV heads of the weights");
  EXPECT_EQ(align(HeadGrouping({0, 0, 2, 2}, 3), KeyBasis::fixed()),
            "grouping: group 1 has no heads, expected at least 1");
  EXPECT_EQ(align(pairs, KeyBasis::rope(RopeLayout::half, 10)), "rope: rotary_dim is 10, expected at most 8");
  EXPECT_EQ(message_of([] { KeyBasis::rope(RopeLayout::half, 5); }),
            "rope: rotary_dim is 5, expected an even number of at least 2");
  const Calibration none(20), wide(21);
  EXPECT_EQ(align(pairs, KeyBasis::fixed(), &none), "activations: tokens is 0, expected at least 1");
  EXPECT_EQ(align(pairs, KeyBasis::fixed(), &wide),
            "activations: width is 21, expected 20, the inputs of keys and values");
  Weights huge = w;
  huge.wk(0, 0) = huge.wk(8, 0) = 1e200;
  EXPECT_EQ(message_of([&] { convert::align_heads(huge, pairs, KeyBasis::fixed()); }),
            "weights: products of heads: element (0, 0) is inf, expected a finite number");
}

}  // namespace
}  // namespace gqa::test
