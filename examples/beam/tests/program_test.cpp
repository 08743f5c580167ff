// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

#include "real_model.hpp"

namespace beam {
namespace {

using Program = generate::test::Program;

TEST_F(Program, FindsTextsOfDecreasingScores) {
  for (const char* type : {"f32", "f16", "bf16"}) {
    const auto object = json({"--prompt", "the quick", "--beams", "5", "--max-tokens", "12", "--cache-dtype",
                              type, "--length-penalty", "0.5"});
    ASSERT_EQ(object["texts"].size(), 5U);
    for (std::size_t i = 0; i < 5; ++i) {
      const auto& text = object["texts"][i];
      const double tokens = static_cast<double>(text["output_ids"].size());
      EXPECT_NEAR(text["score"], static_cast<double>(text["log_probability"]) / std::sqrt(tokens), 1e-9);
      if (i > 0) {
        EXPECT_LE(text["score"], object["texts"][i - 1]["score"]);
        EXPECT_NE(text["output_ids"], object["texts"][i - 1]["output_ids"]);
      }
    }
    EXPECT_EQ(object["steps"], 12);
  }
}

TEST_F(Program, PrintsTextsAndAReport) {
  const auto best = run_tiny({"--prompt", "the", "--max-tokens", "9", "--chat"});
  EXPECT_EQ(best.code, 0) << best.err;
  EXPECT_EQ(best.out.find("score"), std::string::npos);
  for (const char* part : {"beams       4, 9 steps", "pages  ", "reordered   ", "best        score -"})
    EXPECT_NE(best.err.find(part), std::string::npos) << part << best.err;
  const auto three = run_tiny({"--prompt", "the", "--max-tokens", "9", "--chat", "--show", "3"});
  for (const char* part : {"1  score -", "\n\n2  score -", "\n\n3  score -"})
    EXPECT_NE(three.out.find(part), std::string::npos) << part << three.out;
  EXPECT_NE(three.out.find(best.out), std::string::npos);
}

TEST_F(Program, RefusesWrongInput) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& part) {
    expect_refused(run_tiny(std::move(arguments)), part);
  };
  expect_refused(run({"--prompt", "x"}), "--model");
  expect_refused(run({"--model", path("absent"), "--prompt", "x"}), "absent");
  refused({}, "--prompt");
  refused({"--prompt", ""}, "--prompt is empty");
  refused({"--prompt", "-"}, "standard input holds no text");
  refused({"--prompt", std::string(201, 'x')}, "201 tokens");
  refused({"--prompt", "x", "--beams", "0"}, "--beams");
  refused({"--prompt", "x", "--beams", "2", "--show", "3"}, "--show is 3");
  refused({"--prompt", "x", "--show", "0"}, "--show");
  refused({"--prompt", "x", "--max-tokens", "0"}, "--max-tokens");
  refused({"--prompt", "x", "--length-penalty", "-1"}, "--length-penalty");
  refused({"--prompt", "x", "--length-penalty", "nan"}, "--length-penalty");
  refused({"--prompt", "x", "--bogus"}, "--bogus");
  expect_refused(run({"--model", "-", "--prompt", "-"}), "both read standard input");
}

TEST_F(Program, PrintsHelp) {
  const auto result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const char* option : {"--model", "--prompt", "--beams", "--max-tokens", "--length-penalty", "--show",
                             "--chat", "--json", "--cache-dtype", "--threads"})
    EXPECT_NE(result.out.find(option), std::string::npos) << option;
}

TEST_F(Program, SearchesARealModel) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  const auto result = run({"--model", generate::test::real_model()->string(), "--chat", "--prompt",
                           "What is the capital of Italy?", "--max-tokens", "24", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto object = nlohmann::json::parse(result.out);
  EXPECT_EQ(object["texts"][0]["text"], "The capital of Italy is Rome.");
  EXPECT_EQ(object["texts"][0]["stop"], "end");
}

}  // namespace
}  // namespace beam
