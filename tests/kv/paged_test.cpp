// SPDX-License-Identifier: Apache-2.0
// Who holds which pages, what is found by its tokens, and what is refused.
#include <gtest/gtest.h>

#include "gqa/kv/cache_concept.hpp"
#include "kv/paged_case.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::message_of;

template <class T>
class Paged : public test::PagedCase<T> {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(Paged, Scalars);

TYPED_TEST(Paged, IsACache) {
  static_assert(gqa::Cache<PagedSequence<TypeParam>>);
  auto cache = this->make(4);
  auto sequence = cache.sequence(cache.create());
  EXPECT_EQ(sequence.capacity(), 4 * 64);
  EXPECT_EQ(sequence.num_layers(), 2);
  const auto ids = this->text(70);
  this->go_on(cache, sequence.id(), ids);
  EXPECT_EQ(sequence.size(), 70);
  EXPECT_EQ(sequence.bytes(), 70 * cache.bytes_per_token());
  const auto view = sequence.layer(1);
  sequence.clear();
  EXPECT_EQ(sequence.size(), 0);
  EXPECT_EQ(cache.statistics().free, 4);
  EXPECT_THROW(view.retained(0), std::invalid_argument);
  cache.free(sequence.id());
  EXPECT_THROW(sequence.extend(1), std::out_of_range);
  EXPECT_THROW(sequence.layer(0), std::out_of_range);
}

TYPED_TEST(Paged, ForksShareUntilTheyAreWritten) {
  auto cache = this->make(10);
  const auto a = this->text(150);
  const SequenceId parent = this->add(cache, a), child = cache.fork(parent);
  EXPECT_EQ(cache.statistics().used, 3);
  EXPECT_EQ(cache.statistics().shared, 3);
  EXPECT_EQ(cache.bytes(), 150 * cache.bytes_per_token());

  auto b = a;
  b.push_back(1000);
  this->go_on(cache, child, b);
  EXPECT_EQ(cache.statistics().used, 4);
  EXPECT_EQ(cache.statistics().shared, 2);
  EXPECT_EQ(cache.statistics().copied, 1);
  this->expect_holds(cache, parent, a);
  this->expect_holds(cache, child, b);

  b.push_back(1001);  // its own page now
  this->go_on(cache, child, b);
  EXPECT_EQ(cache.statistics().copied, 1);
  cache.free(parent);
  EXPECT_EQ(cache.statistics().used, 3);
  this->expect_holds(cache, child, b);
  cache.free(child);
  EXPECT_EQ(cache.statistics().free, 10);
  EXPECT_EQ(cache.bytes(), 0);
}

TYPED_TEST(Paged, NothingIsCopiedAtTheEndOfAPage) {
  auto cache = this->make(10);
  const auto a = this->text(128);
  const SequenceId parent = this->add(cache, a), child = cache.fork(parent);
  auto b = a;
  b.push_back(5);
  this->go_on(cache, child, b);
  EXPECT_EQ(cache.statistics().copied, 0);
  EXPECT_EQ(cache.statistics().used, 3);
  this->expect_holds(cache, child, b);
}

TYPED_TEST(Paged, AnEmptySequenceForksToAnEmptyOne) {
  auto cache = this->make(1);
  const SequenceId child = cache.fork(cache.create());
  EXPECT_EQ(cache.size(child), 0);
  EXPECT_EQ(cache.layer(0, child).retained(0), (Range{0, 0}));
}

TYPED_TEST(Paged, PublishedTokensAreFoundToTheToken) {
  auto cache = this->make(12);
  const auto a = this->text(200);  // three pages and 8
  const SequenceId first = this->add(cache, a);
  EXPECT_EQ(cache.create(a).tokens, 0) << "nothing is published";
  cache.publish(first, a);
  cache.publish(first, a);  // again is no error
  for (const Index common : {0, 1, 63, 64, 65, 127, 128, 191, 192, 195}) {
    auto b = this->text(common);
    for (int i = 0; i < 60; ++i) b.push_back(5000 + i);
    const auto match = cache.create(b);
    EXPECT_EQ(match.tokens, std::min<Index>(common, 192)) << "the fourth page is not whole";
    b.resize(static_cast<std::size_t>(match.tokens));
    this->expect_holds(cache, match.id, b);
    b.push_back(7);
    this->go_on(cache, match.id, b);
    this->expect_holds(cache, match.id, b);
    this->expect_holds(cache, first, a);
    cache.free(match.id);
  }
  EXPECT_EQ(cache.statistics().reused_tokens, 0 + 1 + 63 + 64 + 65 + 127 + 128 + 191 + 192 + 192);
}

TYPED_TEST(Paged, TheSameIdsBehindOthersAreOtherTokens) {
  auto cache = this->make(12);
  auto a = this->text(64, 0), b = this->text(64, 100);
  const auto tail = this->text(64, 300);
  a.insert(a.end(), tail.begin(), tail.end());
  b.insert(b.end(), tail.begin(), tail.end());
  cache.publish(this->add(cache, a), a);
  EXPECT_EQ(cache.create(tail).tokens, 0);
  EXPECT_EQ(cache.create(b).tokens, 0);
  cache.publish(this->add(cache, b), b);
  const auto match = cache.create(b);
  EXPECT_EQ(match.tokens, 128);
  this->expect_holds(cache, match.id, b);
}

TYPED_TEST(Paged, WhatNobodyHoldsIsKeptUntilItIsWanted) {
  auto cache = this->make(6);
  const auto a = this->text(128), b = this->text(128, 1000);
  const SequenceId first = this->add(cache, a), second = this->add(cache, b);
  cache.publish(first, a);
  cache.publish(second, b);
  cache.free(first);
  cache.free(second);
  EXPECT_EQ(cache.statistics().kept, 4);
  EXPECT_EQ(cache.statistics().used, 0);
  {  // touched again: a is now the one let go of last
    const auto match = cache.create(a);
    EXPECT_EQ(match.tokens, 128);
    this->expect_holds(cache, match.id, a);
    cache.free(match.id);
  }
  const auto c = this->text(4 * 64, 2000);
  this->add(cache, c);  // two free pages, and those of b
  EXPECT_EQ(cache.statistics().evicted, 2);
  EXPECT_EQ(cache.create(b).tokens, 0);
  EXPECT_EQ(cache.create(a).tokens, 128);
  EXPECT_EQ(cache.statistics().kept, 0);
}

TYPED_TEST(Paged, OtherIdsForPublishedTokensAreRefused) {
  auto cache = this->make(6);
  const auto a = this->text(128);
  const SequenceId id = this->add(cache, a);
  cache.publish(id, a);
  EXPECT_EQ(
      message_of([&] { cache.publish(id, this->text(64, 1)); }),
      "publish: tokens 0 to 64 of sequence " + std::to_string(id.value) + " are published with other ids");
  EXPECT_THROW(cache.publish(id, this->text(129)), std::invalid_argument);
}

TYPED_TEST(Paged, ReorderGoesOnFromParents) {
  auto cache = this->make(20);
  std::vector<std::vector<TokenId>> texts = {this->text(70), this->text(100, 500), this->text(3, 900)};
  std::vector<SequenceId> ids;
  for (const auto& t : texts) ids.push_back(this->add(cache, t));
  const auto view = cache.layer(1, ids[0]);
  cache.reorder(ids, std::vector<Index>{1, 1, 0});
  EXPECT_EQ(cache.statistics().copied, 0);
  EXPECT_EQ(view.retained(0), (Range{0, 100})) << "views stay";
  this->expect_holds(cache, ids[0], texts[1]);
  this->expect_holds(cache, ids[1], texts[1]);
  this->expect_holds(cache, ids[2], texts[0]);
  EXPECT_EQ(cache.statistics().used, 4) << "the third one's tokens are gone";
  auto more = texts[1];
  more.push_back(1);
  this->go_on(cache, ids[0], more);
  this->expect_holds(cache, ids[1], texts[1]);

  EXPECT_THROW(cache.reorder(ids, std::vector<Index>{0, 1}), std::invalid_argument);
  EXPECT_THROW(cache.reorder(ids, std::vector<Index>{0, 1, 3}), std::invalid_argument);
  EXPECT_THROW(cache.reorder(ids, std::vector<Index>{0, -1, 2}), std::invalid_argument);
  EXPECT_THROW(cache.reorder(std::vector<SequenceId>{ids[0], ids[0]}, std::vector<Index>{0, 1}),
               std::invalid_argument);
  EXPECT_THROW(cache.reorder(std::vector<SequenceId>{ids[0], SequenceId{}}, std::vector<Index>{0, 1}),
               std::out_of_range);
  this->expect_holds(cache, ids[0], more);
  this->expect_holds(cache, ids[2], texts[0]);
}

TYPED_TEST(Paged, SwapsOutAndInToTheSameTokens) {
  auto cache = this->make(4, 128);
  const auto a = this->text(130);
  const SequenceId id = this->add(cache, a);
  const auto view = cache.layer(0, id);
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(id)));
  cache.swap_out(id, memory);
  EXPECT_TRUE(cache.swapped_out(id));
  EXPECT_EQ(cache.size(id), 130);
  EXPECT_EQ(cache.statistics().free, 4);
  EXPECT_EQ(
      message_of([&] { view.retained(0); }),
      "view: sequence " + std::to_string(id.value) + " was swapped out after the view of layer 0 was taken");
  EXPECT_THROW(cache.extend(id, 1), std::invalid_argument);
  EXPECT_THROW(cache.truncate(id, 1), std::invalid_argument);
  EXPECT_THROW(cache.fork(id), std::invalid_argument);
  EXPECT_THROW(cache.swap_out(id, memory), std::invalid_argument);

  const SequenceId other = this->add(cache, this->text(300, 50));
  EXPECT_THROW(cache.swap_in(id, memory), std::length_error);
  cache.free(other);
  EXPECT_THROW(cache.swap_in(id, std::span(memory).first(memory.size() - 1)), format_error);
  auto wrong = memory;
  wrong[9] ^= std::byte{1};
  EXPECT_THROW(cache.swap_in(id, wrong), format_error);
  EXPECT_EQ(cache.statistics().free, 4);
  cache.swap_in(id, memory);
  this->expect_holds(cache, id, a);
  EXPECT_EQ(view.retained(0), (Range{0, 130}));
  EXPECT_THROW(cache.swap_in(id, memory), std::invalid_argument) << "it is there";

  auto b = a;
  b.push_back(3);
  this->go_on(cache, id, b);
  const auto old = memory;
  memory.resize(static_cast<std::size_t>(cache.swap_bytes(id)));
  cache.swap_out(id, memory);
  EXPECT_THROW(cache.swap_in(id, old), format_error) << "of an earlier time";
  cache.swap_in(id, memory);
  this->expect_holds(cache, id, b);
}

