// SPDX-License-Identifier: Apache-2.0
// The cache of latents: what it holds, what it takes, what it refuses. How attention reads it: latent
// layers' tests.
#include "gqa/kv/latent.hpp"

#include <gtest/gtest.h>

#include "gqa/attention.hpp"
#include "gqa/kv/cache.hpp"
#include "kv/counted_memory.hpp"
#include "layer/matrices.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::message_of;
using test::random_values;

template <class T>
class LatentCacheOf : public ::testing::Test {
 public:
  static constexpr Index latent = 20, rope = 6, dim = latent + rope;

  static TensorView<const T> view(const std::vector<T>& rows) {
    return {rows.data(), std::ssize(rows) / dim, 1, dim};
  }
  static LatentCache<T> make(Index max_tokens, Index layers = 2, Index limit = 0) {
    return LatentCache<T>({max_tokens, layers, latent, rope, limit});
  }
  static std::vector<T> read(const LatentCache<T>& cache, Index layer, Range positions) {
    std::vector<T> rows(static_cast<std::size_t>(positions.size() * dim));
    cache.read(layer, positions, TensorView<T>(rows.data(), positions.size(), 1, dim));
    return rows;
  }
};
TYPED_TEST_SUITE(LatentCacheOf, test::AllScalars);

TYPED_TEST(LatentCacheOf, HoldsWhatWasWrittenToTheBit) {
  using T = TypeParam;
  auto cache = this->make(1200);
  std::vector<T> all[2];
  for (const Index n : {1, 63, 500, 600}) {
    const Span span = cache.extend(n);
    for (Index i = 0; i < 2; ++i) {
      const auto rows = random_values<T>(static_cast<std::uint64_t>(7 * n + i), n * this->dim);
      cache.write(i, span, this->view(rows));
      all[i].insert(all[i].end(), rows.begin(), rows.end());
    }
  }
  const auto same = [](const std::vector<T>& a, const T* b) {
    return std::memcmp(static_cast<const void*>(a.data()), static_cast<const void*>(b),
                       a.size() * sizeof(T)) == 0;
  };
  for (Index i = 0; i < 2; ++i) {
    EXPECT_TRUE(same(this->read(cache, i, {0, 1164}), all[i].data())) << i;
    EXPECT_TRUE(same(this->read(cache, i, {510, 515}), all[i].data() + 510 * this->dim)) << i;
  }
  EXPECT_EQ(cache.bytes(), 2 * (20 + 6) * 1164 * Index{sizeof(T)});
  EXPECT_EQ(cache.allocated_bytes(), 2 * (20 + 6) * 1536 * Index{sizeof(T)});

  // A clone goes its own way; what is truncated is written anew.
  auto copy = cache.clone();
  cache.truncate(512);
  const auto other = random_values<T>(99, this->dim);
  const Span one = cache.extend(1);
  cache.write(1, one, this->view(other));
  EXPECT_TRUE(same(this->read(cache, 1, {512, 513}), other.data()));
  EXPECT_TRUE(same(this->read(copy, 1, {0, 1164}), all[1].data()));
  EXPECT_EQ(copy.size(), 1164);
  EXPECT_EQ(cache.size(), 513);
}

TYPED_TEST(LatentCacheOf, IsReadByAttentionAsKeysAndValuesOfOneMemory) {
  using T = TypeParam;
  const Index n = 131, D = this->dim, Dv = this->latent, H = 5;
  auto cache = this->make(n, 1);
  const auto rows = random_values<T>(5, n * D), q = random_values<T>(6, 3 * H * D);
  cache.write(0, cache.extend(n), this->view(rows));
  const auto tile = cache.layer(0).tile(0, 0, {64, 128}, nullptr);
  EXPECT_EQ(tile.k.data, tile.v.data);
  std::vector<T> out(static_cast<std::size_t>(3 * H * Dv)), expected = out;
  const TensorView<const T> q_view(q.data(), 3, H, D);
  attention<5, 1>(q_view, cache.layer(0), TensorView<T>(out.data(), 3, H, Dv));
  attention(q_view, this->view(rows), TensorView<const T>(rows.data(), {1, n, 1, Dv}, {n * D, D, Dv}),
            TensorView<T>(expected.data(), 3, H, Dv));
  EXPECT_EQ(std::memcmp(static_cast<const void*>(out.data()), static_cast<const void*>(expected.data()),
                        out.size() * sizeof(T)),
            0);
}

TYPED_TEST(LatentCacheOf, ConvertsOnTheWayInAndOut) {
  using T = TypeParam;
  auto cache = this->make(3);
  const auto rows = random_values<double>(8, 3 * this->dim);
  cache.write(0, cache.extend(3), TensorView<const double>(rows.data(), 3, 1, this->dim));
  std::vector<double> k(rows.size()), v(static_cast<std::size_t>(3 * this->latent));
  cache.read(0, {0, 3}, TensorView<double>(k.data(), 3, 1, this->dim),
             TensorView<double>(v.data(), 3, 1, this->latent));
  for (std::size_t i = 0; i < rows.size(); ++i)
    ASSERT_EQ(k[i], static_cast<double>(rounded_to<T>(rows[i]))) << i;
  for (Index t = 0; t < 3; ++t)
    EXPECT_TRUE(std::equal(&v[static_cast<std::size_t>(t * this->latent)],
                           &v[static_cast<std::size_t>(t * this->latent)] + this->latent,
                           &k[static_cast<std::size_t>(t * this->dim)]));
}

