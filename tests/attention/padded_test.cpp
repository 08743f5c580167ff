// SPDX-License-Identifier: Apache-2.0
// Padded batches: each sequence is what it would be alone, whatever stands in the padding.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr std::size_t at(Index i) { return static_cast<std::size_t>(i); }

template <class T>
class Padded : public ::testing::Test {
 protected:
  static constexpr Index H = 4, G = 2, D = 24, width = 140;
  const std::vector<Index> lengths{70, 0, 140, 1, 129};
  const Index B = std::ssize(lengths);

  // Padding is NaN: it must not be looked at.
  std::vector<T> k, v;

  void fill(bool left) {
    k = test::random_values<T>(1, B * width * G * D);
    v = test::random_values<T>(2, B * width * G * D);
    for (Index b = 0; b < B; ++b)
      for (Index t = 0; t < width; ++t)
        if (left ? t < width - lengths[at(b)] : t >= lengths[at(b)])
          for (Index i = 0; i < G * D; ++i)
            k[at((b * width + t) * G * D + i)] = v[at((b * width + t) * G * D + i)] =
                std::numeric_limits<T>::quiet_NaN();
  }
  TensorView<const T> view(const std::vector<T>& x) const { return {x.data(), B, width, G, D}; }
  /// Its tokens alone.
  TensorView<const T> alone(const std::vector<T>& x, Index b, bool left) const {
    return {x.data() + (b * width + (left ? width - lengths[at(b)] : 0)) * G * D, lengths[at(b)], G, D};
  }