TYPED_TEST(Paged, TooLittleSwapMemoryChangesNothing) {
  auto cache = this->make(4);
  const auto a = this->text(70);
  const SequenceId id = this->add(cache, a);
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(id)) - 1);
  EXPECT_THROW(cache.swap_out(id, memory), std::length_error);
  this->expect_holds(cache, id, a);
}

TYPED_TEST(Paged, AFullPoolChangesNothing) {
  auto cache = this->make(3);
  const auto a = this->text(70);
  const SequenceId id = this->add(cache, a), child = cache.fork(id);
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(id, 64 + 59); }),
            "extend: 3 pages needed, 1 of 3 are free");
  EXPECT_THROW(cache.extend(child, 64), std::length_error) << "a copy and one more";
  this->expect_holds(cache, child, a);
  EXPECT_EQ(cache.statistics().used, 2);
  const auto b = this->text(71);
  this->go_on(cache, child, b);
  EXPECT_EQ(cache.statistics().free, 0);
  cache.free(id);
  this->expect_holds(cache, child, b);
}

TYPED_TEST(Paged, SequencesHaveAtMostMaxTokens) {
  auto cache = this->make(3, 64, 100);
  const SequenceId id = this->add(cache, this->text(99));
  EXPECT_THROW(cache.extend(id, 2), std::length_error);
  EXPECT_THROW(cache.extend(id, max_position), std::length_error);
  EXPECT_THROW(cache.extend(id, std::numeric_limits<Index>::max()), std::length_error);
  EXPECT_THROW(cache.extend(id, -1), std::invalid_argument);
  EXPECT_EQ(cache.size(id), 99);
}