TEST(LatentCache, FailsWithoutChangingAnything) {
  LatentCache<float> cache({.max_tokens = 1000,
                            .num_layers = 2,
                            .latent_dim = 20,
                            .rope_dim = 6,
                            .memory_limit = 2 * 26 * 4 * 512});
  const auto rows = random_values<float>(1, 600 * 26);
  const auto view = [&](Index n) { return TensorView<const float>(rows.data(), n, 1, 26); };
  EXPECT_THROW(cache.extend(1001), std::length_error);
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(513); }),
            "extend: the cache would take 212992 bytes, more than the memory_limit of 106496");
  const Span span = cache.extend(3);
  cache.write(0, span, view(3));
  cache.write(1, span, view(3));
  EXPECT_THROW(cache.extend(510), std::length_error) << "513 tokens in all";
  EXPECT_EQ(message_of([&] { cache.write(0, span, view(2)); }), "rows: tokens is 2, expected 3");
  EXPECT_EQ(message_of([&] { cache.write(0, span, TensorView<const float>(rows.data(), 3, 1, 25)); }),
            "rows: dim is 25, expected 26");
  EXPECT_THROW(cache.write(2, span, view(3)), std::out_of_range);
  // Values that are none of the rows' own would have no place.
  const auto v = random_values<float>(2, 3 * 20);
  EXPECT_EQ(message_of([&] { cache.write(0, span, view(3), TensorView<const float>(v.data(), 3, 1, 20)); }),
            "v: is not the first 20 elements of k, where a latent cache keeps its values");
  EXPECT_EQ(message_of([&] { cache.write(0, span, view(3), view(3)); }),
            "v: dim is 26, expected the 20 of latent_dim");
  cache.write(0, span, view(3), TensorView<const float>(rows.data(), {1, 3, 1, 20}, {78, 26, 20}));
  const Span later = cache.extend(2);
  cache.truncate(3);
  EXPECT_THROW(cache.write(0, later, view(2)), std::invalid_argument);
  EXPECT_THROW(cache.truncate(4), std::invalid_argument);
  EXPECT_THROW(cache.truncate(-1), std::invalid_argument);
  std::vector<float> out(26 * 4);
  EXPECT_EQ(message_of([&] {
              cache.read(0, {0, 4}, TensorView<float>(out.data(), 4, 1, 26));
            }),
            "read: tokens 0 to 4 are not among the 3 written in layer 0");
  EXPECT_EQ(cache.size(), 3);

  const auto view_of_layer = cache.layer(0);
  LatentCache<float> moved = std::move(cache);
  EXPECT_EQ(cache.size(), 0);  // NOLINT: what is moved from is said to be empty
  EXPECT_EQ(cache.num_kv_heads(), 0);
  EXPECT_EQ(message_of([&] { cache.extend(1); }), "extend: the cache was moved from");
  EXPECT_EQ(view_of_layer.retained(0).size(), 3);
  moved.clear();
  EXPECT_EQ(moved.allocated_bytes(), 0);
  EXPECT_EQ(message_of([&] { view_of_layer.retained(0); }),
            "view: the cache was cleared after the view of layer 0 was taken");
  const auto said = [](const LatentCache<float>::Config& c) {
    return message_of([&] { LatentCache<float> refused(c); });
  };
  EXPECT_EQ(said({.max_tokens = 1}), "latent_dim is 0, expected at least 1");
  EXPECT_EQ(said({.max_tokens = -1, .latent_dim = 1}), "max_tokens is -1, expected at least 0");
  EXPECT_EQ(said({.num_layers = 0, .latent_dim = 1}), "num_layers is 0, expected at least 1");
  EXPECT_EQ(said({.latent_dim = 1, .rope_dim = -1}), "rope_dim is -1, expected at least 0");
  EXPECT_THROW(LatentCache<float>({.max_tokens = max_position, .latent_dim = 512}), std::length_error);
}

TEST(LatentCache, IsAsItWasWhereMemoryFails) {
  LatentCache<float> cache({.max_tokens = 5000, .latent_dim = 20, .rope_dim = 6});
  cache.extend(10);
  const auto operation = [&] { cache.extend(1500); };
  test::fail_each_allocation(operation, [&] {
    EXPECT_EQ(cache.size(), 10);
    EXPECT_EQ(cache.allocated_bytes(), 26 * 4 * 512);
  });
  EXPECT_EQ(cache.size(), 1510);
}

}  // namespace
}  // namespace gqa
