// SPDX-License-Identifier: Apache-2.0
// The program in a conversation: --chat without a prompt.
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "conversation.hpp"
#include "generation.hpp"
#include "program.hpp"
#include "real_model.hpp"
#include "session.hpp"

namespace generate {
namespace {

using Ids = std::vector<TokenId>;

class Chat : public test::Program {
 protected:
  Result say(const std::string& lines, std::vector<std::string> arguments = {}) const {
    std::ofstream(path("lines"), std::ios::binary) << lines;
    arguments.insert(arguments.begin(), {"--model", path("tiny.gguf"), "--chat"});
    return run(arguments, "cat " + path("lines") + " |", "");
  }
  /// The objects that are printed: one a turn, and the report.
  std::vector<nlohmann::json> objects(const std::string& lines, std::vector<std::string> arguments = {},
                                      int code = 0) const {
    arguments.push_back("--json");
    const Result result = say(lines, arguments);
    EXPECT_EQ(result.code, code) << result.err;
    if (code == 0) {
      EXPECT_EQ(result.err, "");
    }
    std::vector<nlohmann::json> all;
    std::istringstream out(result.out);
    for (std::string line; std::getline(out, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
};

TEST_F(Chat, AnswersEachTurnAsIfAllHadBeenReadAtOnce) {
  for (const char* cache : {"contiguous", "paged"}) {
    for (const int most : {1, 7}) {
      const auto all =
          objects("the fox\nsays 12\n\nthe end", {"--max-tokens", std::to_string(most), "--cache", cache});
      ASSERT_EQ(all.size(), 4U);
      const auto bytes = test::tiny_model().file();
      const Gguf file(bytes);
      const Tokenizer tokenizer(file);
      Eigen::ThreadPool pool(1);
      const Model model(file, gqa::PoolExecutor(pool));
      const ChatTemplate chat_template(file);
      Conversation conversation(chat_template, tokenizer);
      const char* const messages[] = {"the fox", "says 12", "the end"};
      Ids before;
      std::size_t prompt_tokens = 0, output_tokens = 0;
      for (int i = 0; i < 3; ++i) {
        const auto prompt = all[static_cast<std::size_t>(i)]["prompt_ids"].get<Ids>();
        const auto output = all[static_cast<std::size_t>(i)]["output_ids"].get<Ids>();
        EXPECT_EQ(prompt, conversation.turn(messages[i]));
        conversation.answered(output);
        before.insert(before.end(), prompt.begin(), prompt.end());
        Sampler greedy(0, 0, 0);
        const auto session = make_session(model, CacheType::f32, gqa::PoolExecutor(pool));
        const Generation whole = continue_prompt(*session, tokenizer, before, greedy, 200, most);
        EXPECT_EQ(output, whole.output_ids) << "turn " << i;
        EXPECT_EQ(all[static_cast<std::size_t>(i)]["text"], whole.text);
        EXPECT_EQ(all[static_cast<std::size_t>(i)]["stop"], whole.stop);
        before.insert(before.end(), output.begin(), output.end() - 1);
        EXPECT_EQ(all[static_cast<std::size_t>(i)]["conversation_tokens"], before.size());
        prompt_tokens += prompt.size();
        output_tokens += output.size();
      }
      const auto& report = all.back();
      EXPECT_EQ(report["turns"], 3);
      EXPECT_EQ(report["prompt_tokens"], prompt_tokens);
      EXPECT_EQ(report["generated_tokens"], output_tokens);
      EXPECT_EQ(report["kv_cache"]["now"]["tokens"], before.size());
      EXPECT_EQ(report["cache"], cache);
      EXPECT_EQ(report["stop"], "end");
    }
  }
}

TEST_F(Chat, FirstTurnIsTheAnswerToAPrompt) {
  const auto prompt = json({"--chat", "--prompt", "the fox", "--max-tokens", "9"});
  const auto turn = objects("the fox\r\n", {"--max-tokens", "9"}).front();
  for (const char* key : {"prompt_ids", "output_ids", "text", "stop"}) EXPECT_EQ(turn[key], prompt[key]);
  const Result text = say("the fox\n", {"--max-tokens", "9"});
  EXPECT_EQ(text.code, 0);
  EXPECT_EQ(text.out, prompt["text"].get<std::string>() + "\n");
  EXPECT_NE(text.err.find("(stopped by: end)"), std::string::npos) << text.err;
  EXPECT_EQ(text.err.find("> "), std::string::npos) << "this is no terminal";
}

TEST_F(Chat, ForgetsOnReset) {
  const auto all = objects("the fox\nmore\n/reset\nthe fox\n", {"--max-tokens", "5"});
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[2]["prompt_ids"], all[0]["prompt_ids"]);
  EXPECT_EQ(all[2]["output_ids"], all[0]["output_ids"]);
  EXPECT_EQ(all[2]["conversation_tokens"], all[0]["conversation_tokens"]);
  EXPECT_NE(all[1]["prompt_ids"], all[0]["prompt_ids"]);
  // Only the whole line is a command.
  EXPECT_EQ(objects("/reset it\n", {"--max-tokens", "5"}).size(), 2U);
  EXPECT_EQ(objects("/reset\n").size(), 1U);
}

TEST_F(Chat, SaysWhenTheContextIsFull) {
  const std::string message(60, 'x');
  const auto lines = message + "\n" + message + "\n" + message + "\n/reset\nthe fox\n";
  const auto all = objects(lines, {"--max-tokens", "5"}, 2);
  // The third turn is refused, and what follows the reset is answered as ever.
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[2]["output_ids"], objects("the fox", {"--max-tokens", "5"})[0]["output_ids"]);
  const Result result = say(lines, {"--max-tokens", "5"});
  EXPECT_NE(result.err.find("the context is full: this turn has "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("the model's context 200; /reset forgets"), std::string::npos) << result.err;
  // A refused turn leaves the conversation as it was.
  const auto shorter = objects("the fox\n" + std::string(150, 'x') + "\nhi\n", {"--max-tokens", "2"}, 2);
  const auto without = objects("the fox\nhi\n", {"--max-tokens", "2"});
  ASSERT_EQ(shorter.size(), 3U);
  EXPECT_EQ(shorter[1], without[1]);
  const Result alone = say(std::string(201, 'x') + "\n");
  EXPECT_EQ(alone.code, 2);
  EXPECT_EQ(alone.err.find("/reset"), std::string::npos) << "there is nothing to forget";
}

TEST_F(Chat, UsesTheWholeContext) {
  const auto fixed =
      static_cast<std::size_t>(objects("x", {"--max-tokens", "1"})[0]["prompt_ids"].size()) - 1;
  const auto all =
      objects(std::string(200 - fixed, 'x') + "\n/reset\n" + std::string(201 - fixed, 'x') + "\n", {}, 2);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0]["prompt_ids"].size(), 200U);
  EXPECT_EQ(all[0]["output_ids"].size(), 1U);
}

TEST_F(Chat, SaysWhenAnAnswerFillsTheContext) {
  auto writer = test::tiny_model();
  test::TinyVocabulary vocabulary;
  std::ranges::fill(vocabulary.types, 1);  // no token ends a text
  writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  writer.remove_key("tokenizer.ggml.eos_token_id");
  write("tiny.gguf", writer);
  const Result filled = say("x\n");
  EXPECT_EQ(filled.code, 0);
  EXPECT_NE(filled.err.find("the context of 200 tokens is full; /reset forgets"), std::string::npos)
      << filled.err;
  const Result more = say("x\nmore\n/reset\nx\n");
  EXPECT_EQ(more.code, 2);
  EXPECT_EQ(more.out, filled.out + filled.out) << "full, refused, and answered again";
}

TEST_F(Chat, TellsWhatIsNoText) {
  const auto all = objects("the fox\nab\xFF\nmore\n", {"--max-tokens", "5"}, 2);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[1]["output_ids"], objects("the fox\nmore\n", {"--max-tokens", "5"})[1]["output_ids"]);
  EXPECT_NE(say("ab\xFFz\n").err.find("not valid UTF-8 at byte"), std::string::npos);
}

TEST_F(Chat, NeedsItsInput) {
  EXPECT_EQ(objects("").size(), 1U);
  expect_refused(run({"--model", "-", "--chat"}, "", "<" + path("tiny.gguf")),
                 "--chat without a prompt and --model both read standard input");
  const Result closed = run({"--model", path("tiny.gguf"), "--chat"}, "", "<&-");
  EXPECT_EQ(closed.code, 2);
  EXPECT_NE(closed.err.find("cannot read standard input"), std::string::npos) << closed.err;
  auto writer = test::tiny_model();
  writer.text("tokenizer.chat_template", "[INST]");
  write("template.gguf", writer);
  expect_refused(run({"--model", path("template.gguf"), "--chat"}), "ChatML");
}

TEST_F(Chat, RemembersWithARealModel) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  std::ofstream(path("lines")) << "What is the capital of France?\nWhat is the population of that city?\n"
                                  "/reset\nWhat is the population of that city?\n";
  const Result result =
      run({"--model", test::real_model()->string(), "--chat", "--max-tokens", "40"}, "", "<" + path("lines"));
  EXPECT_EQ(result.code, 0) << result.err;
  std::istringstream out(result.out);
  std::string first, second, forgetful;
  std::getline(out, first);
  std::getline(out, second);
  std::getline(out, forgetful);
  EXPECT_NE(first.find("Paris"), std::string::npos) << result.out;
  EXPECT_NE(second.find("Paris"), std::string::npos) << result.out;
  EXPECT_EQ(forgetful.find("Paris"), std::string::npos) << result.out;
}

}  // namespace
}  // namespace generate