TYPED_TEST(Paged, PagesChangeHandsBetweenPassesOnly) {
  auto cache = this->make(6);
  auto a = this->text(70);
  const SequenceId id = this->add(cache, a);
  const Span span = cache.extend(id, 1);
  a.push_back(70);
  const auto rows = this->values_.template rows<TypeParam>(a, span.positions, 0);
  cache.write(0, id, span, rows.k, rows.v);
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(id)));
  EXPECT_EQ(message_of([&] { cache.fork(id); }), "fork: layer 1 of sequence " + std::to_string(id.value) +
                                                     " is written up to token 70, expected all 71");
  EXPECT_THROW(cache.publish(id, a), std::invalid_argument);
  EXPECT_THROW(cache.swap_out(id, memory), std::invalid_argument);
  EXPECT_THROW(cache.reorder(std::vector<SequenceId>{id}, std::vector<Index>{0}), std::invalid_argument);
  const auto last = this->values_.template rows<TypeParam>(a, span.positions, 1);
  cache.write(1, id, span, last.k, last.v);
  const SequenceId child = cache.fork(id);
  EXPECT_THROW(cache.write(1, id, span, last.k, last.v), std::invalid_argument) << "the child would see it";
  this->expect_holds(cache, child, a);
}

TYPED_TEST(Paged, UnwrittenTokensCannotBeRead) {
  auto cache = this->make(6);
  const auto a = this->text(10);
  const SequenceId id = this->add(cache, a);
  cache.extend(id, 5);
  const auto rows = this->values_.template rows<TypeParam>(a, {0, 10}, 0);
  auto k = rows.k, v = rows.v;
  EXPECT_THROW(cache.read(0, id, {5, 15}, k, v), std::invalid_argument);
  EXPECT_EQ(cache.layer(0, id).retained(0), (Range{0, 10}));
}

