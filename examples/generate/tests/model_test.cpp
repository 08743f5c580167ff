// SPDX-License-Identifier: Apache-2.0
// The forward pass on tiny random models, and what a file can get wrong about them.
#include "model.hpp"

#include <gtest/gtest.h>

#include <unsupported/Eigen/CXX11/ThreadPool>

#include "generation.hpp"
#include "gqa/core/error.hpp"
#include "naive_llama.hpp"
#include "session.hpp"
#include "tiny_model.hpp"

namespace generate {
namespace {

using test::GgufWriter;

/// A model and what it needs to run.
struct Loaded {
  explicit Loaded(const GgufWriter& writer, int num_threads = 2,
                  std::optional<WeightType> weights = WeightType::f32)
      : bytes(writer.file()),
        file(bytes),
        pool(num_threads),
        model(file, gqa::PoolExecutor(pool), {.weights = weights}) {}

  std::unique_ptr<Session> session(CacheType type = CacheType::f32) {
    return make_session(model, type, gqa::PoolExecutor(pool));
  }

  std::vector<std::byte> bytes;
  Gguf file;
  Eigen::ThreadPool pool;
  Model model;
};

std::vector<TokenId> some_tokens(std::size_t count) {
  std::vector<TokenId> ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<TokenId>((i * i * 7 + 11 * i + 3) % 272);
  return ids;
}

/// The scores after each token, the tokens fed in chunks of a size.
Matrix all_scores(Session& session, std::span<const TokenId> tokens, std::size_t chunk) {
  Matrix scores(std::ssize(tokens), 272);
  for (std::size_t first = 0; first < tokens.size(); first += chunk) {
    const auto piece = tokens.subspan(first, std::min(chunk, tokens.size() - first));
    session.append(piece);
    scores.middleRows(static_cast<Index>(first), std::ssize(piece)) = session.all_logits();
  }
  return scores;
}

float largest_difference(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

/// The tiny model with other heads: keys and values of other sizes, another number of KV heads.
GgufWriter with_heads(std::uint32_t kv_heads, std::uint32_t key, std::uint32_t value) {
  auto writer = test::tiny_model();
  writer.integer("llama.attention.head_count_kv", kv_heads);
  if (kv_heads == 4) writer.remove_key("llama.attention.head_count_kv");  // MHA need not say so
  writer.integer("llama.attention.key_length", key);
  writer.integer("llama.attention.value_length", value);
  writer.remove_key("llama.rope.dimension_count");
  std::mt19937 random(1);
  for (auto tensor : std::exchange(writer.tensors, {})) {
    const auto has = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
    if (has("attn_q.")) tensor.sizes = {64, 4 * key};
    if (has("attn_k.")) tensor.sizes = {64, kv_heads * key};
    if (has("attn_v.")) tensor.sizes = {64, kv_heads * value};
    if (has("attn_output.")) tensor.sizes = {4 * value, 64};
    const auto type = static_cast<TensorType>(tensor.type);
    const std::uint64_t count = tensor.sizes[0] * (tensor.sizes.size() > 1 ? tensor.sizes[1] : 1);
    writer.tensor(tensor.name, tensor.sizes, type, test::random_blocks(type, count, random));
  }
  return writer;
}

TEST(Session, AgreesWithANaiveForwardPass) {
  const auto check = [](const char* name, GgufWriter writer) {
    // Large enough to matter.
    writer.real("llama.attention.layer_norm_rms_epsilon", 0.01F);
    Loaded tiny(writer);
    const auto tokens = some_tokens(75);  // past the first tile of the cache
    const auto session = tiny.session();
    session->append(tokens);
    const auto scores = session->logits();
    const auto expected = test::NaiveLlama(tiny.file).scores(tokens);
    ASSERT_EQ(scores.size(), expected.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      ASSERT_NEAR(scores[i], expected[i], 2e-5) << name << " " << i;
  };
  check("as it is", test::tiny_model());
  check("MHA", with_heads(4, 16, 16));
  check("MQA", with_heads(1, 16, 16));
  check("keys of 24, values of 8", with_heads(2, 24, 8));
  auto writer = test::tiny_model();
  writer.integer("llama.rope.dimension_count", 6);
  writer.integer("llama.attention.sliding_window", 20);
  std::mt19937 random(3);
  const auto add = [&](const char* name, std::uint64_t size) {
    writer.tensor(name, {size}, TensorType::f32, test::random_blocks(TensorType::f32, size, random));
  };
  add("blk.0.attn_q.bias", 64);
  add("blk.0.attn_k.bias", 32);
  add("blk.1.attn_v.bias", 32);
  add("blk.1.attn_output.bias", 64);
  add("blk.0.ffn_gate.bias", 256);
  add("blk.1.ffn_up.bias", 256);
  add("blk.1.ffn_down.bias", 64);
  writer.tensor("output.weight", {64, 272}, TensorType::q4_1,
                test::random_blocks(TensorType::q4_1, 64 * 272, random));
  check("biases, a window, partial rotation, a separate output layer", writer);
}

TEST(Session, DecodesWhatItPrefills) {
  Loaded tiny(test::tiny_model());
  const auto tokens = some_tokens(150);
  const Matrix whole = all_scores(*tiny.session(), tokens, tokens.size());
  ASSERT_TRUE(whole.allFinite());
  EXPECT_GT(whole.cwiseAbs().maxCoeff(), 0.1F);
  for (const std::size_t chunk : {1UL, 7UL, 64UL}) {
    EXPECT_EQ(all_scores(*tiny.session(), tokens, chunk), whole) << chunk;
  }
  Loaded unequal(with_heads(2, 24, 8));
  EXPECT_EQ(all_scores(*unequal.session(), tokens, 1), all_scores(*unequal.session(), tokens, 150));
}

TEST(Session, LogitsAreThoseOfTheLastToken) {
  Loaded tiny(test::tiny_model());
  const auto tokens = some_tokens(20);
  const auto session = tiny.session();
  session->append(tokens);
  const Matrix all = session->all_logits();
  const auto last = session->logits();
  ASSERT_EQ(last.size(), 272U);
  for (Index i = 0; i < 272; ++i) EXPECT_EQ(last[static_cast<std::size_t>(i)], all(19, i));
}

TEST(Session, ThreadsChangeNoBit) {
  Loaded one(test::tiny_model(), 1), three(test::tiny_model(), 3);
  const auto tokens = some_tokens(70);
  EXPECT_EQ(all_scores(*one.session(), tokens, 33), all_scores(*three.session(), tokens, 33));
}

TEST(Session, NarrowCachesComeClose) {
  Loaded tiny(test::tiny_model());
  const auto tokens = some_tokens(100);
  const Matrix exact = all_scores(*tiny.session(), tokens, 50);
  const float size = exact.cwiseAbs().maxCoeff();
  const float f16 = largest_difference(all_scores(*tiny.session(CacheType::f16), tokens, 50), exact);
  const float bf16 = largest_difference(all_scores(*tiny.session(CacheType::bf16), tokens, 50), exact);
  EXPECT_GT(f16, 0);
  EXPECT_LT(f16, 0.01F * size);
  EXPECT_GT(bf16, f16);
  EXPECT_LT(bf16, 0.1F * size);
}

TEST(Session, CountsTheCache) {
  Loaded tiny(with_heads(1, 24, 8));
  for (const auto& [type, bytes] : {std::pair(CacheType::f32, 4), std::pair(CacheType::bf16, 2)}) {
    const auto session = tiny.session(type);
    session->append(some_tokens(21));
    EXPECT_EQ(session->size(), 21);
    EXPECT_EQ(session->cache_bytes(), 2 * (24 + 8) * 21 * bytes);
    EXPECT_GT(session->attention_seconds(), 0);
  }
}

TEST(Session, ForgetsWhenCleared) {
  Loaded tiny(test::tiny_model());
  const auto session = tiny.session();
  const auto tokens = some_tokens(30);
  const Matrix first = all_scores(*session, tokens, 30);
  session->clear();
  EXPECT_EQ(session->size(), 0);
  EXPECT_EQ(all_scores(*session, tokens, 30), first);
}

TEST(Session, RefusesTokensBeyondTheContextAndTheVocabulary) {
  Loaded tiny(test::tiny_model());
  const auto session = tiny.session();
  session->append(some_tokens(190));
  EXPECT_THROW(session->append(some_tokens(11)), std::length_error);
  EXPECT_THROW(session->append(std::vector<TokenId>{3, 272}), std::invalid_argument);
  EXPECT_THROW(session->append(std::vector<TokenId>{-1}), std::invalid_argument);
  EXPECT_EQ(session->size(), 190);
  session->append(some_tokens(10));
  EXPECT_EQ(session->size(), 200);
}

TEST(Session, ReadsEveryRopeScaling) {
  const auto tokens = some_tokens(60);
  const auto scores = [&](auto change) {
    auto writer = test::tiny_model();
    change(writer);
    Loaded tiny(writer);
    return all_scores(*tiny.session(), tokens, 60);
  };
  const auto factors = [](GgufWriter& writer, float factor) {
    test::Bytes bytes;
    for (int i = 0; i < 8; ++i) bytes.number(factor);
    writer.tensor("rope_freqs.weight", {8}, TensorType::f32, bytes.get());
  };
  const Matrix plain = scores([](auto&) {});
  const Matrix linear = scores([](auto& w) {
    w.text("llama.rope.scaling.type", "linear");
    w.real("llama.rope.scaling.factor", 4);
  });
  const Matrix yarn = scores([](auto& w) {
    w.text("llama.rope.scaling.type", "yarn");
    w.real("llama.rope.scaling.factor", 4);
    w.integer("llama.rope.scaling.original_context_length", 50);
  });
  EXPECT_GT(largest_difference(linear, plain), 1e-4F);
  EXPECT_GT(largest_difference(yarn, plain), 1e-4F);
  EXPECT_GT(largest_difference(yarn, linear), 1e-4F);
  EXPECT_EQ(scores([](auto& w) { w.real("llama.rope.scale_linear", 4); }), linear);
  EXPECT_EQ(scores([&](auto& w) { factors(w, 1); }), plain);
  EXPECT_EQ(scores([&](auto& w) { factors(w, 4); }), linear);
}

std::string error_of(const GgufWriter& writer) {
  try {
    const Loaded tiny(writer);
  } catch (const gqa::format_error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Model, RefusesWhatItDoesNotSupportByName) {
  const auto changed = [](auto change) {
    auto writer = test::tiny_model();
    change(writer);
    return error_of(writer);
  };
  EXPECT_EQ(changed([](auto& w) { w.text("general.architecture", "gemma4"); }),
            "the architecture gemma4 is not supported (llama, qwen2, qwen3 and gemma3 are)");
  EXPECT_EQ(changed([](auto& w) { w.real("llama.attention.clamp_kqv", 8); }),
            "the hyper-parameter llama.attention.clamp_kqv is not supported");
  EXPECT_EQ(changed([](auto& w) { w.integer("llama.expert_count", 8); }),
            "the hyper-parameter llama.expert_count is not supported but as 0");
  EXPECT_EQ(changed([](auto& w) { w.integer("llama.expert_count", 0); }), "no error");
  EXPECT_EQ(changed([](auto& w) { w.text("llama.rope.scaling.type", "longrope"); }),
            "the rope scaling longrope is not supported (none, linear and yarn are)");
  EXPECT_EQ(changed([](auto& w) {
              w.tensor("blk.0.attn_q_norm.weight", {16}, TensorType::f32, std::vector<std::byte>(64));
            }),
            "tensor blk.0.attn_q_norm.weight is not part of a llama model as this program knows it");
}

TEST(Model, RefusesSizesThatDoNotFit) {
  const auto changed = [](auto change) {
    auto writer = test::tiny_model();
    change(writer);
    return error_of(writer);
  };
  const auto contains = [](const std::string& error, const char* part) {
    EXPECT_NE(error.find(part), std::string::npos) << error << "\nexpected: " << part;
  };
  contains(changed([](auto& w) { w.remove_key("llama.block_count"); }), "key llama.block_count is missing");
  contains(changed([](auto& w) { w.integer("llama.block_count", 3); }),
           "tensor blk.2.attn_norm.weight is missing");
  contains(changed([](auto& w) { w.integer("llama.block_count", 1); }), "blk.1.");
  contains(changed([](auto& w) { w.integer("llama.block_count", 1U << 20); }), "there are");
  contains(changed([](auto& w) { w.integer("llama.block_count", 0); }), "expected 1 to");
  contains(changed([](auto& w) { w.integer("llama.attention.head_count", 0); }), "expected 1 to");
  contains(changed([](auto& w) { w.integer("llama.attention.head_count", 3); }), "multiple of the 3 heads");
  contains(changed([](auto& w) { w.integer("llama.attention.head_count_kv", 3); }),
           "multiple of the 3 heads");
  contains(changed([](auto& w) { w.integer("llama.attention.head_count_kv", 4); }),
           "tensor blk.0.attn_k.weight is [64, 32], expected [64, 64]");
  contains(changed([](auto& w) { w.integer("llama.rope.dimension_count", 7); }), "rotary_dim is 7");
  contains(changed([](auto& w) { w.integer("llama.rope.dimension_count", 18); }), "rotary_dim is 18");
  contains(changed([](auto& w) { w.real("llama.rope.freq_base", -1); }), "theta is -1");
  contains(changed([](auto& w) { w.real("llama.rope.freq_base", std::nanf("")); }), "theta is nan");
  contains(changed([](auto& w) { w.real("llama.attention.layer_norm_rms_epsilon", -1); }), "epsilon is -1");
  contains(changed([](auto& w) { w.integer("llama.attention.key_length", 1U << 31); }),
           "key_length is 2147483648");
  contains(changed([](auto& w) {
             w.tensor("rope_freqs.weight", {7}, TensorType::f32, std::vector<std::byte>(28));
           }),
           "factor");
}

TEST(Model, SurvivesAnyChangedByteOfItsHeader) {
  // Either the file still is one, or the error says what is wrong: whatever the byte, nothing else happens.
  const auto writer = test::tiny_model();
  const std::size_t header = writer.header().size();
  auto bytes = writer.file();
  Eigen::ThreadPool pool(1);
  int refused = 0;
  for (std::size_t at = 0; at < header; ++at) {
    const std::byte original = bytes[at];
    bytes[at] = static_cast<std::byte>(std::to_integer<unsigned>(original) ^ (at % 3 == 0   ? 0x80U
                                                                              : at % 3 == 1 ? 1U
                                                                                            : 0xFFU));
    try {
      const Gguf file(bytes);
      const Tokenizer tokenizer(file);
      const auto sizes = read_hyperparameters(file);
      if (sizes.context_length < 1 << 20) (void)Model(file, gqa::PoolExecutor(pool));
    } catch (const gqa::format_error&) {
      ++refused;
    }
    bytes[at] = original;
  }
  EXPECT_GT(refused, 500);
}

TEST(Generation, StopsWhereItShould) {
  Loaded tiny(test::tiny_model());
  const Tokenizer tokenizer(tiny.file);
  const auto prompt = tokenizer.encode("the quick brown fox");
  const auto run = [&](Index context, Index max_tokens) {
    Sampler greedy(0, 0, 0);
    return continue_prompt(*tiny.session(), tokenizer, prompt, greedy, context, max_tokens);
  };
  const Generation five = run(200, 5);
  EXPECT_EQ(five.output_ids.size(), 5U);
  EXPECT_EQ(five.stop, "max-tokens");
  const Index context = std::ssize(prompt) + 2;
  const Generation full = run(context, 100);
  EXPECT_EQ(full.stop, "context");
  EXPECT_EQ(full.output_ids.size(), 3U);  // the third needs no place: nothing follows it
  EXPECT_EQ(run(std::ssize(prompt), 100).output_ids.size(), 1U);
  EXPECT_THROW(run(std::ssize(prompt) - 1, 100), std::invalid_argument);
}

TEST(Generation, StopsWhenAsked) {
  Loaded tiny(test::tiny_model());
  const Tokenizer tokenizer(tiny.file);
  const auto prompt = some_tokens(300);  // two chunks
  auto writer = test::tiny_model();
  writer.integer("llama.context_length", 1000);
  Loaded longer(writer);
  const auto stopped_after = [&](int steps) {
    Sampler greedy(0, 0, 0);
    return continue_prompt(*longer.session(), tokenizer, prompt, greedy, 1000, 100, {}, {},
                           [steps]() mutable { return steps-- == 0; });
  };
  const Generation none = stopped_after(0), half = stopped_after(1), four = stopped_after(5);
  EXPECT_EQ(none.prompt_tokens, 0U);
  EXPECT_EQ(half.prompt_tokens, 256U);
  EXPECT_EQ(four.prompt_tokens, 300U);
  EXPECT_EQ(half.output_ids.size(), 0U);
  EXPECT_EQ(four.output_ids.size(), 4U);
  for (const auto& each : {none, half, four}) {
    EXPECT_EQ(each.stop, "interrupt");
    EXPECT_GE(each.generation_rate(), 0);
    EXPECT_GE(each.prompt_rate(), 0);
  }

  const auto tokens = some_tokens(150);
  const Likelihood part =
      measure(*tiny.session(), tokens, 200, {}, [steps = 1]() mutable { return steps-- == 0; });
  EXPECT_TRUE(part.interrupted);
  EXPECT_EQ(part.num_tokens, 64);
  const Likelihood nothing = measure(*tiny.session(), tokens, 200, {}, [] { return true; });
  EXPECT_TRUE(nothing.interrupted);
  EXPECT_EQ(nothing.num_tokens, 0);
  EXPECT_FALSE(measure(*tiny.session(), tokens, 200, {}, [] { return false; }).interrupted);
}

TEST(Generation, MeasuresLikelihoodAsDefined) {
  Loaded tiny(test::tiny_model());
  const auto tokens = some_tokens(150);
  const Matrix scores = all_scores(*tiny.session(), tokens, 150);
  double sum = 0;
  for (Index t = 0; t + 1 < 150; ++t) {
    double total = 0;
    for (Index i = 0; i < 272; ++i) total += std::exp(static_cast<double>(scores(t, i)));
    sum += std::log(total) - static_cast<double>(scores(t, tokens[static_cast<std::size_t>(t + 1)]));
  }
  const auto session = tiny.session();
  const Likelihood whole = measure(*session, tokens, 200);
  EXPECT_EQ(whole.num_tokens, 149);
  EXPECT_NEAR(whole.mean_negative_log, sum / 149, 1e-4);
  // Pieces of 40, 40, 40 and 30 do not see each other.
  const Likelihood cut = measure(*session, tokens, 40);
  EXPECT_EQ(cut.num_tokens, 39 * 3 + 29);
  const Likelihood second = measure(*session, std::span(tokens).subspan(40, 40), 40);
  EXPECT_EQ(second.num_tokens, 39);
  EXPECT_THROW(measure(*session, std::span(tokens).first(1), 200), std::invalid_argument);
  EXPECT_THROW(measure(*session, {}, 200), std::invalid_argument);
}

}  // namespace
}  // namespace generate
