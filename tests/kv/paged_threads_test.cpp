// SPDX-License-Identifier: Apache-2.0
// Threads that each have sequences of their own, in one pool, with pages that all of them share.
#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "gqa/attention.hpp"
#include "kv/paged_model.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::Random;
using test::TokenValues;

const TokenValues& values() {
  static const TokenValues values(2, 2, 16, 16);
  return values;
}

void go_on(PagedCache<float>& cache, SequenceId id, std::span<const TokenId> ids) {
  const Span span = cache.extend(id, std::ssize(ids) - cache.size(id));
  values().write<float>(ids, span.positions, [&](Index layer, const auto& k, const auto& v) {
    cache.write(layer, id, span, k, v);
  });
}

std::string difference(const PagedCache<float>& cache, SequenceId id, std::span<const TokenId> ids) {
  return values().difference<float>(
      ids, [&](Index layer, Range r, auto& k, auto& v) { cache.read(layer, id, r, k, v); });
}

TEST(PagedThreads, SequencesOfTheirOwnInOnePool) {
  constexpr int num_threads = 4, rounds = 60;
  PagedCache<float> cache({.num_pages = 60, .num_layers = 2, .num_kv_heads = 2, .head_dim = 16});
  std::vector<TokenId> prompt(100);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i);
  const SequenceId shared = cache.create();
  go_on(cache, shared, prompt);
  cache.publish(shared, prompt);
  const Eigen::Tensor<float, 3, Eigen::RowMajor> q =
      Eigen::Tensor<float, 3, Eigen::RowMajor>(1, 4, 16).setRandom();
  const auto expected = attention(q, cache.layer(1, shared), causal());

  std::atomic<int> wrong{0};
  const auto work = [&](int number) {
    Random random(static_cast<std::uint64_t>(number) + 1);
    Eigen::Tensor<float, 3, Eigen::RowMajor> out(1, 4, 16);
    for (int round = 0; round < rounds; ++round) {
      // Begin with what others published, or not; go on with tokens of one's own; fork and throw away.
      std::vector<TokenId> ids(prompt.begin(), prompt.begin() + random.integer(0, 100));
      const auto match = random.flip() ? cache.create(ids) : PagedCache<float>::Match{cache.create(), 0};
      for (Index i = random.integer(1, 40); i > 0; --i)
        ids.push_back(1000 * number + static_cast<TokenId>(i));
      try {
        go_on(cache, match.id, ids);
        if (!difference(cache, match.id, ids).empty()) ++wrong;
        const SequenceId child = cache.fork(match.id);
        if (random.flip()) cache.publish(child, ids);
        auto more = ids;
        more.push_back(number);
        go_on(cache, child, more);
        if (!difference(cache, match.id, ids).empty()) ++wrong;
        cache.free(match.id);
        if (!difference(cache, child, more).empty()) ++wrong;
        std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(child)));
        cache.swap_out(child, memory);
        cache.swap_in(child, memory);
        if (!difference(cache, child, more).empty()) ++wrong;
        std::vector<Index> first(more.size() / 2 + 1);
        std::iota(first.begin(), first.end(), Index{0});
        const std::vector<std::vector<std::vector<Index>>> kept(2, {first, first});
        more.resize(first.size());
        cache.sequence(child).evict(kept);
        if (!difference(cache, child, more).empty()) ++wrong;
        cache.free(child);
      } catch (const std::length_error&) {  // others have the pages
      }
      attention(q, cache.layer(1, shared), out, causal());
      if (std::memcmp(out.data(), expected.data(), 4 * 16 * sizeof(float)) != 0) ++wrong;
      if (cache.statistics().used > 60 || cache.bytes() < 0) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) threads.emplace_back(work, i + 1);
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(difference(cache, shared, prompt), "");
  cache.clear();
  EXPECT_EQ(cache.statistics().free, 60);
}

}  // namespace
}  // namespace gqa
