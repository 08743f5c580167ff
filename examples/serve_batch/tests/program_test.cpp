// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

#include "real_model.hpp"

namespace serve_batch {
namespace {

class Program : public generate::test::Program {
 protected:
  void SetUp() override {
    generate::test::Program::SetUp();
    std::ofstream(path("prompts")) << "the quick brown fox\n\nthe the the\r\n1212\nthe other day aaaa\n";
    std::ofstream(path("empty")) << "\n\n";
  }
  /// Some pressure: a text may need three pages.
  std::vector<std::string> few_pages(std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"--prompts",    path("prompts"),
                                          "--system",     std::string(70, 'x'),
                                          "--max-tokens", "100",
                                          "--samples",    "3",
                                          "--pages",      "5",
                                          "--verify"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
};

TEST_F(Program, GivesEachTextAsItIsAlone) {
  for (const char* type : {"f32", "f16", "bf16"}) {
    for (const char* temperature : {"0", "1.3"}) {
      const auto object =
          json(few_pages({"--cache-dtype", type, "--temperature", temperature, "--seed", "100"}));
      EXPECT_EQ(object["same_alone"], true);
      EXPECT_GT(object["swaps"], 0);
      EXPECT_GT(object["found_tokens"], 0);
      EXPECT_EQ(object["pages"]["used"], 0);
      ASSERT_EQ(object["requests"].size(), 4U);
      EXPECT_EQ(object["requests"][1]["arrival"], 2);
      std::size_t tokens = 0;
      for (const auto& request : object["requests"])
        for (const auto& text : request["texts"]) tokens += text["output_ids"].size();
      EXPECT_EQ(object["generated_tokens"], tokens);
      EXPECT_EQ(object["requests"][3]["texts"][1]["seed"], 110);
    }
  }
}

// What --verify compares with is what generate gives; here by generate's own options.
TEST_F(Program, PrintsTextsAndAReport) {
  const auto result = run_tiny(few_pages({"--chat"}));
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* part :
       {"1.1  the quick brown fox\n", "\n2.2  the the the\n", "\n3.1  1212\n", "\n4.2  the other"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part << result.out;
  for (const char* part :
       {"requests    4 of 3 texts", "found in the cache", "preemption  ", "alone       the same texts"})
    EXPECT_NE(result.err.find(part), std::string::npos) << part << result.err;
  EXPECT_EQ(result.err.find('\033'), std::string::npos);  // no terminal, no table
}

TEST_F(Program, HasPromptsOfItsOwnAndReadsThemFromStandardInput) {
  const auto built_in = json({"--system", "", "--max-tokens", "3"});
  EXPECT_GE(built_in["requests"].size(), 4U);
  EXPECT_FALSE(built_in.contains("same_alone"));
  const auto result =
      run({"--model", path("tiny.gguf"), "--prompts", "-", "--system", "", "--max-tokens", "3"},
          "printf 'one\\ntwo' |", "");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.out.find("1  one\n"), 0U);
  EXPECT_NE(result.out.find("\n2  two\n"), std::string::npos);
}

TEST_F(Program, RefusesWrongInput) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& part) {
    expect_refused(run_tiny(std::move(arguments)), part);
  };
  expect_refused(run({}), "--model");
  expect_refused(run({"--model", path("absent")}), "absent");
  expect_refused(run({"--model", path("empty")}), "empty: the file ends");
  refused({"--bogus"}, "--bogus");
  refused({"--prompts", path("absent")}, "absent");
  refused({"--prompts", path("empty")}, "holds no prompt");
  refused({"--pages", "0"}, "--pages");
  refused({"--samples", "0"}, "--samples");
  refused({"--samples", "3", "--max-sequences", "2"}, "--samples is 3");
  refused({"--arrival", "-1"}, "--arrival");
  refused({"--temperature", "nan"}, "--temperature");
  refused({"--max-tokens", "0"}, "--max-tokens");
  refused({"--prompt-tokens", "0"}, "--prompt-tokens");
  refused({"--cache-dtype", "int8"}, "--cache-dtype");
  refused({"--pages", "2", "--system", "", "--max-tokens", "170"}, "request 1: a sequence may need 3 pages");
  refused({"--system", std::string(300, 'x')}, "request 1: the prompt has");
  refused({"--system", "\xFF"}, "UTF-8");
  expect_refused(run({"--model", "-", "--prompts", "-"}), "both read standard input");
}

TEST_F(Program, PrintsHelp) {
  const auto result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  for (const char* option : {"--model", "--prompts", "--system", "--chat", "--arrival", "--samples",
                             "--pages", "--max-sequences", "--prompt-tokens", "--verify", "--json", "--seed"})
    EXPECT_NE(result.out.find(option), std::string::npos) << option;
}

TEST_F(Program, ServesARealModel) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  std::ofstream(path("prompts")) << "What is the capital of Italy?\nWhy is the sky blue?\n";
  const auto result = run({"--model", generate::test::real_model()->string(), "--chat", "--system", "",
                           "--prompts", path("prompts"), "--samples", "2", "--max-tokens", "60", "--arrival",
                           "1", "--pages", "3", "--verify", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto object = nlohmann::json::parse(result.out);
  EXPECT_EQ(object["same_alone"], true);
  EXPECT_GT(object["swaps"], 0);
  EXPECT_GT(object["pages"]["most_shared"], 0);
  const auto& rome = object["requests"][0]["texts"];
  EXPECT_NE(std::string(rome[0]["text"]).find("Rome"), std::string::npos) << rome;
  EXPECT_EQ(rome[0]["output_ids"], rome[1]["output_ids"]);  // at temperature 0
}

}  // namespace
}  // namespace serve_batch
