// SPDX-License-Identifier: Apache-2.0
// The steps against the oracle, and the program as it is run.
#include "five_steps.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "real_model.hpp"
#include "support/attention_case.hpp"
#include "tiny_model.hpp"

namespace five_steps {
namespace {

using gqa::test::AttentionCase;

TEST(FiveSteps, AreOneSoftmaxOverTheUnion) {
  for (const auto& [q_heads, kv_heads, tokens] :
       {std::tuple<Index, Index, Index>{6, 2, 150}, {3, 3, 65}, {7, 1, 600}, {2, 1, 1}}) {
    AttentionCase<float> c({tokens, tokens, q_heads, kv_heads, 16, 20}, 1);
    const Inputs in{c.q_view(), c.k_view(), c.v_view()};
    const auto groups = define_groups(in);
    auto problem = c.problem();
    for (const Index window : std::vector<Index>{1, 64, 65, tokens, 10 * tokens}) {
      const auto global = attend_globally(in, groups, window), local = attend_locally(in, groups, window);
      const auto combined = combine(global, local);
      // Each part is what its keys alone give ...
      problem.visible = [=](Index, Index q, Index kv) { return kv <= q && q - kv >= window; };
      const auto far = gqa::reference::attention(problem);
      problem.visible = [=](Index, Index q, Index kv) { return kv <= q && q - kv < window; };
      const auto near = gqa::reference::attention(problem);
      problem.visible = [](Index, Index q, Index kv) { return kv <= q; };
      const auto all = gqa::reference::attention(problem);
      const auto expect_is = [&](const Attended& a, const gqa::reference::Solution& exact, const char* what) {
        ASSERT_EQ(a.out.size(), exact.out.size());
        for (std::size_t i = 0; i < a.out.size(); ++i) ASSERT_NEAR(a.out[i], exact.out[i], 1e-5) << what;
        for (std::size_t i = 0; i < a.lse.size(); ++i) {
          if (std::isinf(exact.lse[i]))
            ASSERT_EQ(a.lse[i], exact.lse[i]) << what;
          else
            ASSERT_NEAR(a.lse[i], exact.lse[i], 1e-5) << what;
        }
      };
      expect_is(global, far, "global");
      expect_is(local, near, "local");
      // ... and together they are the whole.
      expect_is(combined, all, "combined");
      EXPECT_LE(max_difference(combined.out, one_shot(in).out), 2e-6);
      std::vector<float> layer(combined.out.size(), 7);
      apply_to_layer(combined, layer);
      EXPECT_EQ(layer, combined.out);
    }
  }
}

class Program : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "five-steps-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    const auto bytes = generate::test::tiny_model().file();
    std::ofstream(folder_ / "tiny.gguf", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string tiny() const { return "--model " + (folder_ / "tiny.gguf").string() + " "; }

  struct Result {
    int code;
    std::string out, err;
  };
  Result run(const std::string& arguments) const {
    const auto path = [&](const char* name) { return (folder_ / name).string(); };
    const int status = std::system(
        (FIVE_STEPS " </dev/null " + arguments + " >" + path("out") + " 2>" + path("err")).c_str());
    const auto read = [&](const char* name) {
      std::ifstream file(path(name));
      return std::string(std::istreambuf_iterator<char>(file), {});
    };
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read("out"), read("err")};
  }
  void expect_steps(const std::string& arguments, const std::string& part) const {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 0) << arguments << "\n" << result.err;
    EXPECT_EQ(result.err, "");
    for (const std::string& step :
         {std::string("\n1 groups"), std::string("\n2 global"), std::string("\n3 local"),
          std::string("\n4 combined"), std::string("\n5 applied"), part})
      EXPECT_NE(result.out.find(step), std::string::npos) << step << " in\n" << result.out;
  }
  void expect_refused(const std::string& arguments, const std::string& part) const {
    const Result result = run(arguments);
    EXPECT_EQ(result.code, 2) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "expected: " << part;
  }

  std::filesystem::path folder_;
};

TEST_F(Program, RunsWithoutAModel) {
  expect_steps("", "8 query heads read 2 KV heads: {0 1 2 3} {4 5 6 7}");
  expect_steps("--window 1", "window of 1:");
  expect_steps("--window 300",
               "3 local     keys in the window: 100.0 % of the scores, 100.0 % of the weight");
  expect_steps("--window 100000", "100.0 % of the weight");
}

TEST_F(Program, GivesTheModelsOwnNextToken) {
  expect_steps(tiny() + "--prompt 'the quick brown fox jumps over the lazy dog'", "both ways");
  expect_steps(tiny() + "--prompt 'the quick brown fox' --layer 1 --window 3", "layer 1 of 2");
  expect_steps(tiny() + "--prompt t --window 3", "1 tokens");
  const std::string text = (folder_ / "text").string();
  std::ofstream(text) << "the\n";
  expect_steps(tiny() + "--prompt - <" + text, "1 tokens");
}

TEST_F(Program, GivesARealModelsOwnNextToken) {
  GENERATE_SKIP_WITHOUT_MODEL();
  GENERATE_SKIP_UNDER_SANITIZERS();
  expect_steps(
      "--model " + generate::test::real_model()->string() +
          " --layer 10 --window 8 --prompt 'The capital of France is the city of Paris. The capital of "
          "Italy is the city of'",
      "the next token is \" Rome\" both ways");
}

TEST_F(Program, PrintsJson) {
  for (const std::string& arguments :
       {std::string("--json"), tiny() + "--json --prompt 'the fox' --layer 1"}) {
    const Result result = run(arguments);
    ASSERT_EQ(result.code, 0) << result.err;
    const auto json = nlohmann::json::parse(result.out);
    EXPECT_EQ(json.at("model").is_null(), arguments == "--json");
    EXPECT_EQ(json.at("window"), 16);
    EXPECT_LT(json.at("largest_difference"), 1e-5);
    const double scores = json.at("local_scores");
    EXPECT_TRUE(scores > 0 && scores <= 1) << scores;
  }
  const auto groups = nlohmann::json::parse(run("--json").out).at("groups");
  EXPECT_EQ(groups, nlohmann::json::parse("[[0, 1, 2, 3], [4, 5, 6, 7]]"));
}

TEST_F(Program, RefusesWrongInput) {
  expect_refused("--window 0", "--window");
  expect_refused("--window -3", "--window");
  expect_refused("--window many", "--window");
  expect_refused("--bogus", "--bogus");
  expect_refused("--prompt x", "--model");
  expect_refused("--layer 1", "--model");
  expect_refused(tiny(), "--prompt");
  expect_refused(tiny() + "--prompt ''", "the prompt has no tokens");
  expect_refused(tiny() + "--prompt -", "standard input holds no text");
  expect_refused(tiny() + "--prompt x --layer 2", "--layer is 2, the model has the layers 0 to 1");
  expect_refused(tiny() + "--prompt x --layer -1", "--layer is -1");
  expect_refused(tiny() + "--prompt " + std::string(201, 'x'), "201 tokens");
  expect_refused("--model " + (folder_ / "absent").string() + " --prompt x", "absent");
  expect_refused("--model " + (folder_ / "out").string() + " --prompt x", "out: the file ends");
}

TEST_F(Program, PrintsHelp) {
  const Result result = run("--help");
  EXPECT_EQ(result.code, 0);
  for (const char* option : {"--model", "--prompt", "--layer", "--window"})
    EXPECT_NE(result.out.find(option), std::string::npos) << option;
}

}  // namespace
}  // namespace five_steps
