// SPDX-License-Identifier: Apache-2.0
// Every text against generate::continue_prompt(), which knows of no drafts.
#include "speculation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "prompt_lookup.hpp"
#include "sampler.hpp"
#include "tiny_model.hpp"

namespace speculate {
namespace {

using generate::CacheKind;
using generate::CacheType;
using generate::Generation;
using generate::Matrix;

struct Loaded {
  explicit Loaded(const generate::test::GgufWriter& writer, int num_threads = 2)
      : bytes(writer.file()),
        file(bytes),
        tokenizer(file),
        pool(num_threads),
        model(file, gqa::PoolExecutor(pool)) {}

  std::unique_ptr<generate::Session> session(CacheType type = CacheType::f32,
                                             CacheKind kind = CacheKind::contiguous) {
    return generate::make_session(model, type, gqa::PoolExecutor(pool), {}, kind);
  }
  Index context() const { return model.sizes.context_length; }

  std::vector<std::byte> bytes;
  generate::Gguf file;
  generate::Tokenizer tokenizer;
  Eigen::ThreadPool pool;
  generate::Model model;
};

/// A model whose text never ends.
generate::test::GgufWriter endless(unsigned seed, std::uint32_t context = 600) {
  auto writer = generate::test::tiny_model(seed);
  generate::test::TinyVocabulary vocabulary;
  std::ranges::fill(vocabulary.types, 1);
  writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  writer.remove_key("tokenizer.ggml.eos_token_id");
  writer.integer("llama.context_length", context);
  return writer;
}

Generation plainly(Loaded& model, std::span<const TokenId> prompt, Index max_tokens,
                   CacheType type = CacheType::f32) {
  generate::Sampler greedy(0, 0, 0);
  return generate::continue_prompt(*model.session(type), model.tokenizer, prompt, greedy, model.context(),
                                   max_tokens);
}

Speculation speculatively(Loaded& model, std::span<const TokenId> prompt, const Draft& draft,
                          Index max_tokens, CacheType type = CacheType::f32,
                          CacheKind kind = CacheKind::contiguous) {
  return speculate(*model.session(type, kind), model.tokenizer, prompt, draft, model.context(), max_tokens);
}

std::vector<TokenId> random_prompt(std::size_t count, unsigned seed, unsigned different) {
  std::mt19937 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(3 + random() % different);
  return ids;
}

/// The scores after the nodes of a tree, each path fed alone, token after token.
TEST(AppendTree, EveryNodeSeesItsPath) {
  Loaded tiny(endless(1));
  const auto prompt = random_prompt(61, 4, 250);  // the tree crosses a tile of the cache
  TokenTree tree(17);
  tree.add(std::vector<TokenId>{20, 21, 22, 23});
  tree.add(std::vector<TokenId>{20, 21, 40, 41});
  tree.add(std::vector<TokenId>{50, 20});
  for (const CacheKind kind : {CacheKind::contiguous, CacheKind::paged}) {
    const auto session = tiny.session(CacheType::f32, kind);
    session->append(prompt);
    session->append_tree(tree.tokens(), tree.parents());
    EXPECT_EQ(session->size(), 61 + tree.size());
    const Matrix scores = session->all_logits();
    ASSERT_EQ(scores.rows(), tree.size());
    bool rounded_differently = false;
    for (Index node = 0; node < tree.size(); ++node) {
      std::vector<TokenId> path;
      for (Index i = node; i >= 0; i = tree.parents()[static_cast<std::size_t>(i)])
        path.insert(path.begin(), tree.tokens()[static_cast<std::size_t>(i)]);
      const auto alone = tiny.session();
      alone->append(prompt);
      for (const TokenId id : path) alone->append({&id, 1});
      const Matrix expected = alone->all_logits();
      if (node < tree.trunk_size())
        EXPECT_EQ(scores.row(node), expected.row(0)) << node;
      else
        EXPECT_LE((scores.row(node) - expected.row(0)).cwiseAbs().maxCoeff(), 1e-4F) << node;
      rounded_differently |= scores.row(node) != expected.row(0);
    }
    EXPECT_TRUE(rounded_differently) << "else other branches could be kept as they are";
    // Once it is truncated away, nothing of it is left.
    session->truncate(61 + 2);
    const std::vector<TokenId> next{99};
    session->append(next);
    const auto alone = tiny.session();
    alone->append(prompt);
    alone->append(std::vector<TokenId>{17, 20, 99});
    EXPECT_EQ(session->all_logits().row(0), alone->all_logits().row(2));
  }
}

TEST(AppendTree, RefusesWhatIsNoTreeWithNothingChanged) {
  Loaded tiny(generate::test::tiny_model());
  const auto session = tiny.session();
  session->append(random_prompt(190, 1, 250));
  const auto refused = [&](std::vector<TokenId> tokens, std::vector<Index> parents) {
    EXPECT_THROW(session->append_tree(tokens, parents), std::invalid_argument);
    EXPECT_EQ(session->size(), 190);
  };
  refused({3, 4}, {-1});
  refused({3, 4}, {-1, 1});
  refused({3, 4}, {-2, 0});
  refused({3, 272}, {-1, 0});
  EXPECT_THROW(session->append_tree(std::vector<TokenId>(11, 3), std::vector<Index>(11, -1)),
               std::length_error);
  EXPECT_EQ(session->size(), 190);
}

/// A lookup of any shape gives the tokens of plain decoding, at any cache, to the end of the context.
TEST(Speculate, GivesTheTextOfPlainDecoding) {
  Index accepted = 0;
  for (const unsigned seed : {1U, 2U, 3U, 4U}) {
    Loaded tiny(endless(seed, 300));
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::bf16}) {
      const auto prompt = random_prompt(11 + 30 * seed, seed, seed % 2 == 0 ? 6 : 250);
      const Generation plain = plainly(tiny, prompt, 1000, type);
      ASSERT_EQ(plain.stop, "context");
      for (const auto& lookup : {PromptLookup{.ngram = 3, .draft = 8, .branches = 2},
                                 PromptLookup{.ngram = 1, .draft = 13, .branches = 5},
                                 PromptLookup{.ngram = 2, .draft = 70, .branches = 3},
                                 PromptLookup{.ngram = 5, .draft = 0, .branches = 1}}) {
        for (const CacheKind kind : {CacheKind::contiguous, CacheKind::paged}) {
          const Speculation run = speculatively(tiny, prompt, lookup, 1000, type, kind);
          ASSERT_EQ(run.generation.output_ids, plain.output_ids) << seed;
          EXPECT_EQ(run.generation.text, plain.text);
          EXPECT_EQ(run.generation.stop, plain.stop);
          EXPECT_EQ(run.generation.prompt_tokens, prompt.size());
          // Each step keeps what was accepted and one token that no draft had to foretell.
          EXPECT_EQ(std::ssize(plain.output_ids), 1 + run.steps + run.accepted);
          EXPECT_LE(run.accepted, run.drafted);
          EXPECT_LE(run.drafted, run.steps * lookup.draft);
          if (lookup.draft == 0) {
            EXPECT_EQ(run.steps, std::ssize(plain.output_ids) - 1);
          }
          accepted += run.accepted;
        }
      }
    }
  }
  EXPECT_GT(accepted, 1000) << "the texts of random models repeat themselves: drafts are often right";
}

