// SPDX-License-Identifier: Apache-2.0
// Where pages are, who shares them and what they held before changes no bit of attention.
#include <gtest/gtest.h>

#include <limits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "gqa/attention.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/paged.hpp"
#include "laws/slices.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Random;
using test::random_pieces;
using test::Sizes;

template <class T>
class PagedLaw : public ::testing::Test {};
TYPED_TEST_SUITE(PagedLaw, test::AllScalars);

template <class T>
using Output = Eigen::Tensor<T, 3, Eigen::RowMajor>;

template <class T, class KV>
Output<T> attend(const AttentionCase<T>& c, Index queries, const KV& kv) {
  const auto q = test::slice(c.q_view(), c.sizes.num_q_tokens - queries, c.sizes.num_q_tokens);
  Output<T> out(queries, c.sizes.num_q_heads, c.sizes.value_dim);
  attention(q, kv, out, causal());
  return out;
}

template <class T>
void expect_same_bits(const Output<T>& a, const Output<T>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)), 0) << what;
}

/// A pool whose free pages are in no order and hold NaN.
template <class T>
PagedCache<T> used_pool(const Sizes& s, Index page_tokens, Index num_pages, Random& random) {
  PagedCache<T> cache({.num_pages = num_pages,
                       .page_tokens = page_tokens,
                       .num_kv_heads = s.num_kv_heads,
                       .head_dim = s.head_dim,
                       .value_dim = s.value_dim});
  Output<T> k(page_tokens, s.num_kv_heads, s.head_dim), v(page_tokens, s.num_kv_heads, s.value_dim);
  k.setConstant(std::numeric_limits<T>::quiet_NaN());
  v.setConstant(std::numeric_limits<T>::quiet_NaN());
  std::vector<SequenceId> ids;
  for (Index i = 0; i < num_pages; ++i) {
    ids.push_back(cache.create());
    cache.write(0, ids.back(), cache.extend(ids.back(), page_tokens), k, v);
  }
  while (!ids.empty()) {
    std::swap(ids[static_cast<std::size_t>(random.integer(0, std::ssize(ids) - 1))], ids.back());
    cache.free(ids.back());
    ids.pop_back();
  }
  return cache;
}

template <class Cache, class T>
void fill(Cache&& cache, const AttentionCase<T>& c, Range tokens, Random& random) {
  for (const Index n : random_pieces(random, tokens.size())) {
    cache.write(0, cache.extend(n), test::slice(c.k_view(), tokens.begin, tokens.begin + n),
                test::slice(c.v_view(), tokens.begin, tokens.begin + n));
    tokens.begin += n;
  }
}

template <class T>
KVCache<T> contiguous(const AttentionCase<T>& c) {
  KVCache<T> cache({.max_tokens = c.sizes.num_kv_tokens,
                    .num_kv_heads = c.sizes.num_kv_heads,
                    .head_dim = c.sizes.head_dim,
                    .value_dim = c.sizes.value_dim});
  cache.append(c.k_view(), c.v_view());
  return cache;
}

TYPED_TEST(PagedLaw, PagesChangeNoBit) {
  Random random(1);
  for (const Sizes& s : {Sizes{1, 1, 3, 1, 40}, Sizes{239, 239, 4, 2, 64}, Sizes{3, 1201, 7, 1, 80, 33},
                         Sizes{70, 640, 71, 1, 17, 65}}) {
    const AttentionCase<TypeParam> c(s, 7);
    const auto expected = contiguous(c);
    for (const Index page : {64, 128, 192}) {
      auto cache = used_pool<TypeParam>(s, page, 2 * (s.num_kv_tokens / page + 1), random);
      const SequenceId id = cache.create();
      fill(cache.sequence(id), c, {0, s.num_kv_tokens}, random);
      for (const Index queries : {Index{1}, s.num_q_tokens})
        expect_same_bits<TypeParam>(attend(c, queries, cache.layer(0, id)), attend(c, queries, expected),
                                    s.name() + ", pages of " + std::to_string(page));
    }
  }
}

