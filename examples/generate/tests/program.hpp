// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tiny_model.hpp"

namespace generate::test {

inline std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs the program in a folder of its own that holds tiny.gguf.
class Program : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "generate-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    write("tiny.gguf", tiny_model());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const GgufWriter& writer) { write(name, writer.file()); }
  void write(const std::string& name, const std::vector<std::byte>& bytes) {
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  }

  struct Result {
    int code;
    std::string out, err;
  };
  /// `before` and `input` are the shell's words around the command: where its standard input comes from.
  Result run(const std::vector<std::string>& arguments, const std::string& before = "",
             const std::string& input = "</dev/null") const {
    std::string command = before + " " + GENERATE_PROGRAM;
    for (const std::string& argument : arguments) {
      command += " '";
      for (const char c : argument) command += c == '\'' ? std::string("'\\''") : std::string{c};
      command += "'";
    }
    const int status =
        std::system((command + " >" + path("out") + " 2>" + path("err") + " " + input).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(path("out")), read(path("err"))};
  }
  Result run_tiny(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"--model", path("tiny.gguf")});
    return run(arguments);
  }
  nlohmann::json json(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const Result result = run_tiny(arguments);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    EXPECT_EQ(std::ranges::count(result.out, '\n'), 1);
    return nlohmann::json::parse(result.out);
  }

  static void expect_refused(const Result& result, const std::string& part) {
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
    EXPECT_EQ(result.err.find(std::filesystem::path(GENERATE_PROGRAM).filename().string() + ": "), 0U)
        << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "expected: " << part;
  }

  std::filesystem::path folder_;
};

}  // namespace generate::test
