// SPDX-License-Identifier: Apache-2.0
// Ctrl-C while the program works.
#include "child.hpp"

namespace generate {
namespace {

using test::Child;
using test::wait_for;

class Interrupted : public test::EndlessProgram {
 protected:
  std::vector<std::string> endless() const {
    return arguments({"--prompt", "the fox", "--max-tokens", "200000"});
  }
};

TEST_F(Interrupted, EndsTheTextAndReportsWhatWasDone) {
  Child child(endless(), path("err"));
  ASSERT_TRUE(wait_for([&] { return child.waiting_bytes() > 0; })) << errors();
  child.interrupt();
  const std::string text = child.rest();
  const int status = child.status();
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_TRUE(text.ends_with('\n'));
  EXPECT_NE(errors().find("(stopped by: interrupt)"), std::string::npos) << errors();
  EXPECT_NE(errors().find("full context"), std::string::npos) << errors();
}

TEST_F(Interrupted, PrintsValidJson) {
  auto words = endless();
  words.push_back("--json");
  Child child(words, path("err"));
  ASSERT_TRUE(wait_for([&] { return child.catches_interrupts(); })) << errors();
  child.interrupt();
  const auto object = nlohmann::json::parse(child.rest());
  EXPECT_EQ(WEXITSTATUS(child.status()), 130);
  EXPECT_EQ(object.value("stop", ""), "interrupt");
  EXPECT_EQ(object["output_ids"].size(), object["generated_tokens"]);
  EXPECT_EQ(object["prompt_ids"].size(), 5U);
  EXPECT_LE(object["prompt_tokens"], 5);
  EXPECT_EQ(errors(), "");
}

TEST_F(Interrupted, ReportsThePerplexityOfWhatWasRead) {
  std::ofstream text(path("text"));
  for (int i = 0; i < 20'000; ++i) text << "the quick fox ";
  text.close();
  Child child(arguments({"--perplexity", path("text"), "--json"}), path("err"));
  ASSERT_TRUE(wait_for([&] { return child.catches_interrupts(); })) << errors();
  child.interrupt();
  const auto object = nlohmann::json::parse(child.rest());
  EXPECT_EQ(WEXITSTATUS(child.status()), 130);
  EXPECT_EQ(object.value("stop", ""), "interrupt");
  EXPECT_LT(object["tokens"], 20'000);
}

TEST_F(Interrupted, TwiceKills) {
  Child child(endless(), path("err"));
  ::fcntl(child.out(), F_SETPIPE_SZ, 4096);
  const int size = ::fcntl(child.out(), F_GETPIPE_SZ);
  // Nobody reads what it prints: it waits in a write, and cannot see that it was asked to stop. No token is
  // longer than 16 bytes.
  ASSERT_TRUE(wait_for([&] { return child.waiting_bytes() > size - 16; })) << child.waiting_bytes();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  ASSERT_TRUE(child.catches_interrupts());
  child.interrupt();
  ASSERT_TRUE(wait_for([&] { return !child.catches_interrupts(); }));
  child.interrupt();
  const int status = child.status();
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

TEST_F(Interrupted, StaysIgnoredWhereItWas) {
  Child child(arguments({"--prompt", "the fox", "--max-tokens", "3000"}), path("err"), true);
  ASSERT_TRUE(wait_for([&] { return child.waiting_bytes() > 0; })) << errors();
  child.interrupt();
  (void)child.rest();
  EXPECT_EQ(WEXITSTATUS(child.status()), 0);
  EXPECT_NE(errors().find("3000 tokens"), std::string::npos) << errors();
}

/// A chat whose input stays open: it waits for a line, or answers one.
TEST_F(Interrupted, EndsAChat) {
  for (const bool answering : {false, true}) {
    int input[2];
    ASSERT_EQ(::pipe2(input, O_CLOEXEC), 0);
    Child child(arguments({"--chat", "--max-tokens", "200000"}), path("err"), false, input[0]);
    if (answering) {
      ASSERT_EQ(::write(input[1], "the fox\n", 8), 8);
      ASSERT_TRUE(wait_for([&] { return child.waiting_bytes() > 0; })) << errors();
    } else {
      ASSERT_TRUE(wait_for([&] { return child.catches_interrupts(); })) << errors();
      std::this_thread::sleep_for(std::chrono::milliseconds(150));
    }
    child.interrupt();
    const std::string text = child.rest();
    const int status = child.status();
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 130);
    EXPECT_EQ(text.empty(), !answering);
    EXPECT_NE(errors().find("(stopped by: interrupt)"), std::string::npos) << errors();
    ::close(input[0]);
    ::close(input[1]);
  }
}

}  // namespace
}  // namespace generate
