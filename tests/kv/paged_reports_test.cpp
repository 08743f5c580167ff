// SPDX-License-Identifier: Apache-2.0
// What has gone wrong in the pages of others' caches, by the numbers of the reports.
#include <gtest/gtest.h>

#include <unordered_map>

#include "kv/paged_case.hpp"

namespace gqa {
namespace {

using Ids = std::vector<TokenId>;

class PagedReports : public test::PagedCase<bfloat16> {
 protected:
  static Ids joined(Ids a, const Ids& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  static Ids first(const Ids& ids, Index n) { return {ids.begin(), ids.begin() + n}; }

  /// Every page is one of three.
  static void expect_accounted(const Cache& cache) {
    const PageStatistics s = cache.statistics();
    ASSERT_EQ(s.used + s.kept + s.free, s.pages);
  }
  /// Finds what it can of the ids, adds the rest, and is what they are.
  SequenceId serve(Cache& cache, const Ids& ids) {
    const auto match = cache.create(ids);
    expect_holds(cache, match.id, first(ids, match.tokens));
    go_on(cache, match.id, ids);
    expect_holds(cache, match.id, ids);
    return match.id;
  }
};

/// Two pages of ids with the same hash (openvino.genai 3722, vLLM 8229, aibrix 2329, higgs 1): FNV-1a is
/// (h ^ id) * prime, so what two first ids leave apart in the low 32 bits a second id takes back.
TEST_F(PagedReports, IdsWithTheSameHash) {
  constexpr std::uint64_t begin = 0xcbf29ce484222325u ^ ~std::uint64_t{0}, prime = 0x100000001b3u;
  const auto after = [](std::uint64_t h, TokenId id) { return (h ^ static_cast<std::uint32_t>(id)) * prime; };
  std::unordered_map<std::uint32_t, TokenId> seen;
  Ids a(64), b(64);
  for (std::uint32_t i = 0; i < 1 << 16 && a[0] == b[0]; ++i) {
    // The prime's upper part takes the lower 24 bits of an id to the top: those above them vary first.
    const auto id = static_cast<TokenId>(i << 24 | i >> 8);
    const auto [found, is_new] = seen.emplace(static_cast<std::uint32_t>(after(begin, id) >> 32), id);
    if (is_new) continue;
    a[0] = found->second;
    b[0] = id;
    b[1] = static_cast<TokenId>(static_cast<std::uint32_t>(after(begin, a[0]) ^ after(begin, b[0])));
  }
  ASSERT_NE(a[0], b[0]);
  ASSERT_EQ(after(after(begin, a[0]), a[1]), after(after(begin, b[0]), b[1]));
  auto cache = make(8);
  cache.publish(add(cache, a), a);
  EXPECT_EQ(cache.create(b).tokens, 0);
  cache.publish(add(cache, b), b);
  for (const Ids& ids : {a, b}) {
    const auto match = cache.create(ids);
    EXPECT_EQ(match.tokens, 64);
    expect_holds(cache, match.id, ids);
  }
}

/// The same ids behind others, of which some hash alike: there are 32 buckets for 8 pages.
TEST_F(PagedReports, TheSameIdsBehindOthersWithTheSameHash) {
  const Ids before = text(64, 5000);
  for (TokenId i = 0; i < 300; ++i) {
    auto cache = make(8);
    const Ids ids = text(64, i);
    cache.publish(add(cache, before), before);
    cache.publish(add(cache, ids), ids);
    ASSERT_EQ(cache.create(joined(before, ids)).tokens, 64) << i;
    ASSERT_EQ(cache.create(joined(ids, before)).tokens, 64) << i;
  }
}

/// Double frees of shared blocks (vLLM 1556, 1584, 1930, 2271, 3347, 42571, UCM 1053).
TEST_F(PagedReports, SharedPagesAreFreedOnce) {
  const Ids text = this->text(150);
  for (int order = 0; order < 24; ++order) {
    auto cache = make(12);
    std::vector<SequenceId> ids = {add(cache, text)};
    for (int i = 0; i < 3; ++i) ids.push_back(cache.fork(ids.back()));
    cache.reorder(ids, std::vector<Index>{3, 0, 0, 3});
    go_on(cache, ids[1], joined(text, {1}));
    go_on(cache, ids[2], joined(text, {2}));
    cache.reorder(ids, std::vector<Index>{1, 1, 2, 2});
    std::vector<std::size_t> left = {0, 1, 2, 3};
    for (int n = 4, o = order; n > 0; o /= n--) {
      const auto at = left.begin() + o % n;
      cache.free(ids[*at]);
      EXPECT_THROW(cache.free(ids[*at]), std::out_of_range);
      left.erase(at);
      expect_accounted(cache);
      for (const std::size_t i : left) expect_holds(cache, ids[i], joined(text, {i < 2 ? 1 : 2}));
    }
    EXPECT_EQ(cache.statistics().free, 12);
  }
}

/// What was evicted is found again, or keeps its old name (vLLM 4761, kvcached 362, local-inference-lab/vllm
/// 480), and sizes that drift (SGLang 35270, mllm 656, 27586).
TEST_F(PagedReports, ChurnFindsNothingThatIsGone) {
  auto cache = make(7);
  std::vector<Ids> texts;
  for (TokenId i = 0; i < 5; ++i) texts.push_back(joined(text(64), text(64 + 40 * i, 1000 * i)));
  for (std::size_t round = 0; round < 200; ++round) {
    const Ids& ids = texts[(round * round + round / 3) % texts.size()];
    const SequenceId id = serve(cache, ids);
    cache.publish(id, ids);
    cache.free(id);
    expect_accounted(cache);
    EXPECT_EQ(cache.statistics().used, 0);
  }
  EXPECT_GT(cache.statistics().evicted, 50);
  EXPECT_GT(cache.statistics().reused_tokens, 64 * 100);
}

/// Two that computed the same text at the same time, before one of them published it: each has pages of its
/// own, whichever are found (mini-sglang 142, atlas 373).
TEST_F(PagedReports, TwoThatHaveTheSameText) {
  auto cache = make(9);
  const Ids ids = text(150), longer = text(200);
  const SequenceId a = add(cache, ids), b = add(cache, ids);
  cache.publish(a, ids);
  cache.publish(b, ids);
  go_on(cache, b, longer);
  cache.publish(b, longer);  // its third page, behind pages of a
  cache.free(a);
  EXPECT_EQ(cache.statistics().kept, 2);
  const SequenceId c = serve(cache, longer);
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(b)));
  cache.swap_out(b, memory);
  expect_holds(cache, c, longer);
  cache.free(c);
  add(cache, text(5 * 64, 7000));  // wants memory that is kept
  cache.swap_in(b, memory);
  cache.publish(b, longer);
  expect_holds(cache, b, longer);
  expect_accounted(cache);
  const auto match = cache.create(longer);
  EXPECT_EQ(match.tokens, 192);
  expect_holds(cache, match.id, first(longer, 192));
}

/// A partly filled page that two go on from (atlas 692, 1193, MinivLLM 98, vLLM 417).
TEST_F(PagedReports, ATailThatTwoWriteIsTwo) {
  auto cache = make(9);
  const Ids published = text(128);
  cache.publish(add(cache, published), published);
  const Ids common = first(published, 100);
  const auto a = cache.create(common), b = cache.create(common);
  ASSERT_EQ(a.tokens + b.tokens, 200);
  const SequenceId c = cache.fork(a.id);
  Ids as = common, bs = common, cs = common;
  for (TokenId i = 0; i < 40; ++i) {
    as.push_back(500 + i), bs.push_back(600 + i), cs.push_back(700 + i);
    go_on(cache, a.id, as);
    go_on(cache, b.id, bs);
    go_on(cache, c, cs);
  }
  expect_holds(cache, a.id, as);
  expect_holds(cache, b.id, bs);
  expect_holds(cache, c, cs);
  const auto again = cache.create(published);
  expect_holds(cache, again.id, published);
}

/// The page that is wanted is the one that was just found (mini-sglang 52, vLLM 37076).
TEST_F(PagedReports, AFullPoolDoesNotTakeWhatItFinds) {
  auto cache = make(3);
  const Ids kept = text(128);
  const SequenceId id = add(cache, kept);
  cache.publish(id, kept);
  cache.free(id);
  add(cache, text(30, 900));
  const auto match = cache.create(first(kept, 100));  // for the last 36 no other page is left
  EXPECT_EQ(match.tokens, 64);
  expect_holds(cache, match.id, first(kept, 64));
  EXPECT_EQ(cache.statistics().kept, 1);
  EXPECT_EQ(cache.create(kept).tokens, 128);
  expect_accounted(cache);
}

/// A token too many or too few at the end of a page (vLLM 37076).
TEST_F(PagedReports, LengthsAroundPages) {
  for (const Index published : {63, 64, 65, 127, 128, 129})
    for (const Index wanted : {1, 62, 63, 64, 65, 66, 126, 127, 128, 129, 130}) {
      auto cache = make(8);
      const Ids ids = text(published);
      cache.publish(add(cache, ids), ids);
      const auto match = cache.create(text(wanted));
      EXPECT_EQ(match.tokens, std::min(published / 64 * 64, wanted)) << published << ", " << wanted;
      go_on(cache, match.id, joined(text(match.tokens), {9}));
      expect_holds(cache, match.id, joined(text(match.tokens), {9}));
    }
}

/// A parent that is swapped out while its children go on (vLLM 190, lmdeploy 3864, xinfer 405).
TEST_F(PagedReports, AParentIsSwappedOutAlone) {
  auto cache = make(6);
  const Ids ids = text(100);
  const SequenceId parent = add(cache, ids), a = cache.fork(parent), b = cache.fork(parent);
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(parent)));
  cache.swap_out(parent, memory);
  go_on(cache, a, joined(ids, {1}));
  go_on(cache, b, joined(ids, {2}));
  EXPECT_EQ(cache.statistics().used, 3);
  const SequenceId other = add(cache, text(3 * 64, 800));
  EXPECT_THROW(cache.swap_in(parent, memory), std::length_error);
  EXPECT_TRUE(cache.swapped_out(parent));
  cache.free(other);
  cache.swap_in(parent, memory);
  expect_holds(cache, parent, ids);
  expect_holds(cache, a, joined(ids, {1}));
  expect_holds(cache, b, joined(ids, {2}));
}

