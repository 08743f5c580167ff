// SPDX-License-Identifier: Apache-2.0
// The gradient over what attention() takes: packed and padded sequences, views and caches, fused and
// heads-first tensors, head maps. Each is the bits of plain tensors.
#include "attention/backward.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::GradientCase;
using test::Sizes;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }
constexpr Index H = 4, G = 2, D = 24, Dv = 16;

/// Sequences of different lengths, each alone.
struct Sequences {
  std::vector<GradientCase<float>> each;

  explicit Sequences(const std::vector<std::pair<Index, Index>>& lengths) {
    for (const auto& [Sq, Sk] : lengths) {
      each.emplace_back(Sizes{Sq, Sk, H, G, D, Dv}, 30 + each.size());
      each.back().run({.mask = causal()});
    }
  }
  std::vector<float> all(std::vector<float> GradientCase<float>::*part) const {
    std::vector<float> packed;
    for (const auto& c : each) packed.insert(packed.end(), (c.*part).begin(), (c.*part).end());
    return packed;
  }
  std::vector<float> inputs(std::vector<float> test::AttentionCase<float>::*part) const {
    std::vector<float> packed;
    for (const auto& c : each) packed.insert(packed.end(), (c.*part).begin(), (c.*part).end());
    return packed;
  }
};

TEST(BackwardLayouts, PackedSequencesAreEachItsOwn) {
  const Sequences s({{30, 70}, {0, 5}, {129, 129}, {4, 0}, {1, 200}});
  std::vector<Index> q_offsets{0}, kv_offsets{0};
  for (const auto& c : s.each) {
    q_offsets.push_back(q_offsets.back() + c.sizes.num_q_tokens);
    kv_offsets.push_back(kv_offsets.back() + c.sizes.num_kv_tokens);
  }
  const Index Sq = q_offsets.back(), Sk = kv_offsets.back();
  const auto q = s.inputs(&GradientCase<float>::q), k = s.inputs(&GradientCase<float>::k),
             v = s.inputs(&GradientCase<float>::v), d_out = s.all(&GradientCase<float>::d_out);
  std::vector<float> out(at(Sq * H * Dv)), lse(at(Sq * H)), dq(q.size(), 7), dk(k.size(), 7), dv(v.size(), 7);
  const TensorView<float> out_view(out.data(), Sq, H, Dv);
  const RowsView<float> lse_view{lse.data(), 1, Sq, H, Sq * H, H, 1};
  const auto rq = ragged(TensorView<const float>(q.data(), Sq, H, D), q_offsets);
  const auto rk = ragged(TensorView<const float>(k.data(), Sk, G, D), kv_offsets);
  const auto rv = ragged(TensorView<const float>(v.data(), Sk, G, Dv), kv_offsets);
  test::Threads threads(3);
  attention(threads, rq, rk, rv, out_view, causal(), LseOutput<float>{lse_view});
  attention_backward<H, G>(
      threads, rq, rk, rv, out_view, lse_view, TensorView<const float>(d_out.data(), Sq, H, Dv),
      gradients_into(TensorView<float>(dq.data(), Sq, H, D), TensorView<float>(dk.data(), Sk, G, D),
                     TensorView<float>(dv.data(), Sk, G, Dv)),
      causal());
  EXPECT_EQ(dq, s.all(&GradientCase<float>::dq));
  EXPECT_EQ(dk, s.all(&GradientCase<float>::dk));
  EXPECT_EQ(dv, s.all(&GradientCase<float>::dv));
}

