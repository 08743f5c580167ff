// SPDX-License-Identifier: Apache-2.0
// Beam search against all texts there are, and against one that computes every prefix from scratch.
#include "beam_search.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <vector>

#include "sampler.hpp"
#include "tiny_session.hpp"

namespace beam {
namespace {

using generate::CacheType;
using generate::test::some_tokens;
using generate::test::TinyModel;

template <class T>
constexpr CacheType type_of = std::is_same_v<T, gqa::half>       ? CacheType::f16
                              : std::is_same_v<T, gqa::bfloat16> ? CacheType::bf16
                                                                 : CacheType::f32;

/// ln p of every next token, the text read anew by a session of its own.
class FromScratch {
 public:
  FromScratch(const TinyModel& tiny, CacheType type, std::vector<TokenId> prompt)
      : tiny_(tiny), type_(type), prompt_(std::move(prompt)) {}

  const std::vector<double>& operator()(const std::vector<TokenId>& ids) {
    const auto [found, is_new] = known_.try_emplace(ids);
    if (!is_new) return found->second;
    std::vector<TokenId> text = prompt_;
    text.insert(text.end(), ids.begin(), ids.end());
    const auto session = make_session(tiny_.model, type_, tiny_.executor);
    session->append(text);
    double sum = 0;
    for (const float x : session->logits()) sum += std::exp(static_cast<double>(x));
    for (const float x : session->logits()) found->second.push_back(static_cast<double>(x) - std::log(sum));
    return found->second;
  }

 private:
  const TinyModel& tiny_;
  CacheType type_;
  std::vector<TokenId> prompt_;
  std::map<std::vector<TokenId>, std::vector<double>> known_;
};

struct Text {
  std::vector<TokenId> ids;
  double log_probability = 0;
  bool ended = false;

  double score(double penalty) const {
    return log_probability / std::pow(static_cast<double>(ids.size()), penalty);
  }
};

Text with(const Text& text, TokenId id, double log_probability, bool ended) {
  Text longer = text;
  longer.ids.push_back(id);
  longer.log_probability += log_probability;
  longer.ended = ended;
  return longer;
}

void sort_and_cut(std::vector<Text>& texts, const Settings& settings) {
  std::ranges::stable_sort(texts, [&](const Text& a, const Text& b) {
    return a.score(settings.length_penalty) > b.score(settings.length_penalty);
  });
  texts.resize(std::min(texts.size(), static_cast<std::size_t>(settings.beams)));
}

/// Beam search as it is told in a sentence: to the last token, with no early end and nothing remembered.
std::vector<Text> plain_search(FromScratch& next, const generate::Tokenizer& tokenizer, Index context,
                               Index prompt_tokens, const Settings& settings) {
  std::vector<Text> results, live(1);
  for (Index n = 1; n <= settings.max_tokens && prompt_tokens + n - 1 <= context; ++n) {
    std::vector<Text> all;
    for (const Text& text : live) {
      const auto& logs = next(text.ids);
      for (TokenId id = 0; id < std::ssize(logs); ++id)
        all.push_back(with(text, id, logs[static_cast<std::size_t>(id)], tokenizer.ends_text(id)));
    }
    std::ranges::stable_sort(
        all, [](const Text& a, const Text& b) { return a.log_probability > b.log_probability; });
    live.clear();
    for (const Text& text : all) {
      if (std::ssize(live) == settings.beams) break;
      (text.ended ? results : live).push_back(text);
    }
  }
  results.insert(results.end(), live.begin(), live.end());
  sort_and_cut(results, settings);
  return results;
}

template <class T>
class BeamSearchOf : public testing::Test {
 protected:
  static void expect_same(const Result& result, const std::vector<Text>& expected, double penalty) {
    ASSERT_EQ(result.best.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Hypothesis& h = result.best[i];
      EXPECT_EQ(h.ids, expected[i].ids) << i;
      EXPECT_NEAR(h.log_probability, expected[i].log_probability, 1e-9) << i;
      EXPECT_NEAR(h.score, expected[i].score(penalty), 1e-9) << i;
      EXPECT_EQ(h.stop == "end", expected[i].ended) << i;
    }
  }

