// SPDX-License-Identifier: Apache-2.0
// Views that hand keys out in other pieces, or decode them, change no bit; and are asked for nothing they do
// not owe.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <stdexcept>

#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::FunctionKV;
using test::How;
using test::Result;
using test::Sizes;

/// A view of the case's sizes, whose tiles are yet to be said.
template <class T>
FunctionKV<T> view_of(const AttentionCase<T>& c) {
  const Sizes& s = c.sizes;
  return {.kv_heads = s.num_kv_heads,
          .key_dim = s.head_dim,
          .values_dim = s.value_dim,
          .positions = {0, s.num_kv_tokens}};
}

/// Token-major rows of the case itself.
template <class T>
KVTile rows_of(const AttentionCase<T>& c, Index kv_head, Index begin, Index size) {
  return {.k = tile_side(c.k_view().at(0, begin, kv_head), c.k_view().token_stride),
          .v = tile_side(c.v_view().at(0, begin, kv_head), c.v_view().token_stride),
          .size = size,
          .layout = TileLayout::token_major};
}

/// A packed tile in memory of its own.
template <class T>
struct PackedCopy {
  std::vector<T> k, v;
  Index k_stride = 0, v_stride = 0;

  KVTile tile(const KVTile& original) const {
    return {.k = tile_side(k.data(), k_stride), .v = tile_side(v.data(), v_stride), .size = original.size};
  }
};
template <class T>
PackedCopy<T> packed_copy(const KVTile& tile, const Sizes& s) {
  constexpr Index E = element_group<T>;
  const Index keys = round_up(tile.size, simd::padding), dim = round_up(s.value_dim, simd::padding);
  PackedCopy<T> copy{{}, {}, keys * E, dim * E};
  for (Index d = 0; d < s.head_dim; d += E)
    copy.k.insert(copy.k.end(), tile.k.as<T>() + d / E * tile.k.stride,
                  tile.k.as<T>() + d / E * tile.k.stride + keys * E);
  for (Index j = 0; j < tile.size; j += E)
    copy.v.insert(copy.v.end(), tile.v.as<T>() + j / E * tile.v.stride,
                  tile.v.as<T>() + j / E * tile.v.stride + dim * E);
  return copy;
}

/// The end of the page that `want` begins in, or of `want`.
Index page_end(Range want, Index page) { return std::min(want.end, (want.begin / page + 1) * page); }

/// Tiles end at multiples of `page`.
template <class T>
FunctionKV<T> paged(const AttentionCase<T>& c, Index page) {
  auto view = view_of(c);
  view.read = [&c, page](Index, Index head, Range want, void*) {
    return rows_of(c, head, want.begin, page_end(want, page) - want.begin);
  };
  return view;
}

/// The same, copied into the scratch memory of each tile as a view that decodes would.
template <class T>
FunctionKV<T> decoded(const AttentionCase<T>& c, Index page) {
  auto view = view_of(c);
  const Index D = c.sizes.head_dim, Dv = c.sizes.value_dim;
  view.scratch = tile_keys * (D + Dv) * Index{sizeof(T)};
  view.read = [&c, page, D, Dv](Index, Index head, Range want, void* scratch) {
    EXPECT_NE(scratch, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(scratch) % 64, 0u);
    const Index size = page_end(want, page) - want.begin;
    T* k = static_cast<T*>(scratch);
    T* v = k + tile_keys * D;
    for (Index j = 0; j < size; ++j) {
      std::copy_n(c.k_view().at(0, want.begin + j, head), D, k + j * D);
      std::copy_n(c.v_view().at(0, want.begin + j, head), Dv, v + j * Dv);
    }
    return KVTile{
        .k = tile_side<T>(k, D), .v = tile_side<T>(v, Dv), .size = size, .layout = TileLayout::token_major};
  };
  return view;
}