TEST(BackwardLayouts, APaddedBatchIsEachSequenceAndZerosInThePadding) {
  const Index B = 3, width = 140, n = 20;
  const std::vector<Index> lengths{70, 140, 1};
  const auto q = test::random_values<float>(1, B * n * H * D),
             k = test::random_values<float>(2, B * width * G * D),
             v = test::random_values<float>(3, B * width * G * D),
             d_out = test::random_values<float>(4, B * n * H * D);
  for (bool left : {false, true}) {
    const TensorView<const float> k_view(k.data(), B, width, G, D), v_view(v.data(), B, width, G, D);
    const auto kv = left ? left_padded(k_view, v_view, lengths) : padded(k_view, v_view, lengths);
    std::vector<float> out(q.size()), lse(at(B * n * H)), dq(q.size(), 7), dk(k.size(), 7), dv(v.size(), 7);
    const RowsView<float> rows{lse.data(), B, n, H, n * H, H, 1};
    const TensorView<const float> q_view(q.data(), B, n, H, D);
    const TensorView<float> out_view(out.data(), B, n, H, D);
    attention(q_view, kv, out_view, causal(), LseOutput<float>{rows});
    attention_backward(
        q_view, kv, out_view, rows, TensorView<const float>(d_out.data(), B, n, H, D),
        gradients_into(TensorView<float>(dq.data(), B, n, H, D), TensorView<float>(dk.data(), B, width, G, D),
                       TensorView<float>(dv.data(), B, width, G, D)),
        causal());
    for (Index b = 0; b < B; ++b) {
      const Index length = lengths[at(b)], first = left ? width - length : 0;
      GradientCase<float> own({n, length, H, G, D}, 1);
      const auto cut = [](const std::vector<float>& x, Index begin, Index count) {
        return std::vector<float>(x.begin() + begin, x.begin() + begin + count);
      };
      own.q = cut(q, b * n * H * D, n * H * D);
      own.d_out = cut(d_out, b * n * H * D, n * H * D);
      own.k = cut(k, (b * width + first) * G * D, length * G * D);
      own.v = cut(v, (b * width + first) * G * D, length * G * D);
      own.run({.mask = causal()});
      // On the left, keys stand elsewhere in their tiles, and sums are taken in another order.
      for (std::size_t i = 0; i < own.dk.size(); ++i)
        ASSERT_NEAR(dk[at((b * width + first) * G * D) + i], own.dk[i], left ? 1e-5 : 0);
      for (std::size_t i = 0; i < own.dq.size(); ++i)
        ASSERT_NEAR(dq[at(b * n * H * D) + i], own.dq[i], left ? 1e-5 : 0);
      for (Index t = 0; t < width; ++t) {
        if (t < first || t >= first + length) {
          ASSERT_EQ(dk[at((b * width + t) * G * D)], 0);
          ASSERT_EQ(dv[at((b * width + t) * G * D + 5)], 0);
        }
      }
    }
  }
}

/// Keys in packed tiles of every type, pages and rings.
template <class T, class View>
void expect_view(GradientCase<T>& c, const View& view, Range positions, const AnyMask& mask,
                 const AnyMask& mask_of_tensors) {
  const Index Sq = c.sizes.num_q_tokens, Sk = positions.size();
  c.run({.mask = mask_of_tensors});
  std::vector<T> out(c.out.size());
  std::vector<Accumulator<T>> lse(c.lse.size()), dq(c.dq.size(), 7), dk(at(Sk * G * D), 7),
      dv(at(Sk * G * Dv), 7);
  const RowsView<Accumulator<T>> rows{lse.data(), 1, Sq, H, Sq * H, H, 1};
  const TensorView<T> out_view(out.data(), Sq, H, Dv);
  attention(c.q_view(), view, out_view, mask, LseOutput<Accumulator<T>>{rows});
  attention_backward(c.q_view(), view, out_view, rows, TensorView<const T>(c.d_out.data(), Sq, H, Dv),
                     gradients_into(TensorView<Accumulator<T>>(dq.data(), Sq, H, D),
                                    TensorView<Accumulator<T>>(dk.data(), Sk, G, D),
                                    TensorView<Accumulator<T>>(dv.data(), Sk, G, Dv)),
                     mask);
  EXPECT_EQ(dq, c.dq);
  for (Index i = 0; i < Sk * G * D; ++i) ASSERT_EQ(dk[at(i)], c.dk[at(positions.begin * G * D + i)]) << i;
  for (Index i = 0; i < Sk * G * Dv; ++i) ASSERT_EQ(dv[at(i)], c.dv[at(positions.begin * G * Dv + i)]) << i;
}

TEST(BackwardLayouts, ACacheIsItsKeys) {
  GradientCase<float> wide({40, 150, H, G, D, Dv}, 41);
  expect_view(wide, test::cache_of(wide).layer(0), {0, 150}, causal(), causal());
  GradientCase<bfloat16> pairs({40, 151, H, G, D, Dv}, 42);
  expect_view(pairs, test::cache_of(pairs).layer(0), {0, 151}, causal(), causal());
}

/// Keys of two ranges, in pieces of at most 5.
struct TwoRanges {
  using Scalar = float;
  const GradientCase<float>& c;
  Index num_seqs() const { return 1; }
  Index num_kv_heads() const { return G; }
  Index head_dim() const { return D; }
  Index value_dim() const { return Dv; }
  Index scratch_bytes() const { return 0; }
  Ranges retained(Index) const { return {Range{10, 30}, Range{200, 300}}; }
  KVTile tile(Index, Index kv_head, Range want, void*) const {
    return {.k = tile_side(c.k.data() + (want.begin * G + kv_head) * D, G * D),
            .v = tile_side(c.v.data() + (want.begin * G + kv_head) * Dv, G * Dv),
            .size = std::min<Index>(5, want.size()),
            .layout = TileLayout::token_major};
  }
};