  /// A model of three tokens that end the text, two of which are likely: those that it chooses third and
  /// eighth behind the prompt when nothing ends its text.
  static generate::test::GgufWriter ending_model(unsigned seed, const std::vector<TokenId>& prompt) {
    auto writer = generate::test::tiny_model(seed);
    const TinyModel tiny(writer);
    const auto session = make_session(tiny.model, CacheType::f32, tiny.executor);
    session->append(prompt);
    std::vector<TokenId> ids;
    for (int i = 0; i < 8; ++i) {
      ids.push_back(generate::most_likely(session->logits()));
      session->append({&ids.back(), 1});
    }
    writer.remove_key("tokenizer.ggml.eos_token_id");
    writer.integer("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(ids[2]));
    writer.integer("tokenizer.ggml.eot_token_id", static_cast<std::uint32_t>(ids[7]));
    return writer;
  }
};
using Scalars = testing::Types<float, gqa::half, gqa::bfloat16>;
TYPED_TEST_SUITE(BeamSearchOf, Scalars);

// With a beam for every token of the vocabulary nothing is lost of the texts of two tokens.
TYPED_TEST(BeamSearchOf, FindsTheBestOfAllTexts) {
  const auto prompt = some_tokens(66, 1);
  const TinyModel tiny(this->ending_model(1, prompt));
  FromScratch next(tiny, type_of<TypeParam>, prompt);
  std::vector<Text> all;
  const auto& first = next({});
  for (TokenId a = 0; a < std::ssize(first); ++a) {
    const Text text = with({}, a, first[static_cast<std::size_t>(a)], tiny.tokenizer.ends_text(a));
    if (text.ended) {
      all.push_back(text);
      continue;
    }
    const auto& second = next(text.ids);
    for (TokenId b = 0; b < std::ssize(second); ++b)
      all.push_back(with(text, b, second[static_cast<std::size_t>(b)], tiny.tokenizer.ends_text(b)));
  }
  for (const double penalty : {0.0, 1.0}) {
    const Settings settings{.beams = 272, .max_tokens = 2, .length_penalty = penalty};
    auto expected = all;
    sort_and_cut(expected, settings);
    generate::Batch<TypeParam> batch(tiny.model, tiny.executor, pages_needed(66, 200, settings));
    const Result result = search(batch, tiny.tokenizer, 200, prompt, settings);
    this->expect_same(result, expected, penalty);
    EXPECT_EQ(batch.cache().num_sequences(), 0);
    EXPECT_EQ(batch.cache().statistics().used, 0);
  }
}

TYPED_TEST(BeamSearchOf, IsWhatItIsFromScratch) {
  int ended = 0, early = 0;
  for (const auto& [seed, prompt_tokens, beams, penalty] :
       {std::tuple<unsigned, Index, Index, double>{1, 60, 3, 1},
        {2, 1, 7, 0},
        {3, 63, 4, 2},
        {4, 50, 1, 0.5},
        {5, 40, 1, 2},  // a long text overtakes a short one that is done
        {6, 40, 2, 2},
        {7, 20, 1, 3}}) {
    SCOPED_TRACE(seed);
    const auto prompt = some_tokens(prompt_tokens, seed);
    const TinyModel tiny(this->ending_model(seed, prompt));
    FromScratch next(tiny, type_of<TypeParam>, prompt);
    const Settings settings{.beams = beams, .max_tokens = 21, .length_penalty = penalty};
    const auto expected = plain_search(next, tiny.tokenizer, 200, prompt_tokens, settings);
    generate::Batch<TypeParam> batch(tiny.model, tiny.executor, pages_needed(prompt_tokens, 200, settings));
    const Result result = search(batch, tiny.tokenizer, 200, prompt, settings);
    this->expect_same(result, expected, penalty);
    for (const Hypothesis& h : result.best) ended += h.stop == "end";
    early += result.steps < settings.max_tokens;
    EXPECT_EQ(result.copied > 0, beams > 1);
  }
  EXPECT_GT(ended, 3);
  EXPECT_GT(early, 0);
}

TYPED_TEST(BeamSearchOf, EndsWithTheContextAndWhenAsked) {
  const TinyModel tiny;
  const auto prompt = some_tokens(197, 5);
  const Settings settings{.beams = 3, .max_tokens = 50};
  FromScratch next(tiny, type_of<TypeParam>, prompt);
  generate::Batch<TypeParam> batch(tiny.model, tiny.executor, pages_needed(197, 200, settings));
  const Result full = search(batch, tiny.tokenizer, 200, prompt, settings);
  this->expect_same(full, plain_search(next, tiny.tokenizer, 200, 197, settings), 1);
  EXPECT_EQ(full.best[0].stop, "context");
  EXPECT_EQ(full.steps, 4);
  EXPECT_FALSE(full.interrupted);
  int asked = 0;
  const Result stopped =
      search(batch, tiny.tokenizer, 200, prompt, settings, {}, [&] { return ++asked == 2; });
  EXPECT_TRUE(stopped.interrupted);
  EXPECT_EQ(stopped.steps, 2);
  EXPECT_EQ(stopped.best.size(), 3U);
  EXPECT_EQ(stopped.best[0].stop, "interrupt");
}

using BeamSearch = BeamSearchOf<float>;

TEST_F(BeamSearch, OfOneBeamIsGreedy) {
  const TinyModel tiny;
  const auto prompt = some_tokens(9, 3);
  const Settings settings{.beams = 1, .max_tokens = 70};
  generate::Batch<float> batch(tiny.model, tiny.executor, pages_needed(9, 200, settings));
  const Result result = search(batch, tiny.tokenizer, 200, prompt, settings);
  const auto session = make_session(tiny.model, CacheType::f32, tiny.executor);
  session->append(prompt);
  std::vector<TokenId> ids;
  while (std::ssize(ids) < 70) {
    ids.push_back(generate::most_likely(session->logits()));
    session->append({&ids.back(), 1});
  }
  ASSERT_EQ(result.best.size(), 1U);
  EXPECT_EQ(result.best[0].ids, ids);
  EXPECT_EQ(result.copied, 0);
  EXPECT_EQ(result.taken_over, 0);
  EXPECT_EQ(result.most_used, 2);
}

TEST_F(BeamSearch, SharesThePrompt) {
  const TinyModel tiny;
  const Settings settings{.beams = 5, .max_tokens = 30};
  generate::Batch<float> batch(tiny.model, tiny.executor, pages_needed(128, 200, settings));
  const Result result = search(batch, tiny.tokenizer, 200, some_tokens(128, 3), settings);
  EXPECT_EQ(result.most_used, 2 + 5);
  // Of three pages each beam copies at most the last one.
  EXPECT_GE(result.taken_over, 3 * 4);
  EXPECT_GT(result.copied, 0);
  EXPECT_LE(result.copied, result.taken_over / 2);
  const Result again = search(batch, tiny.tokenizer, 200, some_tokens(128, 3), settings);
  EXPECT_EQ(again.copied, result.copied) << "of one search alone";
  EXPECT_EQ(again.best[0].ids, result.best[0].ids);
}

TEST_F(BeamSearch, RefusesScoresThatAreNotNumbers) {
  TinyModel tiny;
  tiny.model.output_norm.setConstant(std::nanf(""));
  generate::Batch<float> batch(tiny.model, tiny.executor, 8);
  EXPECT_THROW(search(batch, tiny.tokenizer, 200, some_tokens(5, 3), {.beams = 2, .max_tokens = 5}),
               std::runtime_error);
  EXPECT_EQ(batch.cache().num_sequences(), 0);
}

TEST_F(BeamSearch, LeavesNothingBehindWherePagesRunOut) {
  const TinyModel tiny;
  const Settings settings{.beams = 5, .max_tokens = 30};
  generate::Batch<float> batch(tiny.model, tiny.executor, 3);
  EXPECT_THROW(search(batch, tiny.tokenizer, 200, some_tokens(64, 3), settings), std::length_error);
  EXPECT_THROW(search(batch, tiny.tokenizer, 200, some_tokens(193, 3), settings), std::length_error);
  EXPECT_EQ(batch.cache().num_sequences(), 0);
  EXPECT_EQ(batch.cache().statistics().used, 0);
  for (const Settings& wrong : {Settings{.beams = 0}, {.max_tokens = 0}, {.length_penalty = -1}})
    EXPECT_THROW(search(batch, tiny.tokenizer, 200, some_tokens(5, 3), wrong), std::invalid_argument);
  EXPECT_THROW(search(batch, tiny.tokenizer, 200, {}, settings), std::invalid_argument);
}

TEST(PagesNeeded, AreThoseOfThePromptOnceAndTheOthersABeam) {
  EXPECT_EQ(pages_needed(1, 200, {.beams = 1, .max_tokens = 1}), 2);
  EXPECT_EQ(pages_needed(128, 1000, {.beams = 3, .max_tokens = 2}), 2 + 1 + 3);
  EXPECT_EQ(pages_needed(130, 1000, {.beams = 3, .max_tokens = 63}), 2 + 1 + 3);
  EXPECT_EQ(pages_needed(130, 1000, {.beams = 3, .max_tokens = 64}), 2 + 1 + 6);
  EXPECT_EQ(pages_needed(130, 192, {.beams = 3, .max_tokens = 640}), 2 + 1 + 3);
}

}  // namespace
}  // namespace beam