template <class T>
class Views : public ::testing::Test {
 protected:
  static std::vector<Sizes> shapes() {
    return {{1, 600, 4, 2, 40, 16}, {3, 131, 8, 1, 33, 24}, {100, 600, 4, 2, 16, 40}, {70, 70, 2, 2, 64, 64}};
  }
  static Result<T> run(const AttentionCase<T>& c, const How& how, const FunctionKV<T>& view) {
    return test::run<T>(how, c.q_view(), c.sizes.value_dim, view);
  }
};
TYPED_TEST_SUITE(Views, test::AllScalars, test::ScalarNames);

TYPED_TEST(Views, PagesAreContiguous) {
  std::uint64_t seed = 1;
  for (const Sizes& sizes : this->shapes()) {
    const AttentionCase<TypeParam> c(sizes, seed++);
    for (const How& how : {How{.mask = causal()}, How{}, How{.mask = sliding_window(77)}}) {
      const auto expected = test::run(c, how);
      for (Index page : {64, 32, 16, 8, 2, 24, 10})
        EXPECT_TRUE(same(this->run(c, how, paged(c, page)), expected))
            << sizes.name() << ", pages of " << page;
    }
  }
}

TYPED_TEST(Views, OddPiecesAreContiguous) {
  std::uint64_t seed = 10;
  for (const Sizes& sizes : this->shapes()) {
    const AttentionCase<TypeParam> c(sizes, seed++);
    for (const How& how : {How{.mask = causal()}, How{}, How{.mask = sliding_window(77)}}) {
      const auto expected = test::run(c, how);
      for (Index page : {1, 3, 5, 7, 21, 33, 63})
        EXPECT_TRUE(same(this->run(c, how, paged(c, page)), expected))
            << sizes.name() << ", pages of " << page;
    }
  }
}

TYPED_TEST(Views, DecodedTilesAreContiguous) {
  std::uint64_t seed = 20;
  for (const Sizes& sizes : this->shapes()) {
    const AttentionCase<TypeParam> c(sizes, seed++);
    for (const How& how : {How{.mask = causal()}, How{}}) {
      const auto expected = test::run(c, how);
      for (Index page : {64, 16, 30})
        EXPECT_TRUE(same(this->run(c, how, decoded(c, page)), expected))
            << sizes.name() << ", pages of " << page;
    }
  }
}

TYPED_TEST(Views, PackedPiecesAreWholeTiles) {
  // A cache's tiles in pieces of 16, 32 and 48 keys, each piece in memory of its own: pages of a paged cache.
  using T = TypeParam;
  std::uint64_t seed = 30;
  for (const Sizes& sizes : this->shapes()) {
    const AttentionCase<T> c(sizes, seed++);
    const auto cache = test::cache_of(c);
    for (Index page : {16, 32, 48}) {
      std::map<std::array<Index, 3>, PackedCopy<T>> copies;
      auto view = view_of(c);
      view.read = [&](Index seq, Index head, Range want, void* scratch) {
        want.end = page_end({want.begin % tile_keys, want.end - want.begin + want.begin % tile_keys}, page) -
                   want.begin % tile_keys + want.begin;
        const KVTile tile = cache.layer(0).tile(seq, head, want, scratch);
        auto& copy = copies[{head, want.begin, want.end}];
        return copy.k.empty() ? (copy = packed_copy<T>(tile, c.sizes)).tile(tile) : copy.tile(tile);
      };
      for (const How& how : {How{.mask = causal()}, How{}}) {
        EXPECT_TRUE(same(this->run(c, how, view), test::run(c, how)))
            << sizes.name() << ", pieces of " << page;
      }
    }
  }
}

