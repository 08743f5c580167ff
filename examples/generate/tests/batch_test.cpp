// SPDX-License-Identifier: Apache-2.0
// Sequences that step together against sessions of their own.
#include "batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "tiny_session.hpp"

namespace generate {
namespace {

using test::some_tokens;
using test::TinyModel;

template <class T>
constexpr CacheType type_of = std::is_same_v<T, gqa::half>       ? CacheType::f16
                              : std::is_same_v<T, gqa::bfloat16> ? CacheType::bf16
                                                                 : CacheType::f32;

template <class T>
class BatchOf : public testing::Test {
 protected:
  /// The scores after the tokens by a session of one contiguous cache, fed all at once.
  std::vector<float> alone(const std::vector<TokenId>& tokens) {
    const auto session = make_session(tiny_.model, type_of<T>, tiny_.executor);
    session->append(tokens);
    const auto logits = session->logits();
    return {logits.begin(), logits.end()};
  }
  static std::vector<float> row(const Matrix& logits, Index i) {
    return {logits.row(i).data(), logits.row(i).data() + logits.cols()};
  }

  TinyModel tiny_;
};
using Scalars = testing::Types<float, gqa::half, gqa::bfloat16>;
TYPED_TEST_SUITE(BatchOf, Scalars);

// Prompts of odd lengths, in pieces of odd lengths, with others that decode in the same pass.
TYPED_TEST(BatchOf, GivesEverySequenceTheScoresItHasAlone) {
  Batch<TypeParam> batch(this->tiny_.model, this->tiny_.executor, 12);
  const std::vector<std::vector<TokenId>> texts = {some_tokens(1, 1), some_tokens(67, 2),
                                                   some_tokens(130, 3)};
  std::vector<gqa::SequenceId> ids;
  for (std::size_t i = 0; i < texts.size(); ++i) ids.push_back(batch.cache().create());
  std::vector<std::size_t> fed(texts.size());
  int compared = 0;
  for (std::size_t pass = 0; fed[2] < texts[2].size(); ++pass) {
    std::vector<Piece> pieces;
    std::vector<std::size_t> who;
    for (std::size_t i = texts.size(); i-- > 0;) {  // in another order than they were created
      const std::size_t n = std::min(1 + (pass * 7 + i * 5) % 31, texts[i].size() - fed[i]);
      if (n == 0) continue;
      pieces.push_back({ids[i], std::span(texts[i]).subspan(fed[i], n)});
      fed[i] += n;
      who.push_back(i);
    }
    batch.step(pieces);
    ASSERT_EQ(batch.num_pieces(), std::ssize(pieces));
    std::vector<Index> rows(pieces.size());
    std::iota(rows.rbegin(), rows.rend(), 0);  // backwards
    const Matrix& logits = batch.logits(rows);
    for (Index r = 0; r < std::ssize(rows); ++r) {
      const std::size_t i = who[static_cast<std::size_t>(rows[static_cast<std::size_t>(r)])];
      const std::vector<TokenId> before(texts[i].begin(), texts[i].begin() + static_cast<Index>(fed[i]));
      ASSERT_EQ(this->row(logits, r), this->alone(before)) << "sequence " << i << " after " << fed[i];
      ++compared;
    }
  }
  EXPECT_GE(compared, 10);
}

// A fork in the middle of a page goes on in both, and so does what takes a published prefix.
TYPED_TEST(BatchOf, GoesOnBehindForksAndPrefixes) {
  Batch<TypeParam> batch(this->tiny_.model, this->tiny_.executor, 12);
  auto& cache = batch.cache();
  const std::vector<TokenId> prompt = some_tokens(75, 1), one = some_tokens(9, 2), two = some_tokens(3, 3);
  const auto with = [&](const std::vector<TokenId>& end) {
    std::vector<TokenId> text = prompt;
    text.insert(text.end(), end.begin(), end.end());
    return text;
  };
  const gqa::SequenceId a = cache.create();
  batch.step(std::vector<Piece>{{a, prompt}});
  cache.publish(a, prompt);
  const gqa::SequenceId b = cache.fork(a);
  const auto c = cache.create(std::span(prompt).first(70));
  EXPECT_EQ(c.tokens, 64);
  batch.step(std::vector<Piece>{{a, one}, {b, two}, {c.id, std::span(prompt).subspan(64)}});
  const Matrix& logits = batch.logits(std::vector<Index>{0, 1, 2});
  EXPECT_EQ(this->row(logits, 0), this->alone(with(one)));
  EXPECT_EQ(this->row(logits, 1), this->alone(with(two)));
  EXPECT_EQ(this->row(logits, 2), this->alone(prompt));
}

TYPED_TEST(BatchOf, RefusesWithNothingChanged) {
  Batch<TypeParam> batch(this->tiny_.model, this->tiny_.executor, 4);
  auto& cache = batch.cache();
  const gqa::SequenceId a = cache.create(), b = cache.create(), gone = cache.create();
  cache.free(gone);
  const std::vector<TokenId> text = some_tokens(63, 1), more = some_tokens(200, 2), none, wrong = {3, 272};
  batch.step(std::vector<Piece>{{a, text}});
  const auto step = [&](const std::vector<Piece>& pieces) { batch.step(pieces); };
  EXPECT_THROW(step({}), std::invalid_argument);
  EXPECT_THROW(step({{a, none}}), std::invalid_argument);
  EXPECT_THROW(step({{b, text}, {a, none}}), std::invalid_argument);
  EXPECT_THROW(step({{a, text}, {a, text}}), std::invalid_argument);
  EXPECT_THROW(step({{b, text}, {a, wrong}}), std::invalid_argument);
  EXPECT_THROW(step({{b, text}, {gone, text}}), std::out_of_range);
  EXPECT_THROW(step({{b, text}, {a, more}}), std::length_error);                        // the context
  EXPECT_THROW(step({{a, text}, {b, std::span(more).first(190)}}), std::length_error);  // the pool
  EXPECT_THROW(batch.logits(std::vector<Index>{1}), std::invalid_argument);
  EXPECT_THROW(batch.logits(std::vector<Index>{-1}), std::invalid_argument);
  EXPECT_EQ(cache.size(a), 63);
  EXPECT_EQ(cache.size(b), 0);
  EXPECT_EQ(cache.statistics().used, 1);
  // What was there is there to go on from.
  const std::vector<TokenId> next = {17};
  std::vector<TokenId> whole = text;
  whole.push_back(17);
  batch.step(std::vector<Piece>{{a, next}});
  EXPECT_EQ(this->row(batch.logits(std::vector<Index>{0}), 0), this->alone(whole));
  std::vector<std::byte> memory(static_cast<std::size_t>(cache.swap_bytes(a)));
  cache.swap_out(a, memory);
  EXPECT_THROW(step({{b, text}, {a, next}}), std::invalid_argument);
  EXPECT_EQ(cache.size(b), 0);
}

TEST(WindowedBatch, GivesTheScoresOfASession) {
  auto writer = test::tiny_model();
  writer.integer("llama.attention.sliding_window", 70);
  const TinyModel tiny(writer);
  const auto tokens = some_tokens(150, 3);
  Batch<float> batch(tiny.model, tiny.executor, 3);
  const auto session = make_session(tiny.model, CacheType::f32, tiny.executor);
  batch.step(std::vector<Piece>{{batch.cache().create(), tokens}});
  session->append(tokens);
  const Matrix& logits = batch.logits(std::vector<Index>{0});
  EXPECT_TRUE(std::ranges::equal(std::span(logits.data(), static_cast<std::size_t>(logits.cols())),
                                 session->logits()));
}

}  // namespace
}  // namespace generate