  /// Attention of a batch, and of each of its sequences alone with `extras(sequence)`.
  template <class KV, class Extras, class Options>
  void expect_alone(const KV& kv, Index n, bool left, Extras extras, Options options) {
    const auto q = test::random_values<T>(3, B * n * H * D);
    std::vector<T> out(q.size(), T(7)), own(q.size(), T(7));
    std::vector<Accumulator<T>> lse(at(B * n * H)), own_lse(lse);
    attention(TensorView<const T>(q.data(), B, n, H, D), kv, TensorView<T>(out.data(), B, n, H, D),
              extras(Index{-1}), options(Index{-1}),
              LseOutput<Accumulator<T>>{{lse.data(), B, n, H, n * H, H, 1}});
    for (Index b = 0; b < B; ++b) {
      const Index first = b * n * H * D;
      attention(TensorView<const T>(q.data() + first, n, H, D), alone(k, b, left), alone(v, b, left),
                TensorView<T>(own.data() + first, n, H, D), extras(b), options(b),
                LseOutput<Accumulator<T>>{{own_lse.data() + b * n * H, 1, n, H, n * H, H, 1}});
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      ASSERT_EQ(static_cast<double>(out[i]), static_cast<double>(own[i])) << i << ", n " << n;
    EXPECT_EQ(lse, own_lse) << n;
  }
};
using SomeScalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(Padded, SomeScalars, test::ScalarNames);

TYPED_TEST(Padded, OnTheRight) {
  this->fill(false);
  const auto kv = padded(this->view(this->k), this->view(this->v), this->lengths);
  for (const Index n : {1, 3}) {
    this->expect_alone(
        kv, n, false, [](Index) { return causal(); }, [](Index) { return AttentionOptions{}; });
    this->expect_alone(
        kv, n, false, [](Index) { return sliding_window(40); },
        [](Index) { return AttentionOptions{.scale = 0.3}; });
  }
  // A prefill of the whole width: query i is at position i, the last ones see all keys and belong to padding.
  this->expect_alone(
      kv, this->width, false, [](Index) { return causal(); },
      [](Index) { return AttentionOptions{.q_offset = 0}; });
}

TYPED_TEST(Padded, OnTheLeft) {
  this->fill(true);
  const auto kv = left_padded(this->view(this->k), this->view(this->v), this->lengths);
  for (const Index n : {Index{1}, Index{3}, this->width})
    this->expect_alone(
        kv, n, true, [](Index) { return causal(); }, [](Index) { return AttentionOptions{}; });
}

TYPED_TEST(Padded, AnOffsetForEachSequence) {
  this->fill(false);
  const auto kv = padded(this->view(this->k), this->view(this->v), this->lengths);
  const std::vector<Index> offsets{3, 0, 77, -1, 128};
  this->expect_alone(
      kv, 2, false, [](Index) { return causal(); },
      [&](Index b) {
        return b < 0 ? AttentionOptions{.q_offsets = offsets} : AttentionOptions{.q_offset = offsets[at(b)]};
      });
}

TYPED_TEST(Padded, MasksAndBiasesWhoseRowsFollowEachSequencesQueries) {
  using T = TypeParam;
  this->fill(false);
  const Index n = 3, seqs = this->B, columns = this->width;
  const auto kv = padded(this->view(this->k), this->view(this->v), this->lengths);
  std::vector<char> random(at(seqs * n * columns));
  test::Random source(5);
  for (char& x : random) x = source.flip();
  const auto bias = test::random_values<float>(6, seqs * n * columns);
  const auto allowed = [&](Index b) {
    return ScoreTensor<bool>(
        reinterpret_cast<const bool*>(random.data()) + std::max<Index>(b, 0) * n * columns,
        {b < 0 ? seqs : 1, 1, n, b < 0 ? columns : this->lengths[at(b)]}, {n * columns, 0, columns});
  };
  const auto biases = [&](Index b) {
    return ScoreTensor<float>(bias.data() + std::max<Index>(b, 0) * n * columns,
                              {b < 0 ? seqs : 1, 1, n, b < 0 ? columns : this->lengths[at(b)]},
                              {n * columns, 0, columns});
  };
  const auto no_options = [](Index) { return AttentionOptions{}; };
  this->expect_alone(
      kv, n, false, [&](Index b) { return tensor_mask(allowed(b)); }, no_options);
  this->expect_alone(
      kv, n, false, [&](Index b) { return AnyMask(tensor_mask(allowed(b)) & causal()); }, no_options);
  if constexpr (std::is_same_v<T, float>)
    this->expect_alone(
        kv, n, false, [&](Index b) { return tensor_bias(biases(b)); }, no_options);
}

TEST(PaddedKV, RefusesWhatDoesNotFit) {
  std::vector<float> x(at(3 * 10 * 2 * 8), 1.0f), out(at(3 * 2 * 4 * 8));
  const TensorView<const float> kv(x.data(), 3, 10, 2, 8), q(x.data(), 3, 2, 4, 8);
  const TensorView<float> o(out.data(), 3, 2, 4, 8);
  const std::vector<Index> two{1, 2}, long_one{1, 11, 3}, negative{1, -1, 3}, good{1, 10, 3};
  EXPECT_EQ(message_of([&] { padded(kv, kv, two); }),
            "padded: 2 lengths, expected one for each of the 3 sequences of k");
  EXPECT_EQ(message_of([&] { padded(kv, kv, long_one); }),
            "padded: sequence 1 has tokens 0 to 11, expected a range within 0 to the 10 tokens of k");
  EXPECT_EQ(message_of([&] { padded(kv, kv, negative); }),
            "padded: sequence 1 has tokens 0 to -1, expected a range within 0 to the 10 tokens of k");
  EXPECT_EQ(message_of([&] { left_padded(kv, kv, long_one); }),
            "padded: a length is 11, expected 0 to the 10 tokens of k");
  const auto view = padded(kv, kv, good);
  EXPECT_EQ(message_of([&] { attention(q, view, o, AttentionOptions{.q_offsets = two}); }),
            "q_offsets: size is 2, expected one for each of the 3 sequences");
  EXPECT_EQ(message_of([&] { attention(q, view, o, AttentionOptions{.q_offset = 1, .q_offsets = good}); }),
            "q_offset and q_offsets: both given, expected one of them");
  const std::vector<float> bias(at(3 * 2 * 11));
  EXPECT_EQ(message_of([&] {
              attention(q, view, o, tensor_bias(ScoreTensor<float>(bias.data(), {3, 1, 2, 11})));
            }),
            "bias tensor: keys is 11, expected 10 or 1");
  EXPECT_EQ(message_of([&] {
              attention(q, view, o, tensor_bias(ScoreTensor<float>(bias.data(), {3, 1, 2, 9})));
            }),
            "bias tensor: keys is 9, expected 10 or 1");
  EXPECT_EQ(message_of([&] {
              attention(q, view, o, tensor_bias(ScoreTensor<float>(bias.data(), {3, 1, 3, 10})));
            }),
            "bias tensor: queries is 3, expected 2 or 1");
}

}  // namespace
}  // namespace gqa
