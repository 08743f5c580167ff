// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

#include <set>

#include "small_architectures.hpp"

namespace read_less {
namespace {

using Json = nlohmann::json;

class Program : public generate::test::Program {
 protected:
  static std::vector<std::string> with(std::vector<std::string> arguments) {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "ab" + std::to_string(i) + "c";
    arguments.insert(arguments.begin(),
                     {"--text", text, "--prompt", "100", "--tokens", "20", "--window", "8"});
    return arguments;
  }
  void refused(std::vector<std::string> arguments, const std::string& part) const {
    SCOPED_TRACE(testing::PrintToString(arguments));
    expect_refused(run_tiny(with(std::move(arguments))), part);
  }
};

TEST_F(Program, PrintsATableOrJson) {
  const Json results = json(with({"--keep", "40,all", "--method", "h2o,snapkv,recent"}));
  EXPECT_EQ(results["prompt_tokens"], 100);
  EXPECT_EQ(results["runs"].size(), 6U);
  std::set<std::string> seen;
  for (const Json& run : results["runs"]) {
    seen.insert(run["method"].get<std::string>() + run["keep"].dump());
    EXPECT_GT(run["perplexity"], 1);
    EXPECT_EQ(run["perplexity"] == results["all"]["perplexity"], run["keep"] == 120);
    EXPECT_LE(run["bytes_held"], run["keep"].get<int>() * results["bytes_per_token"].get<int>());
  }
  EXPECT_EQ(seen,
            (std::set<std::string>{"h2o120", "h2o40", "recent120", "recent40", "snapkv120", "snapkv40"}));
  const Result table = run_tiny(with({"--keep", "all", "--method", "pages"}));
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_NE(table.out.find("\nall "), std::string::npos);
  EXPECT_NE(table.out.find("\npages "), std::string::npos);
}

TEST_F(Program, SaysTheSameWithAnyThreads) {
  const auto arguments = with({"--keep", "40", "--method", "h2o,snapkv,recent", "--threads"});
  auto one = arguments, three = arguments;
  one.push_back("1");
  three.push_back("3");
  EXPECT_EQ(json(one), json(three));
}

TEST_F(Program, DrawsAPictureThatAsksForNothing) {
  const Result result = run_tiny(with({"--keep", "40,60", "--method", "h2o,recent", "--svg", path("a.svg")}));
  ASSERT_EQ(result.code, 0) << result.err;
  const std::string svg = generate::test::read(path("a.svg"));
  EXPECT_EQ(svg.find("<svg xmlns=\"http://www.w3.org/2000/svg\""), 0U);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
  EXPECT_NE(svg.find(">H2O<"), std::string::npos);
  EXPECT_EQ(svg.find("href"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST_F(Program, RefusesWhatItCannotDo) {
  expect_refused(run({}), "--model");
  expect_refused(run_tiny({}), "--text or --text-file is required");
  expect_refused(run_tiny({"--text", "a", "--prompt", "3", "--tokens", "2"}), "the text has 1 tokens");
  expect_refused(run_tiny({"--text", "a"}), "expected at most the model's context of 200");
  refused({"--keep", "0"}, "--keep is 0, expected 1 to the 120 tokens of --prompt and --tokens, or all");
  refused({"--keep", "121"}, "--keep is 121");
  refused({"--keep", "-3"}, "--keep is -3");
  refused({"--keep", "some"}, "--keep: some is no number of tokens, nor all");
  refused({"--keep", "9999999999999999999"}, "--keep: 9999999999999999999 is no number");
  refused({"--keep", "15", "--method", "snapkv"}, "--keep 15 with snapkv, expected at least 16");
  refused({"--keep", "11", "--method", "recent"}, "--keep 11 with recent, expected at least 12");
  refused({"--keep", "8", "--method", "h2o"}, "--keep 8 with h2o, expected at least 9");
  refused({"--keep", "119", "--method", "pages"}, "--keep 119 with pages, expected at least");
  refused({"--keep", "40", "--method", "quest"}, "--method");
  refused({"--keep", "40,40", "--method", "h2o"}, "--keep names 40 twice");
  refused({"--keep", "40", "--method", "h2o,h2o"}, "--method names h2o twice");
  refused({"--keep", "40", "--method", "snapkv", "--pool", "4"}, "--pool is 4, expected an odd number");
  refused({"--keep", "40", "--method", "h2o", "--pool", "3"}, "--pool says nothing without snapkv");
  refused({"--keep", "40", "--method", "h2o", "--sinks", "3"}, "--sinks says nothing without recent");
  refused({"--keep", "40", "--method", "h2o", "--tokens", "0"}, "--tokens");
  refused({"--keep", "40", "--method", "h2o", "--svg", path("no/a.svg")}, "no/a.svg: No such file");
  refused({"--keep", "40", "--method", "h2o", "--svg", "/dev/full"}, "/dev/full: No space left");
  expect_refused(run({"--model", "-", "--text-file", "-"}), "both read standard input");
}

TEST_F(Program, RefusesModelsWithWindows) {
  auto gemma3 = generate::test::small_architecture("gemma3", 6);
  generate::test::TinyVocabulary vocabulary;
  gemma3.text("tokenizer.ggml.model", "gpt2");
  gemma3.text("tokenizer.ggml.pre", "smollm");
  vocabulary.tokens.resize(96);
  vocabulary.tokens.push_back("12");
  vocabulary.types.resize(97);
  gemma3.texts("tokenizer.ggml.tokens", vocabulary.tokens);
  gemma3.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
  gemma3.texts("tokenizer.ggml.merges", {"1 2"});
  gemma3.integer("tokenizer.ggml.eos_token_id", 2);
  write("gemma3.gguf", gemma3);
  expect_refused(run({"--model", path("gemma3.gguf"), "--text", "1234", "--prompt", "2", "--tokens", "1"}),
                 "sliding window");
}

}  // namespace
}  // namespace read_less