/// Drafts that know the text and put it where they like: into the trunk, into another branch, or after a
/// wrong beginning, mixed with tokens that are wrong.
struct KnowingDraft {
  std::vector<TokenId> whole;  // prompt and output
  unsigned trunk_is_right;     // of 4 drafts
  mutable std::mt19937 random{7};
  mutable Index sure_and_right = 0;

  TokenTree operator()(std::span<const TokenId> text, std::span<const TokenId> sure, Index most) const {
    TokenTree tree(text.back());
    const auto rest = std::span(whole).subspan(std::min(text.size(), whole.size()));
    if (!sure.empty() && std::ranges::equal(sure, rest.first(std::min(rest.size(), sure.size()))))
      ++sure_and_right;
    const auto guess = [&](std::size_t right) {
      std::vector<TokenId> ids(rest.begin(),
                               rest.begin() + static_cast<std::ptrdiff_t>(std::min(right, rest.size())));
      for (unsigned i = 0; i < random() % 3; ++i) ids.push_back(static_cast<TokenId>(3 + random() % 250));
      return ids;
    };
    Index room = most;
    if (!sure.empty()) room -= tree.add(sure, room);
    room -= tree.add(guess(random() % 4 < trunk_is_right ? 1 + random() % 6 : random() % 2),
                     std::max<Index>(0, room));
    for (int branch = 0; branch < 3; ++branch) room -= tree.add(guess(1 + random() % 6), room);
    return tree;
  }
};

/// The case that rounds differently: what is right lies where decoding would not have put it.
TEST(Speculate, GivesTheTextOfPlainDecodingAlongOtherBranches) {
  Index branch_steps = 0;
  for (const unsigned seed : {1U, 2U, 3U, 4U, 5U}) {
    Loaded tiny(endless(seed, 700));
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::bf16}) {
      const auto prompt = random_prompt(20 * seed, seed, 250);
      const Generation plain = plainly(tiny, prompt, 1000, type);
      KnowingDraft draft{.whole = prompt, .trunk_is_right = seed % 4};
      draft.whole.insert(draft.whole.end(), plain.output_ids.begin(), plain.output_ids.end());
      Index sure = 0;
      const Speculation run = speculatively(
          tiny, prompt,
          [&](auto text, auto likely, Index most) {
            const TokenTree tree = draft(text, likely, most);
            sure = draft.sure_and_right;
            return tree;
          },
          1000, type);
      ASSERT_EQ(run.generation.output_ids, plain.output_ids) << seed;
      EXPECT_EQ(std::ssize(plain.output_ids), 1 + run.steps + run.accepted);
      branch_steps += run.branch_steps;
      EXPECT_GT(sure, run.branch_steps * 9 / 10) << "what a branch foretells is nearly always right";
    }
  }
  EXPECT_GT(branch_steps, 500);
}

