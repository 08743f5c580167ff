// SPDX-License-Identifier: Apache-2.0
// What one member of the family saved, another one restores, where it can hold that.
#include <gtest/gtest.h>

#include <array>

#include "gqa/attention.hpp"
#include "gqa/kv/file.hpp"
#include "gqa/kv/hybrid.hpp"
#include "gqa/kv/paged.hpp"
#include "gqa/kv/ring.hpp"
#include "gqa/mask.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::Folder;
using test::message_of;
using test::random_values;

constexpr Index layers = 2, heads = 3, dim = 24, value_dim = 17;

template <class T>
class FileMembers : public ::testing::Test {
 protected:
  /// Appends n tokens, the same ones wherever they are the same positions.
  template <class C>
  static void go_on(C& cache, Index n) {
    while (n > 0) {
      const Index some = std::min<Index>(n, 50);
      const Span span = cache.extend(some);
      for (Index layer = 0; layer < layers; ++layer) {
        const auto seed = static_cast<std::uint64_t>(2 * layer + 10);
        const auto k = random_values<T>(seed, span.positions.end * heads * dim);
        const auto v = random_values<T>(seed + 1, span.positions.end * heads * value_dim);
        cache.write(
            layer, span, TensorView<const T>(k.data() + span.positions.begin * heads * dim, some, heads, dim),
            TensorView<const T>(v.data() + span.positions.begin * heads * value_dim, some, heads, value_dim));
      }
      n -= some;
    }
  }

  /// The bits of attention of a step in every layer.
  template <class C, class Mask>
  static std::vector<T> attend(const C& cache, const Mask& mask) {
    std::vector<T> all;
    const auto q = random_values<T>(5, 2 * heads * dim);
    for (Index layer = 0; layer < layers; ++layer) {
      std::vector<T> out(static_cast<std::size_t>(2 * heads * value_dim));
      attention(TensorView<const T>(q.data(), 1, 2 * heads, dim), cache.layer(layer),
                TensorView<T>(out.data(), 1, 2 * heads, value_dim), mask);
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  }
  static bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  }

  static KVCache<T> contiguous() {
    return KVCache<T>({.max_tokens = 2000,
                       .num_layers = layers,
                       .num_kv_heads = heads,
                       .head_dim = dim,
                       .value_dim = value_dim});
  }
  static PagedCache<T> paged(Index pages) {
    return PagedCache<T>({.num_pages = pages,
                          .num_layers = layers,
                          .num_kv_heads = heads,
                          .head_dim = dim,
                          .value_dim = value_dim});
  }
  static RingCache<T> ring(Index window = 100, Index sinks = 5, Index max_span = 50) {
    return RingCache<T>({.window = window,
                         .sinks = sinks,
                         .max_span = max_span,
                         .rollback = 10,
                         .num_layers = layers,
                         .num_kv_heads = heads,
                         .head_dim = dim,
                         .value_dim = value_dim});
  }
  static HybridCache<T> hybrid() {
    return HybridCache<T>({.max_tokens = 2000,
                           .max_span = 50,
                           .layers = {{heads, dim, value_dim}, {heads, dim, value_dim, 100, 5}}});
  }

