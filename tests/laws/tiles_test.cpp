// SPDX-License-Identifier: Apache-2.0
// Tiles whose sides differ in format, that carry scales, or of which a view retains a few ranges: the bits of
// plain keys and values that say the same.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gqa/gqa.hpp"
#include "support/attention_case.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;

/// A view made of functions.
template <class T>
struct Tiles {
  using Scalar = T;
  Index heads, dim, values_dim;
  Ranges kept;
  std::function<KVTile(Index head, Range want)> read;

  Index num_seqs() const { return 1; }
  Index num_kv_heads() const { return heads; }
  Index head_dim() const { return dim; }
  Index value_dim() const { return values_dim; }
  Index scratch_bytes() const { return 0; }
  Ranges retained(Index) const { return kept; }
  KVTile tile(Index, Index head, Range want, void*) const { return read(head, want); }
};

template <class T>
struct Rows {
  std::vector<T> elements;
  Index heads, dim;
  TensorView<const T> view() const {
    return {elements.data(), static_cast<Index>(elements.size()) / (heads * dim), heads, dim};
  }
};
template <class T>
Rows<T> random_rows(std::uint64_t seed, Index tokens, Index heads, Index dim) {
  return {test::random_values<T>(seed, tokens * heads * dim), heads, dim};
}
template <class T>
Rows<float> as_float(const Rows<T>& rows) {
  Rows<float> wide{{}, rows.heads, rows.dim};
  for (const T x : rows.elements) wide.elements.push_back(static_cast<float>(x));
  return wide;
}

constexpr Index n = 1300, G = 2, D = 40, Dv = 24;

template <class Q, class KV, class... X>
std::vector<float> run(const Q& q, const KV& kv, const X&... extras) {
  const auto out = attention(q, kv, extras...);
  return {out.data(), out.data() + out.size()};
}

/// Both layouts, few rows and many, and masks that cut tiles.
template <class KV, class Plain>
void expect_same(const KV& kv, const Plain& plain) {
  for (const Index tokens : {1, 7, 80}) {
    const auto q = random_rows<float>(3, tokens, 6, D);
    EXPECT_EQ(run(q.view(), kv), run(q.view(), plain)) << tokens;
    EXPECT_EQ(run(q.view(), kv, causal()), run(q.view(), plain, causal())) << tokens;
    EXPECT_EQ(run(q.view(), kv, sinks(3) | sliding_window(77)),
              run(q.view(), plain, sinks(3) | sliding_window(77)))
        << tokens;
  }
}

