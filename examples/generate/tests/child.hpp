// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "program.hpp"

namespace generate::test {

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

inline bool wait_for(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

/// Runs the program on a model that never ends its text.
class EndlessProgram : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    auto writer = tiny_model();
    TinyVocabulary vocabulary;
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
  std::string errors() const { return read(path("err")); }
};

}  // namespace generate::test
