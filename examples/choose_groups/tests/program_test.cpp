// SPDX-License-Identifier: Apache-2.0
// The program as a person runs it. CHOOSE_GROUPS is its path.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/outcome.hpp"

namespace {

using common::test::contains, common::test::Outcome;

Outcome run(const std::string& arguments) { return common::test::outcome_of(CHOOSE_GROUPS, arguments); }

class ChooseGroups : public ::testing::Test {
 protected:
  /// A machine of round numbers, so that nothing is measured.
  const nlohmann::json rates = {{"dtype", "bf16"},
                                {"element_bytes", 2},
                                {"num_threads", 1},
                                {"widens", false},
                                {"read",
                                 {{{"fits", 1e6}, {"rate", 100e9}},
                                  {{"fits", 16e6}, {"rate", 50e9}},
                                  {{"fits", 128e6}, {"rate", 20e9}}}},
                                {"multiply", 50e9},
                                {"score", 5e9},
                                {"mask", 1e-7},
                                {"call", 1e-6}};
  const std::filesystem::path folder =
      std::filesystem::path(testing::TempDir()) / ("choose-groups-" + std::to_string(getpid()));

  void SetUp() override { std::filesystem::create_directories(folder); }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder / name) << text;
    return (folder / name).string();
  }
  std::string machine() const { return " --rates " + file("rates.json", rates.dump()); }
  const std::string model = "--heads 32 --head-dim 128 --layers 32 --context 8192 --batch 4";
};

TEST_F(ChooseGroups, Table) {
  const Outcome r = run(model + machine());
  EXPECT_EQ(r.code, 0) << r.out;
  for (const char* part : {"32 layers, 32 query heads of 128 dims, 4 x 8192 tokens in bf16, 1 thread",
                           "536.87 MB", "17.18 GB", "0.143  *", "0.235?", "the Pareto set", "a stand-in"})
    EXPECT_TRUE(contains(r.out, part)) << part << " in\n" << r.out;
  EXPECT_FALSE(contains(r.out, "limits"));
}

TEST_F(ChooseGroups, Json) {
  const Outcome r = run(model + " --json --max-memory 5GB" + machine());
  ASSERT_EQ(r.code, 0) << r.out;
  const auto json = nlohmann::json::parse(r.out);
  ASSERT_EQ(json.at("choices").size(), 6u);
  const auto& eight = json.at("choices")[3];
  EXPECT_EQ(eight.at("kv_heads"), 8);
  EXPECT_EQ(eight.at("cache_bytes"), 4 * 8192ll * 32 * 8 * 256 * 2);
  EXPECT_EQ(eight.at("pareto"), true);
  EXPECT_NEAR(eight.at("loss").get<double>(), 1.396 - 1.253, 1e-12);
  // 134 MB a sequence and layer group from memory at 20 GB/s; 8,192 x 32 scores of 256 multiply-adds.
  const double read = 4 * 8192.0 * 8 * 512 / 20e9, arithmetic = 4 * 8192.0 * 32 * (256 / 50e9 + 1 / 5e9);
  EXPECT_NEAR(eight.at("decode_seconds").get<double>(), 32 * std::hypot(read, arithmetic), 1e-4);
  EXPECT_EQ(json.at("best"), 8);
  EXPECT_EQ(json.at("rates"), rates);
  // What it printed is a machine for the next.
  const Outcome again = run(model + " --json --max-memory 5GB --rates " + file("out.json", r.out));
  EXPECT_EQ(again.out, r.out);
}

TEST_F(ChooseGroups, FiguresOfOnesOwn) {
  const std::string own =
      " --quality " + file("quality.json", R"({"32": 2.300, "8": 2.301, "4": 2.32, "1": 2.4})");
  auto json = nlohmann::json::parse(run(model + " --json" + own + machine()).out);
  const auto front = [&] {
    std::vector<int> list;
    for (const auto& c : json.at("choices"))
      if (c.at("pareto")) list.push_back(c.at("kv_heads"));
    return list;
  };
  EXPECT_EQ(front(), (std::vector<int>{1, 4, 8, 32}));
  EXPECT_TRUE(json.at("choices")[1].at("loss").is_null());
  EXPECT_TRUE(contains(json.at("quality"), "quality.json"));
  json = nlohmann::json::parse(run(model + " --json --same-loss 0.005" + own + machine()).out);
  EXPECT_EQ(front(), (std::vector<int>{1, 4, 8}));
  const Outcome none = run(model + " --max-loss 2" + own + machine());
  EXPECT_TRUE(contains(none.out, "None of them keeps within the limits.")) << none.out;
}

TEST_F(ChooseGroups, HelpAndVersionAreNotErrors) {
  const Outcome help = run("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* option : {"--heads", "--head-dim", "--context", "--batch", "--quality", "--rates",
                             "--json", "--max-memory", "--max-decode", "--max-loss", "--same-loss"})
    EXPECT_TRUE(contains(help.out, option)) << option;
  EXPECT_EQ(run("--version").code, 0);
}

TEST_F(ChooseGroups, BadInputIsOneLineAndExitCodeTwo) {
  struct Bad {
    std::string arguments, message;
  };
  const std::string none = (folder / "none").string();
  auto of_f32 = rates;
  of_f32["dtype"] = "f32";
  auto wrong = rates;
  wrong["multiply"] = -1;
  auto part = rates;
  part.erase("score");
  for (const Bad& bad :
       {Bad{"", "--"},
        {"--heads 8 --context 100", "--head-dim is required"},
        {"--heads 8 --head-dim 64", "--context is required"},
        {"--heads 0 --head-dim 64 --context 100", "--heads"},
        {"--heads eight --head-dim 64 --context 100", "eight"},
        {model + " --dtype int4", "--dtype"},
        {model + " --threads 0", "--threads"},
        {model + " --nonsense", "--nonsense"},
        {model + " --max-memory much", "much"},
        {model + " --max-decode -1", "--max-decode"},
        {model + " --same-loss -1", "--same-loss"},
        {"--heads 8 --head-dim 1000000000 --context 1000000000000 --batch 1000000", "overflows"},
        {model + " --quality " + none, "cannot read"},
        {model + " --quality " + file("a", "[1]"), "not a JSON object"},
        {model + " --quality " + file("b", "{\"8\": 2"), "not a JSON object"},
        {model + " --quality " + file("c", "{\"eight\": 2}"), "'eight' is no number"},
        {model + " --quality " + file("d", "{\"8\": \"two\"}"), "expected a number"},
        {model + " --quality " + file("e", "{\"5\": 2}"), "5 KV heads do not divide heads = 32"},
        {model + " --rates " + none, "cannot read"},
        {model + " --rates " + file("f", "{}"), "holds no rates"},
        {model + " --rates " + file("g", part.dump()), "holds no rates"},
        {model + " --rates " + file("h", of_f32.dump()), "is of f32, expected bf16"},
        {model + " --rates " + file("i", wrong.dump()), "multiply is -1"},
        {model + " --threads 2 --rates " + file("j", rates.dump()), "is of 1 threads, expected 2"}}) {
    const Outcome r = run(bad.arguments);
    EXPECT_EQ(r.code, 2) << bad.arguments << "\n" << r.out;
    EXPECT_EQ(std::count(r.out.begin(), r.out.end(), '\n'), 1) << bad.arguments << "\n" << r.out;
    EXPECT_TRUE(contains(r.out, "choose_groups: ")) << bad.arguments << "\n" << r.out;
    EXPECT_TRUE(contains(r.out, bad.message)) << bad.arguments << "\n" << r.out;
  }
}

}  // namespace
