// SPDX-License-Identifier: Apache-2.0
// The real model against what transformers makes of the same file (data/make_expected_ids.py).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "chat_template.hpp"
#include "generation.hpp"
#include "mapped_file.hpp"
#include "real_model.hpp"
#include "utf8.hpp"

namespace generate {
namespace {

struct Loaded {
  explicit Loaded(const std::filesystem::path& path)
      : bytes(path),
        file(bytes.bytes()),
        tokenizer(file),
        pool(static_cast<int>(std::max(1U, std::thread::hardware_concurrency()))),
        model(file, gqa::PoolExecutor(pool)) {}

  std::unique_ptr<Session> session(CacheType type = CacheType::f32) {
    return make_session(model, type, gqa::PoolExecutor(pool));
  }

  MappedFile bytes;
  Gguf file;
  Tokenizer tokenizer;
  Eigen::ThreadPool pool;
  Model model;
};

const nlohmann::json& expected_prompts() {
  static const nlohmann::json prompts = [] {
    std::ifstream data(GENERATE_TEST_DATA "/expected_ids.json");
    return nlohmann::json::parse(data)["prompts"];
  }();
  return prompts;
}

class SmolLM2 : public testing::Test {
 protected:
  void SetUp() override {
    GENERATE_SKIP_WITHOUT_MODEL();
    GENERATE_SKIP_UNDER_SANITIZERS();
    loaded_ = std::make_unique<Loaded>(*test::real_model());
  }

  std::unique_ptr<Loaded> loaded_;
  const nlohmann::json& expected_ = expected_prompts();
};

TEST_F(SmolLM2, IsTheFileItShouldBe) {
  EXPECT_GE(expected_.size(), 10U);
  const Hyperparameters& sizes = loaded_->model.sizes;
  EXPECT_EQ(sizes.num_layers, 30);
  EXPECT_EQ(sizes.num_q_heads, 9);
  EXPECT_EQ(sizes.num_kv_heads, 3);
  EXPECT_EQ(sizes.head_dim, 64);
  EXPECT_EQ(sizes.rope.theta, 100000);
  EXPECT_EQ(loaded_->model.num_weights, 134'515'008U);
}

class SmolLM2Prompt : public SmolLM2, public testing::WithParamInterface<std::size_t> {};

// The prompt becomes the same ids. Then transformers' own output is fed a token at a time: at each step the
// highest score must be the token it chose, unless its two highest were closer than 0.02, and as high as
// there.
TEST_P(SmolLM2Prompt, AgreesWithTransformers) {
  const auto& prompt = expected_[GetParam()];
  const std::string text = prompt["text"];
  const auto ids =
      loaded_->tokenizer.encode(prompt["chat"] ? ChatTemplate(loaded_->file).render(text) : text);
  ASSERT_EQ(ids, prompt["prompt_ids"].get<std::vector<TokenId>>());

  const auto session = loaded_->session();
  session->append(ids);
  const auto outputs = prompt["output_ids"].get<std::vector<TokenId>>();
  const auto scores = prompt["top_logits"].get<std::vector<float>>();
  const auto close = prompt["close_steps"].get<std::vector<std::size_t>>();
  Utf8Stream stream;
  std::string decoded;
  for (std::size_t step = 0; step < outputs.size(); ++step) {
    const auto logits = session->logits();
    ASSERT_NEAR(logits[static_cast<std::size_t>(outputs[step])], scores[step], 2e-3) << "step " << step;
    if (std::ranges::find(close, step) == close.end()) {
      ASSERT_EQ(most_likely(logits), outputs[step]) << "step " << step;
    }
    decoded += stream.push(loaded_->tokenizer.bytes(outputs[step]));
    session->append({&outputs[step], 1});
  }
  EXPECT_EQ(decoded + stream.finish(), prompt["output_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(, SmolLM2Prompt, testing::Range<std::size_t>(0, expected_prompts().size()),
                         [](const auto& test) {
                           return expected_prompts()[test.param]["name"].template get<std::string>();
                         });

TEST_F(SmolLM2, AnswersInAChat) {
  for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::bf16}) {
    Sampler greedy(0, 0, 0);
    const auto ids =
        loaded_->tokenizer.encode(ChatTemplate(loaded_->file).render("What is the capital of France?"));
    const Generation result =
        continue_prompt(*loaded_->session(type), loaded_->tokenizer, ids, greedy, 8192, 40);
    EXPECT_EQ(result.text, "The capital of France is Paris.");
    EXPECT_EQ(result.stop, "end");
    EXPECT_EQ(result.output_ids.back(), 2);
  }
}

TEST_F(SmolLM2, MeasuresAsTransformersDoes) {
  int measured = 0;
  for (const auto& prompt : expected_) {
    const auto ids = prompt["prompt_ids"].get<std::vector<TokenId>>();
    if (ids.size() < 30 || ids.size() > 60) continue;  // a handful will do
    const Likelihood likelihood = measure(*loaded_->session(), ids, 8192);
    EXPECT_NEAR(likelihood.mean_negative_log, prompt["mean_negative_log"], 1e-4) << prompt["name"];
    ++measured;
  }
  EXPECT_GE(measured, 5);
}

TEST_F(SmolLM2, DecodesWhatItPrefills) {
  const auto ids = loaded_->tokenizer.encode(expected_[1]["text"].get<std::string>());
  ASSERT_GT(ids.size(), 70U);
  const auto tokens = std::span(ids).first(70);  // past the first tile of the cache
  const auto prefill = loaded_->session(), decode = loaded_->session();
  prefill->append(tokens);
  const Matrix whole = prefill->all_logits();
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    decode->append(tokens.subspan(t, 1));
    ASSERT_EQ(decode->all_logits(), whole.row(static_cast<Index>(t))) << "token " << t;
  }
}

}  // namespace
}  // namespace generate
