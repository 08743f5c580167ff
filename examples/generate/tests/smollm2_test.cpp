// SPDX-License-Identifier: Apache-2.0
// The real model against what transformers makes of the same file (data/make_expected_ids.py).
#include <gtest/gtest.h>

#include "golden.hpp"
#include "real_model.hpp"

namespace generate {
namespace {

const nlohmann::json& expected_prompts() {
  static const nlohmann::json prompts = test::golden_prompts("expected_ids.json");
  return prompts;
}

class SmolLM2 : public testing::Test {
 protected:
  void SetUp() override {
    GENERATE_SKIP_WITHOUT_MODEL();
    GENERATE_SKIP_UNDER_SANITIZERS();
    load(weights_);
  }
  explicit SmolLM2(std::optional<WeightType> weights = WeightType::f32) : weights_(weights) {}
  void load(std::optional<WeightType> weights) {
    loaded_ = std::make_unique<test::RealModel>(*test::real_model(), weights);
  }

  std::optional<WeightType> weights_;
  std::unique_ptr<test::RealModel> loaded_;
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

class SmolLM2Prompt : public SmolLM2, public testing::WithParamInterface<std::size_t> {
 protected:
  using SmolLM2::SmolLM2;
};
class SmolLM2In16Bits : public SmolLM2Prompt {
 protected:
  SmolLM2In16Bits() : SmolLM2Prompt(std::nullopt) {}
};

TEST_P(SmolLM2Prompt, AgreesWithTransformers) {
  test::expect_agreement(*loaded_, expected_[GetParam()], 2e-3F);
}

// The same text. The scores are further off by what f16 takes from the blocks' values; bf16 would take 0.1.
TEST_P(SmolLM2In16Bits, AgreesWithTransformers) {
  EXPECT_EQ(loaded_->model.weight_types, "f16");
  test::expect_agreement(*loaded_, expected_[GetParam()], 0.03F);
}

std::string name_of(const testing::TestParamInfo<std::size_t>& test) {
  return expected_prompts()[test.param]["name"];
}
INSTANTIATE_TEST_SUITE_P(, SmolLM2Prompt, testing::Range<std::size_t>(0, expected_prompts().size()), name_of);
INSTANTIATE_TEST_SUITE_P(, SmolLM2In16Bits, testing::Range<std::size_t>(0, expected_prompts().size()),
                         name_of);

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