TEST(Speculate, StopsWherePlainDecodingDoes) {
  Loaded tiny(endless(2, 120));
  const auto prompt = random_prompt(40, 2, 6);
  const PromptLookup lookup{.ngram = 2, .draft = 9, .branches = 3};
  for (const Index most : {1, 2, 3, 7, 20, 80, 81, 82}) {
    const Generation plain = plainly(tiny, prompt, most);
    const auto session = tiny.session();
    std::string streamed;
    const Speculation run = speculate(*session, tiny.tokenizer, prompt, lookup, 120, most,
                                      [&](std::string_view text) { streamed += text; });
    EXPECT_EQ(run.generation.output_ids, plain.output_ids);
    EXPECT_EQ(run.generation.stop, plain.stop);
    EXPECT_EQ(streamed, plain.text);
    EXPECT_EQ(session->size(), 40 + std::ssize(plain.output_ids) - 1) << "what was fed and kept";
  }
  const auto whole = random_prompt(120, 2, 6);
  EXPECT_EQ(speculatively(tiny, whole, lookup, 5).generation.stop, "context");
  EXPECT_THROW(speculatively(tiny, random_prompt(121, 2, 6), lookup, 5), std::invalid_argument);
  EXPECT_THROW(speculatively(tiny, {}, lookup, 5), std::invalid_argument);
}

/// Any token may end the text: each that plain decoding gives is made the one that does.
TEST(Speculate, EndsTheTextAtADraftedToken) {
  const auto prompt = random_prompt(40, 3, 6);
  const PromptLookup lookup{.ngram = 2, .draft = 9, .branches = 3};
  Loaded first(endless(3));
  const auto all = plainly(first, prompt, 100).output_ids;
  std::vector<TokenId> ends;
  for (const TokenId id : all)
    if (std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
  for (const TokenId id : ends) {
    auto writer = endless(3);
    writer.integer("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(id));
    Loaded ending(writer);
    const Generation plain = plainly(ending, prompt, 100);
    ASSERT_EQ(plain.stop, "end");
    const Speculation run = speculatively(ending, prompt, lookup, 100);
    EXPECT_EQ(run.generation.output_ids, plain.output_ids);
    EXPECT_EQ(run.generation.stop, "end");
    if (plain.output_ids.size() == 1) continue;
    // A draft that knows the text, and goes on behind its end, is accepted up to there.
    const Speculation known = speculatively(
        ending, prompt,
        [&](std::span<const TokenId> text, auto, Index) {
          TokenTree tree(text.back());
          tree.add(std::span(all).subspan(1));
          return tree;
        },
        100);
    EXPECT_EQ(known.generation.output_ids, plain.output_ids);
    EXPECT_EQ(known.steps, 1);
    EXPECT_EQ(known.accepted, std::ssize(plain.output_ids) - 1);
  }
}

TEST(Speculate, StopsWhenAsked) {
  Loaded tiny(endless(2));
  const auto prompt = random_prompt(40, 2, 6);
  const auto plain = plainly(tiny, prompt, 300).output_ids;
  for (const int calls : {0, 1, 2, 3, 50}) {
    int count = 0;
    const Speculation run = speculate(*tiny.session(), tiny.tokenizer, prompt, PromptLookup{}, tiny.context(),
                                      300, {}, {}, [&] { return count++ >= calls; });
    const auto& ids = run.generation.output_ids;
    EXPECT_EQ(run.generation.stop, "interrupt");
    EXPECT_EQ(std::ssize(ids), calls) << "once before the prompt, then after each token";
    EXPECT_TRUE(std::ranges::equal(ids, std::span(plain).first(ids.size())));
  }
}

/// A window shorter than the text: what another branch sees is by places then, what is kept is not.
TEST(Speculate, KeepsToAWindow) {
  auto writer = endless(4, 300);
  writer.integer("llama.attention.sliding_window", 23);
  Loaded tiny(writer);
  ASSERT_EQ(tiny.model.sizes.sliding_window, 23);
  const auto prompt = random_prompt(90, 4, 6);
  const auto run = speculatively(tiny, prompt, PromptLookup{.ngram = 1, .draft = 12, .branches = 4}, 200);
  EXPECT_EQ(run.generation.output_ids, plainly(tiny, prompt, 200).output_ids);
  EXPECT_GT(run.accepted, 0);
}

TEST(Speculate, SavesStepsOnTextsThatRepeat) {
  Loaded tiny(endless(2));
  const auto prompt = random_prompt(40, 2, 6);
  const Speculation run = speculatively(tiny, prompt, PromptLookup{}, 300);
  EXPECT_DOUBLE_EQ(run.tokens_per_step(), 299.0 / static_cast<double>(run.steps));
  EXPECT_DOUBLE_EQ(run.accepted_share(),
                   static_cast<double>(run.accepted) / static_cast<double>(run.drafted));
  EXPECT_GT(run.tokens_per_step(), 2);
}

}  // namespace
}  // namespace speculate
