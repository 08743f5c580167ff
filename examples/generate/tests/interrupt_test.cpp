// SPDX-License-Identifier: Apache-2.0
// Ctrl-C while the program works.
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "program.hpp"

namespace generate {
namespace {

/// The program in the background, its standard output a pipe.
class Child {
 public:
  /// `input` is what its standard input is; -1: the test's own.
  Child(std::vector<std::string> arguments, const std::string& errors, bool ignores_interrupts = false,
        int input = -1) {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    arguments.insert(arguments.begin(), GENERATE_PROGRAM);
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    id_ = ::fork();
    if (id_ == 0) {
      const int err = ::open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(ends[1], STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      if (input >= 0) ::dup2(input, STDIN_FILENO);
      ::signal(SIGINT, ignores_interrupts ? SIG_IGN : SIG_DFL);
      ::execv(words[0], words.data());
      ::_exit(127);
    }
    ::close(ends[1]);
    out_ = ends[0];
  }
  ~Child() {
    if (id_ > 0) {
      ::kill(id_, SIGKILL);
      ::waitpid(id_, nullptr, 0);
    }
    ::close(out_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  int out() const { return out_; }
  void interrupt() const { ::kill(id_, SIGINT); }

  /// Whether it has a handler for Ctrl-C now: bit 1 of the mask of caught signals.
  bool catches_interrupts() const {
    std::ifstream status("/proc/" + std::to_string(id_) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("SigCgt:"))
        return (std::stoull(line.substr(7), nullptr, 16) >> (SIGINT - 1) & 1) != 0;
    }
    return false;
  }
  int waiting_bytes() const {
    int count = 0;
    ::ioctl(out_, FIONREAD, &count);
    return count;
  }

  /// All that it goes on to print.
  std::string rest() const {
    std::string text;
    char piece[4096];
    for (::ssize_t count; (count = ::read(out_, piece, sizeof(piece))) > 0;)
      text.append(piece, static_cast<std::size_t>(count));
    return text;
  }
  /// The status that waitpid gives.
  int status() {
    int status = 0;
    ::waitpid(id_, &status, 0);
    id_ = 0;
    return status;
  }

 private:
  ::pid_t id_ = 0;
  int out_ = -1;
};

bool wait_for(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class Interrupted : public test::Program {
 protected:
  /// A model that never ends its text.
  void SetUp() override {
    Program::SetUp();
    auto writer = test::tiny_model();
    test::TinyVocabulary vocabulary;
    std::ranges::fill(vocabulary.types, 1);
    writer.numbers("tokenizer.ggml.token_type", 5, vocabulary.types);
    writer.remove_key("tokenizer.ggml.eos_token_id");
    writer.integer("llama.context_length", 200'000);
    write("endless.gguf", writer);
  }
  std::vector<std::string> arguments(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"--model", path("endless.gguf")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<std::string> endless() const {
    return arguments({"--prompt", "the fox", "--max-tokens", "200000"});
  }
  std::string errors() const { return test::read(path("err")); }
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
