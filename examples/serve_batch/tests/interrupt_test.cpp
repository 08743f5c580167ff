// SPDX-License-Identifier: Apache-2.0
// Ctrl-C while the program serves.
#include "child.hpp"

namespace serve_batch {
namespace {

using generate::test::Child;
using generate::test::wait_for;

class Interrupted : public generate::test::EndlessProgram {
 protected:
  void SetUp() override {
    generate::test::EndlessProgram::SetUp();
    std::ofstream(path("prompts")) << "the quick fox\nthe\n";
  }
  std::vector<std::string> serving(int max_tokens, const std::vector<std::string>& more = {}) const {
    auto all = arguments({"--prompts", path("prompts"), "--system", "", "--arrival", "0", "--pages", "7000",
                          "--max-tokens", std::to_string(max_tokens)});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(Interrupted, EndsTheTextsAndReportsWhatWasDone) {
  Child child(serving(190'000, {"--verify"}), path("err"));
  ASSERT_TRUE(wait_for([&] { return child.catches_interrupts(); })) << errors();
  child.interrupt();
  const std::string text = child.rest();
  const int status = child.status();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_NE(text.find("1  the quick fox\n"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with('\n'));
  EXPECT_NE(errors().find("requests    2 of 1 text"), std::string::npos) << errors();
  EXPECT_EQ(errors().find("alone  "), std::string::npos) << "not compared to the end: " << errors();
}

TEST_F(Interrupted, PrintsValidJson) {
  Child child(serving(190'000, {"--json", "--verify"}), path("err"));
  ASSERT_TRUE(wait_for([&] { return child.catches_interrupts(); })) << errors();
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  child.interrupt();
  const auto object = nlohmann::json::parse(child.rest());
  EXPECT_EQ(WEXITSTATUS(child.status()), 130);
  EXPECT_FALSE(object.contains("same_alone"));
  std::size_t tokens = 0;
  for (const auto& request : object["requests"])
    for (const auto& one : request["texts"]) {
      EXPECT_EQ(one["stop"], "interrupt");
      tokens += one["output_ids"].size();
    }
  EXPECT_EQ(object["generated_tokens"], tokens);
  EXPECT_LT(tokens, 2U * 190'000);
  EXPECT_EQ(errors(), "");
}

TEST_F(Interrupted, StaysIgnoredWhereItWas) {
  Child child(serving(600, {"--json"}), path("err"), true);
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  child.interrupt();
  const auto object = nlohmann::json::parse(child.rest());
  EXPECT_EQ(WEXITSTATUS(child.status()), 0);
  EXPECT_EQ(object["generated_tokens"], 1200);
}

}  // namespace
}  // namespace serve_batch