TYPED_TEST(Views, RetainedPositionsMayBeginAnywhere) {
  // As a ring would that has forgotten the oldest: the others keep their positions.
  using T = TypeParam;
  std::uint64_t seed = 40;
  for (Index first : {1, 63, 64, 65, 100, 511, 512, 555, 598, 599}) {
    for (Index Sq : {1, 40}) {
      AttentionCase<T> c(Sizes{Sq, 600, 4, 2, 24, 16}, seed++);
      auto view = paged(c, 64);
      view.positions = {first, 600};
      for (const Window mask : {causal(), no_mask(), sliding_window(300)}) {
        auto problem = test::problem_of(c, {.mask = mask});
        problem.visible = [=](Index, Index q_pos, Index kv_pos) {
          return kv_pos >= first && mask(q_pos, kv_pos);
        };
        const auto exact = reference::attention(problem);
        EXPECT_TRUE(test::within_bound(this->run(c, {.mask = mask}, view), problem, exact,
                                       test::naive_attention<T>(problem)))
            << "retained from " << first;
        // Forgotten tokens are not read, and the bits are those of a mask that leaves them out.
        AttentionCase<T> forgotten = c;
        std::fill(forgotten.k.begin(), forgotten.k.begin() + first * 2 * 24,
                  std::numeric_limits<T>::quiet_NaN());
        std::fill(forgotten.v.begin(), forgotten.v.begin() + first * 2 * 16,
                  std::numeric_limits<T>::quiet_NaN());
        auto of_forgotten = paged(forgotten, 64);
        of_forgotten.positions = view.positions;
        EXPECT_TRUE(
            same(this->run(c, {.mask = mask}, view), this->run(forgotten, {.mask = mask}, of_forgotten)))
            << "retained from " << first;
        if (Sq == 1) {
          EXPECT_TRUE(same(
              this->run(c, {.mask = mask}, view),
              test::run(c, {.mask = mask == sliding_window(300) ? window(std::min<Index>(299, 599 - first), 0)
                                                                : window(599 - first, 0)})))
              << "retained from " << first;
        }
      }
    }
  }
}

TYPED_TEST(Views, AreAskedForWhatTheyOweAndNoMore) {
  using T = TypeParam;
  test::Threads threads(3);
  for (std::uint64_t seed : test::seeds(20)) {
    test::Random random(seed);
    const AttentionCase<T> c(Sizes{random.integer(1, 80), random.integer(1, 1500), 4, 2, 16}, seed);
    const Index Sq = c.sizes.num_q_tokens, Sk = c.sizes.num_kv_tokens;
    const How how{.mask = random.flip() ? causal() : sliding_window(random.integer(1, 400)),
                  .q_offset = random.flip(0.3) ? std::optional<Index>(random.integer(-50, Sk)) : std::nullopt,
                  .threads = random.flip() ? &threads : nullptr};
    const Index first = how.q_offset.value_or(Sk - Sq);
    std::atomic<int> wrong{0};
    auto view = paged(c, 64);
    const auto read = view.read;
    view.read = [&](Index seq, Index head, Range want, void* scratch) {
      const bool owed = seq == 0 && head >= 0 && head < 2 && !want.empty() && want.begin >= 0 &&
                        want.end <= Sk && want.begin / tile_keys == (want.end - 1) / tile_keys &&
                        scratch == nullptr;
      if (!owed || how.mask.coverage({first, first + Sq}, want) == Coverage::none) ++wrong;
      return read(seq, head, want, scratch);
    };
    EXPECT_TRUE(same(this->run(c, how, view), test::run(c, {.mask = how.mask, .q_offset = how.q_offset})));
    EXPECT_EQ(wrong, 0) << "seed " << seed;
  }
}

TYPED_TEST(Views, ExceptionsOfAViewReachTheCaller) {
  using T = TypeParam;
  const AttentionCase<T> c(Sizes{1, 3000, 4, 2, 64}, 50);
  auto view = paged(c, 64);
  const auto read = view.read;
  view.read = [&](Index seq, Index head, Range want, void* scratch) {
    if (want.begin == 1024) throw std::out_of_range("page 16");
    return read(seq, head, want, scratch);
  };
  test::Threads threads(3);
  for (test::Threads* on : {static_cast<test::Threads*>(nullptr), &threads}) {
    EXPECT_THROW(this->run(c, {.threads = on}, view), std::out_of_range);
    EXPECT_NO_THROW(this->run(c, {.threads = on}, paged(c, 64)));
  }
}

