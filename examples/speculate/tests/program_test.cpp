// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

#include "real_model.hpp"

namespace speculate {
namespace {

class Program : public generate::test::Program {
 protected:
  void refused(const std::vector<std::string>& arguments, const std::string& part) const {
    const Result result = run_tiny(arguments);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
    EXPECT_EQ(result.err.find("speculate: "), 0U) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "expected: " << part;
  }
};

TEST_F(Program, PrintsOneJsonObject) {
  const auto object = json({"--prompt", "the fox the fox the fox", "--max-tokens", "60", "--verify"});
  EXPECT_EQ(object["model"], "tiny");
  EXPECT_EQ(object["output_ids"].size(), object["generated_tokens"]);
  EXPECT_EQ(object["identical"], true);
  EXPECT_FALSE(object.contains("plain"));
  EXPECT_EQ(object["generated_tokens"],
            1 + object["steps"].get<int>() + object["accepted_tokens"].get<int>());
  EXPECT_GE(object["tokens_per_step"], 1);
  const auto plain = json({"--prompt", "the fox the fox the fox", "--max-tokens", "60", "--draft", "0"});
  EXPECT_EQ(plain["output_ids"], object["output_ids"]);
  EXPECT_EQ(plain["drafted_tokens"], 0);
  EXPECT_EQ(plain["tokens_per_step"], 1);
  EXPECT_FALSE(plain.contains("identical"));
}

TEST_F(Program, ComparesWithPlainDecoding) {
  const std::vector<std::string> arguments{"--prompt", "the fox", "--max-tokens", "50", "--compare"};
  auto object = json(arguments);
  EXPECT_EQ(object["identical"], true);
  EXPECT_GT(object["plain"]["generation_tokens_per_second"], 0);
  EXPECT_NEAR(object["plain"]["speedup"].get<double>(),
              object["generation_tokens_per_second"].get<double>() /
                  object["plain"]["generation_tokens_per_second"].get<double>(),
              1e-9);
  const Result result = run_tiny(arguments);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.out, object["text"].get<std::string>() + "\n");
  for (const char* part : {"tokens a step", "drafted tokens accepted", "plain", "times as fast", "verified"})
    EXPECT_NE(result.err.find(part), std::string::npos) << part << " in\n" << result.err;
}

TEST_F(Program, SaysTheSameWithEveryOption) {
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--prompt", "a b a b a", "--max-tokens", "80", "--verify"});
    return json(more);
  };
  const auto ids = with({})["output_ids"];
  EXPECT_EQ(with({"--threads", "1"})["output_ids"], ids);
  EXPECT_EQ(with({"--ngram", "1", "--branches", "6", "--draft", "20"})["output_ids"], ids);
  for (const char* type : {"f16", "bf16"}) EXPECT_EQ(with({"--cache-dtype", type})["cache_dtype"], type);
}

TEST_F(Program, ReadsPromptsFromFilesAndTheTemplate) {
  std::ofstream(path("text")) << "the\nfox\n";
  const auto ids = json({"--prompt", "the\nfox", "--max-tokens", "3"})["prompt_ids"];
  EXPECT_EQ(json({"--prompt-file", path("text"), "--max-tokens", "3"})["prompt_ids"], ids);
  const Result piped = run({"--model", path("tiny.gguf"), "--prompt", "-", "--max-tokens", "3", "--json"}, "",
                           "<" + path("text"));
  EXPECT_EQ(nlohmann::json::parse(piped.out)["prompt_ids"], ids);
  EXPECT_GT(json({"--prompt", "the\nfox", "--chat", "--max-tokens", "3"})["prompt_ids"].size(), ids.size());
}

TEST_F(Program, PrintsHelp) {
  const Result result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const char* option :
       {"--model", "--prompt", "--prompt-file", "--chat", "--ngram", "--draft", "--branches", "--max-tokens",
        "--threads", "--cache-dtype", "--verify", "--compare", "--json"})
    EXPECT_NE(result.out.find(option), std::string::npos) << option;
}

TEST_F(Program, RefusesWhatItCannotDo) {
  refused({}, "--prompt");
  refused({"--prompt", ""}, "--prompt is empty");
  refused({"--prompt", "x", "--prompt-file", "y"}, "excludes");
  refused({"--prompt", "x", "--temperature", "1"}, "--temperature");
  refused({"--prompt-file", path("absent")}, "absent");
  refused({"--prompt", std::string(201, 'x')}, "the prompt has 201 tokens, the model's context 200");
  std::ofstream(path("empty"));
  refused({"--prompt-file", path("empty")}, "--prompt-file is empty");
  for (const auto& [option, value] :
       {std::pair("--ngram", "0"), std::pair("--ngram", "65"), std::pair("--draft", "-1"),
        std::pair("--draft", "256"), std::pair("--branches", "0"), std::pair("--max-tokens", "0"),
        std::pair("--threads", "0"), std::pair("--cache-dtype", "f64")}) {
    SCOPED_TRACE(std::string(option) + " " + value);
    refused({"--prompt", "x", option, value}, option);
  }
}

TEST_F(Program, SpeedsUpARealModelWithTheSameText) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  const Result result =
      run({"--model", generate::test::real_model()->string(), "--chat", "--max-tokens", "60", "--verify",
           "--json", "--prompt",
           "Repeat this sentence three times: The tide rises twice a day because the moon pulls the sea."});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto object = nlohmann::json::parse(result.out);
  EXPECT_EQ(object["identical"], true);
  EXPECT_GT(object["tokens_per_step"], 1.5);
}

}  // namespace
}  // namespace speculate