TYPED_TEST(Paged, UnknownAndFreedSequencesAreRefused) {
  auto cache = this->make(6);
  const auto a = this->text(10);
  const SequenceId id = this->add(cache, a);
  const auto view = cache.layer(0, id);
  cache.free(id);
  const std::string gone = "sequence " + std::to_string(id.value) + " is not, or no longer, in the cache";
  EXPECT_EQ(message_of<std::out_of_range>([&] { cache.free(id); }), gone);
  EXPECT_THROW(cache.free({}), std::out_of_range);
  EXPECT_THROW(cache.extend(id, 1), std::out_of_range);
  EXPECT_THROW(cache.truncate(id, 0), std::out_of_range);
  EXPECT_THROW(cache.fork(id), std::out_of_range);
  EXPECT_THROW(cache.size(id), std::out_of_range);
  EXPECT_THROW(cache.layer(0, id), std::out_of_range);
  EXPECT_THROW(cache.publish(id, {}), std::out_of_range);
  EXPECT_THROW(cache.swap_bytes(id), std::out_of_range);
  EXPECT_EQ(message_of([&] { view.retained(0); }),
            "view: sequence " + std::to_string(id.value) + " was freed after the view of layer 0 was taken");
  auto other = this->make(1);
  EXPECT_FALSE(other.contains(cache.create())) << "ids belong to one cache";
  EXPECT_THROW(cache.layer(2, cache.create()), std::out_of_range);
}

TYPED_TEST(Paged, SizesThatCannotBeAreRefused) {
  using Config = typename PagedCache<TypeParam>::Config;
  const Config good{.num_pages = 1, .num_kv_heads = 1, .head_dim = 8};
  const auto refused = [&](auto&& change) {
    Config config = good;
    change(config);
    try {
      PagedCache<TypeParam> cache(config);
    } catch (const std::logic_error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refused([](Config& c) { c.page_tokens = 0; }), "page_tokens is 0, expected a multiple of 64");
  EXPECT_EQ(refused([](Config& c) { c.page_tokens = 16; }), "page_tokens is 16, expected a multiple of 64");
  EXPECT_EQ(refused([](Config& c) { c.page_tokens = -64; }), "page_tokens is -64, expected a multiple of 64");
  EXPECT_NE(refused([](Config& c) { c.num_pages = 0; }), "");
  EXPECT_NE(refused([](Config& c) { c.num_pages = -1; }), "");
  EXPECT_NE(refused([](Config& c) { c.memory_limit = -1; }), "");
  EXPECT_NE(refused([](Config& c) { c.memory_limit = 100; }), "") << "not one page fits";
  EXPECT_NE(refused([](Config& c) { c.num_pages = max_position; }), "");
  EXPECT_NE(refused([](Config& c) { c.page_tokens = 64 * (max_position / 64); }), "");
  EXPECT_NE(refused([](Config& c) { c.max_tokens = -1; }), "");
  EXPECT_NE(refused([](Config& c) { c.num_layers = 0; }), "");
  Config limited = good;
  limited.num_pages = 0;
  limited.memory_limit = 1 << 20;
  const PagedCache<TypeParam> cache(limited);
  EXPECT_LE(cache.allocated_bytes(), 1 << 20);
  EXPECT_GT(cache.allocated_bytes(), (1 << 20) - cache.allocated_bytes() / cache.statistics().pages);
}

TYPED_TEST(Paged, MovesTakeEverythingAlong) {
  auto cache = this->make(4);
  const auto a = this->text(70);
  const SequenceId id = this->add(cache, a);
  const auto view = cache.layer(0, id);
  auto moved = std::move(cache);
  this->expect_holds(moved, id, a);
  EXPECT_EQ(view.retained(0), (Range{0, 70}));
  EXPECT_EQ(message_of([&] { cache.create(); }), "create: the cache was moved from");
  EXPECT_EQ(cache.num_sequences(), 0);
  EXPECT_EQ(cache.bytes(), 0);
  cache.clear();
  moved = this->make(1);
  EXPECT_THROW(view.retained(0), std::invalid_argument);
}

}  // namespace
}  // namespace gqa