/// A prefix that no longer is what it is named after (mlx-lm 1494, 1502, TensorRT-LLM 18711).
TEST_F(PagedReports, APublishedTextIsCutAndGoesOnElsewhere) {
  auto cache = make(9);
  const Ids ids = text(192), other = joined(text(100), text(92, 5000));
  const SequenceId id = add(cache, ids);
  cache.publish(id, ids);
  cache.truncate(id, 100);
  EXPECT_THROW(cache.publish(id, ids), std::invalid_argument);
  go_on(cache, id, other);
  cache.publish(id, other);
  for (const Ids& each : {ids, other}) {
    const auto match = cache.create(each);
    EXPECT_EQ(match.tokens, 192);
    expect_holds(cache, match.id, each);
  }
}

/// Blocks found before anybody has written them (text-generation-inference 2489).
TEST_F(PagedReports, WhatIsNotWrittenCannotBePublished) {
  auto cache = make(4);
  const SequenceId id = cache.create();
  const Span span = cache.extend(id, 64);
  EXPECT_THROW(cache.publish(id, text(64)), std::invalid_argument);
  values_.write<bfloat16>(text(64), span.positions, [&](Index layer, const auto& k, const auto& v) {
    if (layer == 0) cache.write(layer, id, span, k, v);
  });
  EXPECT_THROW(cache.publish(id, text(64)), std::invalid_argument);
  EXPECT_EQ(cache.create(text(64)).tokens, 0);
}

