// SPDX-License-Identifier: Apache-2.0
// Gemma 3 270M against what transformers makes of the same file, its text cut by sentencepiece
// (data/make_expected_ids.py). Windows in five of six layers, one KV head, blocks of four types.
#include <gtest/gtest.h>

#include "golden.hpp"
#include "real_model.hpp"

namespace generate {
namespace {

const nlohmann::json& expected_prompts() {
  static const nlohmann::json prompts = test::golden_prompts("expected_gemma3_ids.json");
  return prompts;
}

class Gemma3 : public testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    if (!test::gemma3_model()) GTEST_SKIP() << "the model is not here; the target gemma3 fetches it";
    GENERATE_SKIP_UNDER_SANITIZERS();
  }
};

TEST_P(Gemma3, AgreesWithTransformers) {
  test::RealModel real(*test::gemma3_model(), WeightType::f32);
  EXPECT_EQ(real.model.num_weights, 268'098'176U);
  const auto& prompt = expected_prompts()[GetParam()];
  test::expect_agreement(real, prompt, 2e-3F);
  if (prompt["name"] == "long") test::expect_agreement(real, prompt, 2e-3F, CacheKind::ring);
}

TEST_P(Gemma3, AgreesIn16Bits) {
  test::RealModel real(*test::gemma3_model(), {});
  EXPECT_EQ(real.model.weight_types, "f16");
  test::expect_agreement(real, expected_prompts()[GetParam()], 0.03F);
}

INSTANTIATE_TEST_SUITE_P(, Gemma3, testing::Range<std::size_t>(0, expected_prompts().size()),
                         [](const auto& test) {
                           return expected_prompts()[test.param]["name"].template get<std::string>();
                         });

}  // namespace
}  // namespace generate
