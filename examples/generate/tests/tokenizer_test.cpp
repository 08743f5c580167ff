// SPDX-License-Identifier: Apache-2.0
#include "tokenizer.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "chat_template.hpp"
#include "gqa/core/error.hpp"
#include "mapped_file.hpp"
#include "real_model.hpp"
#include "tiny_model.hpp"

namespace generate {
namespace {

using test::GgufWriter;
using Ids = std::vector<TokenId>;

/// A tokeniser and the file it reads from.
struct Loaded {
  explicit Loaded(const GgufWriter& writer) : bytes(writer.file()), file(bytes), tokenizer(file) {}

  std::string round_trip(std::string_view text) const {
    std::string back;
    for (const TokenId id : tokenizer.encode(text)) back += tokenizer.bytes(id);
    return back;
  }
  TokenId id(std::string_view token) const { return *Vocabulary(file).find(token); }

  std::vector<std::byte> bytes;
  Gguf file;
  Tokenizer tokenizer;
};

TEST(Tokenizer, MergesByRank) {
  const Loaded tiny(test::tiny_model());
  EXPECT_EQ(tiny.tokenizer.encode("the"), Ids{tiny.id("the")});
  EXPECT_EQ(tiny.tokenizer.encode(" the"), Ids{tiny.id("\u0120the")});
  EXPECT_EQ(tiny.tokenizer.encode("thx"), (Ids{tiny.id("th"), tiny.id("x")}));
  EXPECT_EQ(tiny.tokenizer.encode("tthe"), (Ids{tiny.id("t"), tiny.id("the")}));
  EXPECT_EQ(tiny.tokenizer.encode(""), Ids{});
  // Of equal pairs the leftmost.
  const TokenId a = tiny.id("a"), aa = tiny.id("aa");
  EXPECT_EQ(tiny.tokenizer.encode("aaa"), (Ids{aa, a}));
  EXPECT_EQ(tiny.tokenizer.encode("aaaaaaa"), (Ids{aa, aa, aa, a}));
}

TEST(Tokenizer, CutsTextAsThePreTokeniserSays) {
  auto writer = test::tiny_model();
  const Loaded smollm(writer);
  writer.text("tokenizer.ggml.pre", "gpt-2");
  const Loaded gpt2(writer);
  writer.text("tokenizer.ggml.pre", "llama-bpe");
  writer.boolean("tokenizer.ggml.add_bos_token", false);
  const Loaded llama(writer);
  writer.text("tokenizer.ggml.pre", "qwen2");
  writer.remove_key("tokenizer.ggml.add_bos_token");
  const Loaded qwen(writer);
  const TokenId one = smollm.id("1"), two = smollm.id("2"), twelve = smollm.id("12");
  const TokenId space = smollm.id("\u0120"), spaces = smollm.id("\u0120\u0120"), a = smollm.id("a");
  EXPECT_EQ(smollm.tokenizer.encode("12"), (Ids{one, two}));  // digits one by one
  EXPECT_EQ(gpt2.tokenizer.encode("12"), (Ids{twelve}));
  EXPECT_EQ(llama.tokenizer.encode("12"), (Ids{twelve}));
  EXPECT_EQ(qwen.tokenizer.encode("12"), (Ids{one, two}));
  EXPECT_EQ(qwen.tokenizer.encode("a  1"), (Ids{a, space, space, one}));
  // The last space of a run belongs to the word after it, but a digit cuts the text before the run is looked
  // at.
  EXPECT_EQ(smollm.tokenizer.encode("a  1"), (Ids{a, spaces, one}));
  EXPECT_EQ(gpt2.tokenizer.encode("a  1"), (Ids{a, space, space, one}));
  EXPECT_EQ(smollm.tokenizer.encode("a   a"), (Ids{a, spaces, space, a}));
  EXPECT_EQ(llama.tokenizer.encode("1212"), (Ids{twelve, one, two}));  // three digits at most
}

TEST(Tokenizer, TakesAWholeWordFirstWhereLlama3Does) {
  // "the" without the merge that makes it.
  auto writer = test::tiny_model();
  writer.texts("tokenizer.ggml.merges", {"t h"});
  EXPECT_EQ(Loaded(writer).tokenizer.encode("the").size(), 2U);
  writer.text("tokenizer.ggml.pre", "llama-bpe");
  writer.boolean("tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(Loaded(writer).tokenizer.encode("the").size(), 1U);
}

TEST(Tokenizer, RoundTripsText) {
  const Loaded tiny(test::tiny_model());
  for (const std::string_view text : {"hello", "  \t\n the  1234 caf\u00e9", "\u4e2d\u6587 \U0001F355",
                                      "\u0001\u007f\u00ad\u0085\u180e\u3000x"}) {
    EXPECT_EQ(tiny.round_trip(text), text);
  }
  EXPECT_EQ(tiny.round_trip(std::string_view("a\0b", 3)), std::string_view("a\0b", 3));
}

TEST(Tokenizer, TakesSpecialTokensWhole) {
  const Loaded tiny(test::tiny_model());
  EXPECT_EQ(tiny.tokenizer.encode("<|im_start|>the<|im_end|><|im_end|>"), (Ids{1, tiny.id("the"), 2, 2}));
  EXPECT_EQ(tiny.round_trip("a<|im_end|>b<|im_"), "ab<|im_");
  EXPECT_TRUE(tiny.tokenizer.ends_text(2));
  EXPECT_TRUE(tiny.tokenizer.ends_text(0));
  EXPECT_FALSE(tiny.tokenizer.ends_text(1));
}

TEST(Tokenizer, PrefersTheLongestSpecialToken) {
  auto writer = test::tiny_model();
  test::TinyVocabulary vocabulary;
  vocabulary.tokens[270] = "<|im_start|>user";
  vocabulary.types[270] = 4;
  writer.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  const Loaded tiny(writer);
  EXPECT_EQ(tiny.tokenizer.encode("<|im_start|>user"), Ids{270});
  EXPECT_EQ(tiny.tokenizer.bytes(270), "<|im_start|>user");  // user-defined, so its text is text
}

TEST(Tokenizer, AddsBosWhereTheFileSaysSo) {
  auto writer = test::tiny_model();
  writer.boolean("tokenizer.ggml.add_bos_token", true);
  const Loaded tiny(writer);
  EXPECT_EQ(tiny.tokenizer.encode("the"), (Ids{1, tiny.id("the")}));
  EXPECT_EQ(tiny.tokenizer.encode("<|im_start|>the"), (Ids{1, tiny.id("the")}));
}

TEST(Tokenizer, TakesLongRunsInReasonableTime) {
  const Loaded tiny(test::tiny_model());
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tiny.tokenizer.encode(std::string(300'000, ' ')).size(), 150'000U);
  std::string the;
  for (int i = 0; i < 100'000; ++i) the += "the";
  EXPECT_EQ(tiny.tokenizer.encode(the).size(), 100'000U);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Tokenizer, EncodesOnSeveralThreadsAtOnce) {
  // ThreadSanitizer does not see into PCRE2: the ids tell. Long enough for the threads to overlap.
  const Loaded tiny(test::tiny_model());
  const std::string texts[] = {"the 12 xx yyy zzzz 345 aaaaaa", "a b c 1 2 3 d e f g h i j k l m n o"};
  const Ids expected[] = {tiny.tokenizer.encode(texts[0]), tiny.tokenizer.encode(texts[1])};
  std::atomic<int> ready = 0, wrong = 0;
  const auto encode = [&](int i) {
    ++ready;
    while (ready < 2) std::this_thread::yield();
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
    while (wrong == 0 && std::chrono::steady_clock::now() < end) {
      try {
        if (tiny.tokenizer.encode(texts[i]) != expected[i]) ++wrong;
      } catch (const std::exception&) {
        ++wrong;
      }
    }
  };
  std::thread other(encode, 1);
  encode(0);
  other.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, RefusesSpecialTokensThatWouldCutACodePoint) {
  for (const std::int32_t type : {3, 4}) {
    for (const std::string text : {"\xA9", "\xC3", "ab\xFF", "\xE2\x82"}) {
      auto writer = test::tiny_model();
      test::TinyVocabulary vocabulary;
      vocabulary.tokens[270] = text;
      vocabulary.types[270] = type;
      writer.texts("tokenizer.ggml.tokens", vocabulary.tokens);
      writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
      try {
        const Loaded tiny(writer);
        ADD_FAILURE() << "not refused; the e with an acute accent is "
                      << tiny.tokenizer.encode("\u00e9").size() << " tokens";
      } catch (const gqa::format_error& error) {
        EXPECT_STREQ(error.what(), "the text of the special token 270 is not valid UTF-8");
      }
    }
  }
}

TEST(Tokenizer, RefusesInvalidUtf8) {
  const Loaded tiny(test::tiny_model());
  EXPECT_THROW(tiny.tokenizer.encode("ab\xFFz"), std::invalid_argument);
}

TEST(Tokenizer, RefusesWhatItDoesNotKnow) {
  const auto error_of = [](const GgufWriter& writer) -> std::string {
    try {
      const Loaded tiny(writer);
    } catch (const gqa::format_error& error) {
      return error.what();
    }
    return "no error";
  };
  auto writer = test::tiny_model();
  writer.text("tokenizer.ggml.model", "bert");
  EXPECT_EQ(error_of(writer), "the tokeniser bert is not supported (gpt2 and llama are)");
  writer = test::tiny_model();
  writer.text("tokenizer.ggml.pre", "tekken");
  EXPECT_NE(error_of(writer).find("tekken"), std::string::npos);
  writer = test::tiny_model();
  writer.texts("tokenizer.ggml.merges", {"th"});
  EXPECT_EQ(error_of(writer), "merge 0 is not two tokens");
  writer.texts("tokenizer.ggml.merges", {"t h", "t q"});
  EXPECT_EQ(error_of(writer), "merge 1 names a token that is missing");
  writer = test::tiny_model();
  writer.integer("tokenizer.ggml.eos_token_id", 272);
  EXPECT_NE(error_of(writer).find("eos_token_id is 272"), std::string::npos);
  writer = test::tiny_model();
  writer.numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 1});
  EXPECT_EQ(error_of(writer), "tokenizer.ggml.token_type holds 2 types for 272 tokens");
  writer = test::tiny_model();
  writer.texts("tokenizer.ggml.tokens", {});
  EXPECT_EQ(error_of(writer), "tokenizer.ggml.tokens holds 0 tokens");
}

/// Every character but the letters a to d is unknown to this SentencePiece vocabulary.
GgufWriter sentence_piece() {
  GgufWriter writer;
  writer.text("tokenizer.ggml.model", "llama");
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> types{2, 3, 3};
  constexpr char digits[] = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    tokens.push_back(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">");
    types.push_back(6);
  }
  std::vector<float> scores(tokens.size(), 0);
  const auto add = [&](const char* token, float score) {
    tokens.push_back(token);
    types.push_back(1);
    scores.push_back(score);
  };
  add("ab", -1);        // 259
  add("bc", -2);        // 260
  add("\u2581ab", -3);  // 261
  add("abc", -4);       // 262
  add("\u2581", -5);    // 263
  add("a", -6);         // 264
  add("b", -7);         // 265
  add("c", -8);         // 266
  writer.texts("tokenizer.ggml.tokens", tokens);
  writer.numbers("tokenizer.ggml.token_type", 5, types);
  writer.numbers("tokenizer.ggml.scores", 6, scores);
  writer.integer("tokenizer.ggml.bos_token_id", 1);
  writer.integer("tokenizer.ggml.eos_token_id", 2);
  return writer;
}

TEST(SentencePiece, MergesByScoreAndSpellsUnknownCharactersInBytes) {
  const Loaded model(sentence_piece());
  EXPECT_EQ(model.tokenizer.encode("ab"), (Ids{1, 261}));        // the prefix space
  EXPECT_EQ(model.tokenizer.encode("abc"), (Ids{1, 261, 266}));  // "\u2581ab" beats "abc"
  EXPECT_EQ(model.tokenizer.encode("bc  a"), (Ids{1, 263, 260, 263, 263, 264}));
  EXPECT_EQ(model.tokenizer.encode("\u00e9"), (Ids{1, 263, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(model.round_trip("ab bc \u00e9\n"), " ab bc \u00e9\n");
  EXPECT_TRUE(model.tokenizer.ends_text(2));
}

TEST(SentencePiece, ReadsScoresAndFlags) {
  auto writer = sentence_piece();
  writer.boolean("tokenizer.ggml.add_space_prefix", false);
  writer.boolean("tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(Loaded(writer).tokenizer.encode("abc"), (Ids{262}));
  writer.numbers<float>("tokenizer.ggml.scores", 6, {0});
  EXPECT_THROW(Loaded{writer}, gqa::format_error);
  writer = sentence_piece();
  writer.text("tokenizer.ggml.pre", "default");
  EXPECT_EQ(Loaded(writer).tokenizer.encode("ab"), (Ids{1, 261}));
  writer.text("tokenizer.ggml.pre", "llama-bpe");
  EXPECT_THROW(Loaded{writer}, gqa::format_error);
}

TEST(ChatTemplate, ReadsTheDefaultSystemMessage) {
  const auto render = [](std::string_view source) {
    auto writer = test::tiny_model();
    writer.text("tokenizer.chat_template", source);
    const auto bytes = writer.file();
    const Gguf file(bytes);
    return ChatTemplate(file).render("Hi");
  };
  const std::string turn = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(render("{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}"),
            "<|im_start|>system\nBe kind<|im_end|>\n" + turn);
  EXPECT_EQ(render("{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}"),
            "<|im_start|>system\nBe kind<|im_end|>\n" + turn);
  EXPECT_EQ(render("{{ '<|im_start|>system\n' + message + '<|im_end|>' }}"), turn);
  EXPECT_EQ(render("{{ '<|im_start|>' + role + '<|im_end|>' }}"), turn);
  EXPECT_THROW(render("{{ '[INST] ' + message }}"), gqa::format_error);
  EXPECT_THROW(render("<|im_start|>system\nBe k\xFFnd<|im_end|>"), gqa::format_error);
}

class RealTokenizer : public testing::Test {
 protected:
  void SetUp() override {
    GENERATE_SKIP_WITHOUT_MODEL();
    mapped_ = std::make_unique<MappedFile>(*test::real_model());
    file_ = std::make_unique<Gguf>(mapped_->bytes());
    tokenizer_ = std::make_unique<Tokenizer>(*file_);
  }
  Ids encode(std::string_view text) const { return tokenizer_->encode(text); }

  std::unique_ptr<MappedFile> mapped_;
  std::unique_ptr<Gguf> file_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(RealTokenizer, GivesThePublishedIds) {
  EXPECT_EQ(encode("Hello, we can use"), (Ids{19556, 28, 392, 416, 722}));
  EXPECT_EQ(encode("The capital of France is"), (Ids{504, 3575, 282, 4649, 314}));
  EXPECT_EQ(
      encode("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
      (Ids{2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182}));
  EXPECT_EQ(encode("\n"), (Ids{198}));
  EXPECT_EQ(encode("Hello world! 123"), (Ids{19556, 905, 17, 216, 33, 34, 35}));
  EXPECT_EQ(encode("Caf\u00e9 d\u00e9j\u00e0 vu."), (Ids{51, 1939, 2756, 32564, 90, 16739, 386, 101, 30}));
  EXPECT_EQ(encode("  multiple   spaces"), (Ids{216, 2701, 256, 5600}));
}

TEST_F(RealTokenizer, RendersTheChatTemplate) {
  EXPECT_EQ(
      ChatTemplate(*file_).render("Hi"),
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace generate