/// Drafts behind a shared prefix, whose pages do not follow each other (text-generation-inference 2711).
TEST_F(PagedReports, DraftsBehindASharedPrefix) {
  auto cache = make(12);
  const Ids prefix = text(120), other = text(20, 400);
  cache.publish(add(cache, prefix), prefix);
  add(cache, other);
  const auto match = cache.create(prefix);
  ASSERT_EQ(match.tokens, 64);
  Ids ids = prefix;
  go_on(cache, match.id, ids);
  for (TokenId i = 0; i < 30; ++i) {
    go_on(cache, match.id, joined(ids, text(9, 3000 + i)));  // drafts, of which some are right
    ids = joined(ids, text(i % 9, 3000 + i));
    cache.truncate(match.id, std::ssize(ids));
    ids.push_back(2000 + i);
    go_on(cache, match.id, ids);
  }
  expect_holds(cache, match.id, ids);
}

/// More evicted than is needed (SGLang 4987), and the beginning of a text before its end.
TEST_F(PagedReports, NoMoreIsEvictedThanIsNeeded) {
  auto cache = make(4);
  const Ids ids = text(256);
  const SequenceId id = add(cache, ids);
  cache.publish(id, ids);
  cache.free(id);
  for (Index n = 1; n <= 3; ++n) {
    add(cache, text(64, static_cast<TokenId>(1000 * n)));
    EXPECT_EQ(cache.statistics().evicted, n);
    EXPECT_EQ(cache.statistics().kept, 4 - n);
  }
  const auto match = cache.create(ids);
  EXPECT_EQ(match.tokens, 64);
  expect_holds(cache, match.id, first(ids, 64));
}

/// As many pages as the beams need, and none in reserve (TensorRT-LLM 19527).
TEST_F(PagedReports, BeamsInAPoolThatJustSuffices) {
  auto cache = make(4);
  const Ids ids = text(60);
  std::vector<SequenceId> beams = {add(cache, ids)};
  for (int i = 0; i < 3; ++i) beams.push_back(cache.fork(beams[0]));
  for (std::size_t i = 0; i < beams.size(); ++i)  // three copies; the last one has the page to itself
    go_on(cache, beams[i], joined(ids, {static_cast<TokenId>(i)}));
  EXPECT_EQ(cache.statistics().free, 0);
  EXPECT_EQ(cache.statistics().copied, 3);
  for (std::size_t i = 0; i < beams.size(); ++i)
    expect_holds(cache, beams[i], joined(ids, {static_cast<TokenId>(i)}));
}

}  // namespace
}  // namespace gqa