/// Keys [head][tile][dim][64] and values [head][token][dim padded], of which `behind` is what stands behind a
/// value's dims.
TEST(TileFormats, WhatStandsBehindAValueIsNoPartOfIt) {
  constexpr Index padded = round_up(Dv, simd::padding), tokens = round_up(n, 64);
  const auto k = random_rows<float>(1, n, G, D), v = random_rows<float>(2, n, G, Dv);
  const auto packed = [&](float behind) {
    std::vector<float> keys(G * tokens * D), values(G * tokens * padded, behind);
    for (Index head = 0; head < G; ++head)
      for (Index j = 0; j < n; ++j) {
        for (Index d = 0; d < D; ++d)
          keys[static_cast<std::size_t>((head * tokens + j / 64 * 64) * D + d * 64 + j % 64)] =
              k.view().at(0, j, head)[d];
        std::copy_n(v.view().at(0, j, head), Dv,
                    &values[static_cast<std::size_t>(head * tokens + j) * padded]);
      }
    return Tiles<float>{
        G, D, Dv, Range{0, n}, [=](Index head, Range want) {
          const Index at = head * tokens + want.begin;
          return KVTile{
              .k = tile_side(&keys[static_cast<std::size_t>((at - want.begin % 64) * D + want.begin % 64)],
                             64),
              .v = tile_side(&values[static_cast<std::size_t>(at * padded)], padded),
              .size = want.size()};
        }};
  };
  for (const float behind :
       {1e38f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    expect_same(packed(behind), packed(0));
}

// Sums of a row that overflow in its last dims alone, those past whole vectors, are taken again as any are.
TEST(TileFormats, LastDimsMayOverflowToo) {
  const auto k = random_rows<float>(1, n, G, D);
  auto v = random_rows<float>(2, n, G, Dv);
  constexpr float large = 3e38f;
  for (std::size_t i = Dv - 1; i < v.elements.size(); i += Dv) v.elements[i] = large;
  const auto q = random_rows<float>(3, 7, 6, D);
  const auto out = attention(q.view(), k.view(), v.view());
  for (Index t = 0; t < 7; ++t)
    for (Index h = 0; h < 6; ++h) EXPECT_NEAR(out(0, t, h, Dv - 1) / large, 1, 1e-5);
}

TEST(TileFormats, KeysAndValuesMayDiffer) {
  const auto k = random_rows<half>(1, n, G, D);
  const auto v = random_rows<bfloat16>(2, n, G, Dv);
  const auto wide_k = as_float(k), wide_v = as_float(v);
  const ContiguousKV<float> plain(wide_k.view(), wide_v.view());
  const Tiles<float> token_major{G, D, Dv, Range{0, n}, [&](Index head, Range want) {
                                   return KVTile{.k = tile_side(k.view().at(0, want.begin, head), G * D),
                                                 .v = tile_side(v.view().at(0, want.begin, head), G * Dv),
                                                 .size = want.size(),
                                                 .layout = TileLayout::token_major};
                                 }};
  expect_same(token_major, plain);

  KVCache<half> keys({.max_tokens = n, .num_kv_heads = G, .head_dim = D});
  KVCache<bfloat16> values({.max_tokens = n, .num_kv_heads = G, .head_dim = Dv});
  keys.append(k.view(), k.view());
  values.append(v.view(), v.view());
  const auto of_keys = keys.layer(0);
  const auto of_values = values.layer(0);
  const Tiles<float> packed{G, D, Dv, Range{0, n}, [&](Index head, Range want) {
                              auto tile = of_keys.tile(0, head, want, nullptr);
                              tile.v = of_values.tile(0, head, want, nullptr).v;
                              return tile;
                            }};
  expect_same(packed, plain);
}

TEST(TileFormats, ScalesMultiplyTheElements) {
  const auto k = random_rows<half>(4, n, G, D);
  const auto v = random_rows<half>(5, n, G, Dv);
  const auto of_token = test::random_values<float>(6, n), of_dim = test::random_values<float>(7, D);
  Rows<float> scaled_k = as_float(k), scaled_v = as_float(v);
  for (Index j = 0; j < n; ++j)
    for (Index head = 0; head < G; ++head) {
      const auto token = of_token[static_cast<std::size_t>(j)];
      for (Index d = 0; d < D; ++d) {
        float& x = scaled_k.elements[static_cast<std::size_t>((j * G + head) * D + d)];
        x = x * of_dim[static_cast<std::size_t>(d)] * token;
      }
      for (Index c = 0; c < Dv; ++c) {
        float& x = scaled_v.elements[static_cast<std::size_t>((j * G + head) * Dv + c)];
        x = x * token * of_dim[static_cast<std::size_t>(c)];
      }
    }
  const ContiguousKV<float> plain(scaled_k.view(), scaled_v.view());
  KVCache<half> cache({.max_tokens = n, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
  cache.append(k.view(), v.view());
  const auto layer = cache.layer(0);
  for (const bool packed : {false, true}) {
    // In pieces of at most 50 tokens where they are rows.
    const Tiles<float> tiles{G, D, Dv, Range{0, n}, [&](Index head, Range want) {
                               if (!packed) want.end = std::min(want.end, want.begin + 50);
                               KVTile tile = layer.tile(0, head, want, nullptr);
                               if (!packed)
                                 tile = {.k = tile_side(k.view().at(0, want.begin, head), G * D),
                                         .v = tile_side(v.view().at(0, want.begin, head), G * Dv),
                                         .size = want.size(),
                                         .layout = TileLayout::token_major};
                               tile.k.depth_scale = tile.v.column_scale = of_dim.data();
                               tile.k.column_scale = tile.v.depth_scale = of_token.data() + want.begin;
                               return tile;
                             }};
    expect_same(tiles, plain);
  }
}

TEST(TileFormats, WhatAViewDoesNotPromiseIsRefused) {
  const auto k = random_rows<half>(1, n, G, D);
  const auto other = random_rows<bfloat16>(1, n, G, D);
  const std::vector<float> ones(n, 1.0f);
  const auto q = random_rows<float>(3, 1, 2, D);
  const auto refused = [&](auto scalar, auto spoil) {
    const Tiles<decltype(scalar)> tiles{
        G, D, D, Range{0, n}, [&](Index head, Range want) {
          const TileSide side = tile_side(k.view().at(0, want.begin, head), G * D);
          KVTile tile{.k = side, .v = side, .size = want.size(), .layout = TileLayout::token_major};
          spoil(tile);
          return tile;
        }};
    return test::message_of([&] { attention(q.view(), tiles); });
  };
  EXPECT_EQ(refused(half{}, [&](KVTile& t) { t.v.format = &simd::format<bfloat16>; }),
            "tile: v holds bf16, expected f16; a view of several formats has float as its Scalar");
  EXPECT_EQ(refused(half{}, [&](KVTile& t) { t.k.depth_scale = ones.data(); }),
            "tile: k has scales; a view of scaled tiles has float or double as its Scalar");
  EXPECT_EQ(refused(float{}, [&](KVTile& t) { t.k.format = &simd::format<double>; }),
            "tile: k holds f64, expected what is summed in float");
  EXPECT_EQ(refused(float{}, [&](KVTile& t) { t.v.format = nullptr; }),
            "tile: v has no format, expected that of its elements");
}

template <class T>
class RetainedRanges : public ::testing::Test {};
using Scalars = ::testing::Types<float, bfloat16, double>;
TYPED_TEST_SUITE(RetainedRanges, Scalars);

TYPED_TEST(RetainedRanges, AreWhatAMaskWouldLetBeSeen) {
  using T = TypeParam;
  const AttentionCase<T> c(Sizes{70, 20000, 4, 2, 24, 40}, 8);
  const auto k = c.k_view(), v = c.v_view();
  for (const Ranges& kept :
       {Ranges{{0, 4}, {15000, 20000}}, Ranges{{0, 3}, {5, 31}, {37, 900}, {19900, 20000}},
        Ranges{{7, 20000}}, Ranges{{0, 64}, {64, 700}, {19999, 20000}}, Ranges{{0, 0}, {0, 20000}}}) {
    const Tiles<T> tiles{2, 24, 40, kept, [&](Index head, Range want) {
                           return KVTile{.k = tile_side(k.at(0, want.begin, head), k.token_stride),
                                         .v = tile_side(v.at(0, want.begin, head), v.token_stride),
                                         .size = want.size(),
                                         .layout = TileLayout::token_major};
                         }};
    const auto in = mask_fn([&](Index, Index j) {
      for (const Range r : kept)
        if (r.contains(j)) return true;
      return false;
    });
    Eigen::ThreadPool pool(2);
    const auto expect = [&](const auto& mask) {
      const auto seen = attention(c.q_view(), tiles, mask);
      const auto masked = attention(c.q_view(), k, v, mask & in);
      const auto last = attention(pool, c.q_view(), tiles, mask);
      for (Index i = 0; i < seen.size(); ++i) {
        ASSERT_EQ(seen.data()[i], masked.data()[i]) << i;
        ASSERT_EQ(seen.data()[i], last.data()[i]) << i;
      }
    };
    expect(no_mask());
    expect(causal());
    expect(sinks(2) | sliding_window(3000));
  }
}

TEST(RetainedRangesCall, ThatOverlapOrFallAreRefused) {
  const auto k = random_rows<float>(1, 10, 1, 8);
  const auto refused = [&](const Ranges& kept) {
    const Tiles<float> tiles{1, 8, 8, kept, {}};
    return test::message_of([&] { attention(k.view(), tiles); });
  };
  const std::string most = std::to_string(max_position);
  EXPECT_EQ(refused({{0, 5}, {4, 9}}),
            "retained: positions 4 to 9 of sequence 0, expected a range within 5 to " + most);
  EXPECT_EQ(refused({{5, 9}, {0, 2}}),
            "retained: positions 0 to 2 of sequence 0, expected a range within 9 to " + most);
  EXPECT_EQ(refused(Range{-1, 2}),
            "retained: positions -1 to 2 of sequence 0, expected a range within 0 to " + most);
}

}  // namespace
}  // namespace gqa