TYPED_TEST(PagedLaw, ForksChangeNoBit) {
  Random random(2);
  const Sizes s{3, 401, 4, 2, 40, 24};
  const AttentionCase<TypeParam> c(s, 8), other(s, 9);
  const auto expected = contiguous(c);
  for (const Index common : {0, 1, 63, 64, 65, 130, 400}) {
    auto cache = used_pool<TypeParam>(s, 64, 40, random);
    const SequenceId parent = cache.create();
    fill(cache.sequence(parent), c, {0, common}, random);
    const SequenceId child = cache.fork(parent);
    fill(cache.sequence(parent), other, {common, s.num_kv_tokens}, random);  // must not show in the child
    fill(cache.sequence(child), c, {common, s.num_kv_tokens}, random);
    expect_same_bits<TypeParam>(attend(c, 3, cache.layer(0, child)), attend(c, 3, expected),
                                "forked at " + std::to_string(common));
    cache.free(parent);
    expect_same_bits<TypeParam>(attend(c, 3, cache.layer(0, child)), attend(c, 3, expected), "alone");
  }
}

/// What stands behind the last token, in the pair it shares with one that was cut off, is never interpreted.
TYPED_TEST(PagedLaw, TruncatedForksReadNothingOfWhatIsGone) {
  Random random(3);
  const Sizes s{2, 77, 4, 2, 40, 24};
  AttentionCase<TypeParam> c(s, 10);
  const auto expected = contiguous(c);
  auto poisoned = c;
  for (auto& v : poisoned.v) v = std::numeric_limits<TypeParam>::quiet_NaN();
  auto cache = used_pool<TypeParam>(s, 64, 10, random);
  const SequenceId parent = cache.create();
  fill(cache.sequence(parent), c, {0, 77}, random);
  fill(cache.sequence(parent), poisoned, {0, 30}, random);  // tokens 77 to 107
  const SequenceId child = cache.fork(parent);
  cache.truncate(child, 77);  // its last page is the parent's, too: nothing there may change
  expect_same_bits<TypeParam>(attend(c, 2, cache.layer(0, child)), attend(c, 2, expected), "child");
  EXPECT_EQ(cache.size(parent), 107);
  const AttentionCase<TypeParam> more({1, 1, 4, 2, 40, 24}, 11);
  cache.write(0, child, cache.extend(child, 1), more.k_view(), more.v_view());
  cache.truncate(child, 77);
  expect_same_bits<TypeParam>(attend(c, 2, cache.layer(0, child)), attend(c, 2, expected), "its own page");
}

TYPED_TEST(PagedLaw, ManySequencesAtOnceAreEachAlone) {
  Random random(4);
  const Sizes s{5, 300, 4, 2, 40};
  auto cache = used_pool<TypeParam>(s, 64, 30, random);
  std::vector<AttentionCase<TypeParam>> cases;
  std::vector<SequenceId> ids;
  Eigen::Tensor<TypeParam, 4, Eigen::RowMajor> q(3, 5, 4, 40);
  for (std::uint64_t b = 0; b < 3; ++b) {
    cases.emplace_back(s, 20 + b);
    ids.push_back(cache.create());
    fill(cache.sequence(ids.back()), cases.back(), {0, 300 - static_cast<Index>(b) * 90}, random);
    std::copy(cases[b].q.begin(), cases[b].q.end(), q.data() + static_cast<Index>(b) * 5 * 4 * 40);
  }
  const auto together = attention(q, cache.layer(0, ids), causal());
  for (std::size_t b = 0; b < 3; ++b) {
    const auto alone = attend(cases[b], 5, cache.layer(0, ids[b]));
    EXPECT_EQ(std::memcmp(alone.data(), together.data() + static_cast<Index>(b) * alone.size(),
                          static_cast<std::size_t>(alone.size()) * sizeof(TypeParam)),
              0)
        << "sequence " << b;
  }
}

}  // namespace
}  // namespace gqa