  Folder folder_;
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(FileMembers, Scalars);

TYPED_TEST(FileMembers, PagesAndOnePieceAreTheSameFile) {
  const auto path = this->folder_ / "a", other = this->folder_ / "b";
  auto cache = this->contiguous();
  this->go_on(cache, 333);
  save(cache, path);
  auto pool = this->paged(7);
  auto sequence = pool.sequence(pool.create());
  this->go_on(sequence, 333);
  save(sequence, other);
  EXPECT_EQ(test::read_bytes(path), test::read_bytes(other));

  auto second = pool.sequence(pool.create());
  EXPECT_EQ(message_of<std::length_error>([&] { restore(second, path); }),
            "restore: 6 pages needed, 1 of 7 are free");
  EXPECT_EQ(pool.statistics().free, 1);
  pool.free(sequence.id());
  restore(second, path);
  EXPECT_EQ(pool.statistics().free, 1);
  auto back = this->contiguous();
  restore(back, other);
  for (auto* each : {&cache, &back}) this->go_on(*each, 7);
  this->go_on(second, 7);
  EXPECT_TRUE(this->same(this->attend(second, causal()), this->attend(cache, causal())));
  EXPECT_TRUE(this->same(this->attend(back, causal()), this->attend(cache, causal())));
}

/// A sequence swapped to a file: saved, its pages given to others, restored.
TYPED_TEST(FileMembers, ASequenceComesBackToItsPlace) {
  const auto path = this->folder_ / "a";
  auto pool = this->paged(8);
  auto sequence = pool.sequence(pool.create());
  this->go_on(sequence, 200);
  const auto expected = this->attend(sequence, causal());
  save(sequence, path);
  const auto view = sequence.layer(0);
  sequence.clear();
  EXPECT_EQ(pool.statistics().free, 8);
  restore(sequence, path);
  EXPECT_EQ(pool.statistics().used, 4);
  EXPECT_TRUE(this->same(this->attend(sequence, causal()), expected));
  EXPECT_THROW(view.retained(0), std::invalid_argument);
  restore(sequence, path);  // over what it holds: for a moment it takes both
  EXPECT_EQ(pool.statistics().used, 4);
  const SequenceId child = pool.fork(sequence.id());
  restore(sequence, path);
  EXPECT_EQ(pool.statistics().used, 8);
  EXPECT_TRUE(this->same(this->attend(pool.sequence(child), causal()), expected));
}

TYPED_TEST(FileMembers, RingsKeepWhatTheyKept) {
  const auto path = this->folder_ / "a";
  const auto mask = causal() & (sinks(5) | sliding_window(100));
  for (const Index tokens : {3, 64, 150, 200, 700, 701}) {
    auto cache = this->ring();
    this->go_on(cache, tokens);
    if (tokens == 701) cache.truncate(692);
    save(cache, path);
    auto back = this->ring();
    this->go_on(back, 77);
    restore(back, path);
    EXPECT_EQ(back.size(), cache.size());
    EXPECT_EQ(back.layer(1).retained(0), cache.layer(1).retained(0));
    EXPECT_EQ(back.oldest_truncation(), cache.oldest_truncation());
    this->go_on(cache, 60);
    this->go_on(back, 60);
    EXPECT_TRUE(this->same(this->attend(back, mask), this->attend(cache, mask))) << tokens;
  }
  // Of 692 tokens, the first 5 and those from 448 on.
  for (const auto& [window, sinks, max_span] : {std::array<Index, 3>{300, 5, 50},  // would miss tokens
                                                std::array<Index, 3>{100, 4, 50},  // has other sinks
                                                std::array<Index, 3>{100, 5, 1},   // has no room for as many
                                                std::array<Index, 3>{10, 0, 1}}) {
    auto other = this->ring(window, sinks, max_span);
    this->go_on(other, 1);
    // Where it was not refused at once, tiles would overwrite each other and a checksum differ.
    const std::string said = message_of<format_error>([&] { restore(other, path); });
    EXPECT_NE(said.find("which this cache does not"), std::string::npos) << said;
    EXPECT_EQ(other.size(), 1);
  }
  auto other = this->ring(200);  // finds all that it needs
  restore(other, path);
  EXPECT_EQ(other.oldest_truncation(), 448 + 199);
  auto whole = this->contiguous();
  this->go_on(whole, 3);
  EXPECT_THROW(restore(whole, path), format_error);
  EXPECT_EQ(whole.size(), 3);
}

TYPED_TEST(FileMembers, ARingComesBackWithinItsLimit) {
  using T = TypeParam;
  const auto path = this->folder_ / "a";
  auto cache = this->ring();
  this->go_on(cache, 10);
  save(cache, path);
  const Index bytes = cache.allocated_bytes();
  for (const Index limit : {bytes - 1, bytes}) {
    RingCache<T> back({.window = 100,
                       .sinks = 5,
                       .max_span = 50,
                       .rollback = 10,
                       .num_layers = layers,
                       .num_kv_heads = heads,
                       .head_dim = dim,
                       .value_dim = value_dim,
                       .memory_limit = limit});
    EXPECT_EQ(message_of<std::length_error>([&] { restore(back, path); }),
              limit == bytes ? "nothing thrown"
                             : "restore: the cache would take " + std::to_string(bytes) +
                                   " bytes, more than the memory_limit of " + std::to_string(limit));
    EXPECT_EQ(back.size(), limit == bytes ? 10 : 0);
  }
}

TYPED_TEST(FileMembers, HybridsKeepEachLayersOwn) {
  const auto path = this->folder_ / "a";
  auto cache = this->hybrid();
  this->go_on(cache, 500);
  save(cache, path);
  auto back = this->hybrid();
  restore(back, path);
  EXPECT_EQ(back.layer(0).retained(0), Ranges(Range{0, 500}));
  EXPECT_EQ(back.layer(1).retained(0), cache.layer(1).retained(0));
  this->go_on(cache, 33);
  this->go_on(back, 33);
  const auto mask = causal() & (sinks(5) | sliding_window(100));
  EXPECT_TRUE(this->same(this->attend(back, mask), this->attend(cache, mask)));
}

}  // namespace
}  // namespace gqa
