// SPDX-License-Identifier: Apache-2.0
// What each turn feeds against the whole conversation encoded at once.
#include "conversation.hpp"

#include <gtest/gtest.h>

#include "tiny_model.hpp"

namespace generate {
namespace {

using Ids = std::vector<TokenId>;

struct Loaded {
  explicit Loaded(const test::GgufWriter& writer)
      : bytes(writer.file()), file(bytes), tokenizer(file), chat(file) {}

  std::vector<std::byte> bytes;
  Gguf file;
  Tokenizer tokenizer;
  ChatTemplate chat;
};

/// With and without a beginning-of-text token, which no later turn has.
test::GgufWriter model(bool bos) {
  auto writer = test::tiny_model();
  writer.integer("tokenizer.ggml.bos_token_id", 0);
  writer.boolean("tokenizer.ggml.add_bos_token", bos);
  return writer;
}

Ids operator+(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Conversation, FeedsWhatTheWholeOneWouldBe) {
  for (const bool bos : {false, true}) {
    Loaded tiny(model(bos));
    Conversation conversation(tiny.chat, tiny.tokenizer);
    std::string text =
        "<|im_start|>system\nYou are tiny<|im_end|>\n<|im_start|>user\nthe  fox 12<|im_end|>\n"
        "<|im_start|>assistant\n";
    Ids fed = conversation.turn("the  fox 12");
    EXPECT_EQ(fed, tiny.tokenizer.encode(text));
    EXPECT_EQ(fed.front() == 0, bos);
    // Ended by the template's token, by another that ends texts, and cut short.
    for (const auto& [answer, end] :
         {std::pair("the\nanswer ", 2), std::pair(" 12 the", 0), std::pair("a", -1), std::pair("", 2)}) {
      Ids ids = tiny.tokenizer.encode_next(answer);
      if (end >= 0) ids.push_back(end);
      conversation.answered(ids);
      ids.pop_back();  // the session has not seen the last one
      fed = fed + ids;
      const std::string message = std::string("\n again ") + answer;
      text += std::string(answer) + "<|im_end|>\n<|im_start|>user\n" + message +
              "<|im_end|>\n<|im_start|>assistant\n";
      EXPECT_EQ(conversation.turn(message), conversation.turn(message)) << "asking changes nothing";
      fed = fed + conversation.turn(message);
      EXPECT_EQ(fed, tiny.tokenizer.encode(text)) << answer;
    }
    conversation.reset();
    EXPECT_EQ(conversation.turn("x"), tiny.tokenizer.encode(tiny.chat.render("x")));
  }
}

TEST(Conversation, ForgetsTheAnswerWithTheRest) {
  Loaded tiny(model(false));
  Conversation conversation(tiny.chat, tiny.tokenizer);
  (void)conversation.turn("a");
  conversation.answered(Ids{50, 51});
  conversation.reset();
  EXPECT_EQ(conversation.turn("b"), tiny.tokenizer.encode(tiny.chat.render("b")));
  conversation.answered(Ids{60, 2});
  EXPECT_EQ(conversation.turn("c").front(), 2);
}

TEST(Conversation, RefusesWhatIsNoText) {
  Loaded tiny(model(false));
  Conversation conversation(tiny.chat, tiny.tokenizer);
  EXPECT_THROW(conversation.turn("ab\xFF"), std::invalid_argument);
  conversation.answered(Ids{50, 51});
  EXPECT_THROW(conversation.turn("ab\xFF"), std::invalid_argument);
  EXPECT_EQ(conversation.turn("b").front(), 51);
}

}  // namespace
}  // namespace generate