/// What attention says of a view, on one thread and on several.
template <class T, class View>
void expect_refused(const AttentionCase<T>& c, const View& view, const std::string& message) {
  test::Threads threads(3);
  for (test::Threads* on : {static_cast<test::Threads*>(nullptr), &threads}) {
    std::string said = "nothing thrown";
    try {
      test::run<T>({.threads = on}, c.q_view(), c.sizes.value_dim, view);
    } catch (const std::invalid_argument& error) {
      said = error.what();
    }
    EXPECT_EQ(said, message);
  }
}

TYPED_TEST(Views, TilesThatCannotBeAreRefused) {
  using T = TypeParam;
  const AttentionCase<T> c(Sizes{2, 100, 2, 1, 16, 24}, 60);
  // `spoil` changes what a right view returns for the second tile.
  const auto expect = [&](auto spoil, const std::string& message) {
    auto view = paged(c, 64);
    const auto read = view.read;
    view.read = [=](Index seq, Index head, Range want, void* scratch) {
      auto tile = read(seq, head, want, scratch);
      if (want.begin >= 64) spoil(tile);
      return tile;
    };
    expect_refused(c, view, message);
  };
  constexpr Index most = std::numeric_limits<Index>::max();
  const auto of_size = [](Index size) { return [=](KVTile& tile) { tile.size = size; }; };
  const std::string wanted = ", expected 1 to 36 for the positions 64 to 100";
  expect(of_size(0), "tile: size is 0" + wanted);
  expect(of_size(-1), "tile: size is -1" + wanted);
  expect(of_size(37), "tile: size is 37" + wanted);
  expect(of_size(most), "tile: size is " + std::to_string(most) + wanted);
  expect([](KVTile& tile) { tile = {}; }, "tile: size is 0" + wanted);
  expect([](KVTile& tile) { tile.k.data = nullptr; },
         "tile: k is null, expected the 36 positions from 64 on");
  expect([](KVTile& tile) { tile.v.data = nullptr; },
         "tile: v is null, expected the 36 positions from 64 on");
  auto view = paged(c, 64);
  const auto read = view.read;
  view.read = [=](Index seq, Index head, Range want, void* scratch) {
    auto tile = read(seq, head, want, scratch);
    if (want.begin == 64) tile.size = 10;
    if (want.begin == 74) tile.layout = TileLayout::packed;
    return tile;
  };
  expect_refused(
      c, view,
      "tile: packed from position 74 on, expected a multiple of 16; return a longer tile before it, "
      "or token_major ones");
}

TYPED_TEST(Views, RangesAndSizesThatCannotBeAreRefused) {
  using T = TypeParam;
  const AttentionCase<T> c(Sizes{2, 100, 2, 1, 16, 24}, 61);
  constexpr Index most = std::numeric_limits<Index>::max();
  const auto message = [](const std::string& range) {
    return "retained: positions " + range + " of sequence 0, expected a range within 0 to " +
           std::to_string(max_position);
  };
  auto view = paged(c, 64);
  view.positions = {-5, 100};
  expect_refused(c, view, message("-5 to 100"));
  view.positions = {10, 5};
  expect_refused(c, view, message("10 to 5"));
  view.positions = {0, most};
  expect_refused(c, view, message("0 to " + std::to_string(most)));
  view.positions = {0, 100};
  view.scratch = -64;
  expect_refused(c, view, "scratch_bytes is -64, expected at least 0");
  view.scratch = most;
  EXPECT_THROW(test::run<T>({}, c.q_view(), c.sizes.value_dim, view), std::length_error);
}

}  // namespace
}  // namespace gqa