/// A ring with sinks retains two ranges: dk begins at the first, and is 0 between them.
TEST(BackwardLayouts, WhatIsNotRetainedHasNoGradient) {
  GradientCase<float> c({20, 300, H, G, D, Dv}, 43);
  const TwoRanges view{c};
  const auto there =
      as_mask([](Index, Index kv_pos) { return (kv_pos >= 10 && kv_pos < 30) || kv_pos >= 200; });
  expect_view(c, view, {10, 300}, causal(), causal() & there);
  expect_view(c, view, {10, 300}, no_mask(), there);
}

TEST(BackwardLayouts, SlicesOfFusedTensorsAreWrittenInPlace) {
  const Index S = 70, width = (H + 2 * G) * D;
  GradientCase<float> c({S, S, H, G, D}, 44);
  c.run({.mask = causal()});
  std::vector<float> qkv(at(S * width)), d_qkv(qkv.size(), 7);
  const auto slice = [&](std::vector<float>& x, Index first, Index heads) {
    return TensorView<float>(x.data() + first * D, {1, S, heads, D}, {S * width, width, D});
  };
  for (Index t = 0; t < S; ++t) {
    std::copy_n(c.q.data() + t * H * D, H * D, qkv.data() + t * width);
    std::copy_n(c.k.data() + t * G * D, G * D, qkv.data() + t * width + H * D);
    std::copy_n(c.v.data() + t * G * D, G * D, qkv.data() + t * width + (H + G) * D);
  }
  attention_backward(
      slice(qkv, 0, H), slice(qkv, H, G), slice(qkv, H + G, G), TensorView<float>(c.out.data(), S, H, D),
      RowsView<float>{c.lse.data(), 1, S, H, S * H, H, 1}, TensorView<float>(c.d_out.data(), S, H, D),
      gradients_into(slice(d_qkv, 0, H), slice(d_qkv, H, G), slice(d_qkv, H + G, G)), causal());
  for (Index t = 0; t < S; ++t)
    for (Index i = 0; i < width; ++i) {
      const float own = i < H * D         ? c.dq[at(t * H * D + i)]
                        : i < (H + G) * D ? c.dk[at(t * G * D + i - H * D)]
                                          : c.dv[at(t * G * D + i - (H + G) * D)];
      ASSERT_EQ(d_qkv[at(t * width + i)], own) << t << ", " << i;
    }
}

TEST(BackwardLayouts, HeadMapsOfAnyGroups) {
  for (const auto& map : {std::vector<Index>{0, 2, 2, 0}, {1, 1, 1, 1}, {2, 1, 0, 2}}) {
    const HeadGrouping grouping(map, 3);
    GradientCase<float> c({33, 70, 4, 3, D}, 45);
    c.run({.mask = causal(), .grouping = &grouping});
    auto problem = c.gradient_problem();
    problem.forward.visible = test::visible_by(causal());
    problem.forward.kv_head_of = [&](Index h) { return map[at(h)]; };
    c.expect(problem, "map");
    for (Index g = 0; g < 3; ++g) {
      const bool read = std::find(map.begin(), map.end(), g) != map.end();
      for (Index j = 0; j < 70; ++j) ASSERT_EQ(c.dk[at((j * 3 + g) * D + 1)] != 0, read);
    }
  }
}

/// As in the README: Eigen tensors, and nothing but what is needed.
TEST(BackwardLayouts, EigenTensorsAndMaps) {
  GradientCase<float> c({7, 9, H, G, D}, 46);
  c.run();
  using Tensor = Eigen::Tensor<float, 3, Eigen::RowMajor>;
  const Tensor q = Eigen::TensorMap<Tensor>(c.q.data(), 7, H, D),
               k = Eigen::TensorMap<Tensor>(c.k.data(), 9, G, D),
               v = Eigen::TensorMap<Tensor>(c.v.data(), 9, G, D);
  const Tensor d_out = Eigen::TensorMap<Tensor>(c.d_out.data(), 7, H, D);
  Eigen::Tensor<float, 2, Eigen::RowMajor> lse(7, H);
  Tensor out(7, H, D), dq(7, H, D), dk(9, G, D), dv(9, G, D);
  attention(q, k, v, out, lse_into(lse));
  attention_backward(q, k, v, out, lse, d_out, gradients_into(dq, dk, dv));
  EXPECT_EQ(std::vector<float>(dq.data(), dq.data() + dq.size()), c.dq);
  EXPECT_EQ(std::vector<float>(dk.data(), dk.data() + dk.size()), c.dk);
  EXPECT_EQ(std::vector<float>(dv.data(), dv.data() + dv.size()), c.dv);
}

}  // namespace
}  // namespace gqa
