// SPDX-License-Identifier: Apache-2.0
#include "checkpoint.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "gqa/core/error.hpp"

namespace uptrain {
namespace {

class Checkpoint : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "uptrain-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    path_ = folder_ / "a.checkpoint";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }
  Index files() const {
    return std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator());
  }
  /// The message names the file.
  template <class Error>
  void expect_refused(const std::string& part) {
    try {
      load_checkpoint(path_, "of");
      ADD_FAILURE() << "expected: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find(path_.string() + ": "), 0U) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  Training training_{
      .step = 7, .parameters = {1, -2.5F, 1e-30F, 4}, .moments = Moments(4), .losses = {3.25, 0.1}};
  std::filesystem::path folder_, path_;
};

TEST_F(Checkpoint, KeepsEveryBit) {
  training_.moments.second = {5, 6, 7, 8};
  save_checkpoint(path_, "of", training_);
  const auto loaded = load_checkpoint(path_, "of");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->step, 7);
  EXPECT_EQ(loaded->parameters, training_.parameters);
  EXPECT_EQ(loaded->moments.first, training_.moments.first);
  EXPECT_EQ(loaded->moments.second, training_.moments.second);
  EXPECT_EQ(loaded->losses, training_.losses);
  EXPECT_EQ(files(), 1);
}

TEST_F(Checkpoint, OfWhatIsDoneHasNoMoments) {
  training_.moments = {};
  save_checkpoint(path_, "of", training_);
  EXPECT_EQ(load_checkpoint(path_, "of")->parameters, training_.parameters);
  training_.parameters = {};
  save_checkpoint(path_, "of", training_);
  EXPECT_EQ(load_checkpoint(path_, "of")->losses, training_.losses);
}

TEST_F(Checkpoint, NoFileIsNone) { EXPECT_FALSE(load_checkpoint(path_, "of")); }

TEST_F(Checkpoint, EveryDamageIsRefused) {
  save_checkpoint(path_, "of", training_);
  const std::string bytes = read_text(path_);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::string damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    write(damaged);
    expect_refused<gqa::format_error>("damaged");
    write(bytes.substr(0, i));
    expect_refused<gqa::format_error>("damaged");
  }
  write(bytes + "0");
  expect_refused<gqa::format_error>("damaged");
}

/// Files whose digest is right, but which this program did not write.
TEST_F(Checkpoint, StrangersAreRefused) {
  const std::string floats(16, '\0');
  const std::string count = R"("step":1,"losses":[],"parameters":4,"moments":)";
  for (const std::string& body :
       {std::string(), std::string("{}"), std::string("{}\n"), std::string("[]\n"), std::string("x\n"),
        std::string(R"({"format":"uptrain checkpoint 2","of":"of",)" + count + "0}\n" + floats),
        std::string(R"({"format":"uptrain checkpoint 1",)" + count + "0}\n" + floats),
        std::string(R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "1}\n" + floats),
        std::string(R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "-2}\n" + floats),
        std::string(R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "9223372036854775806}\n" +
                    floats),
        std::string(R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "\"0\"}\n" + floats),
        std::string(R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "0}\n" + floats + "x")}) {
    write(body + digest(body));
    expect_refused<gqa::format_error>(body.empty() ? "damaged" : "not a checkpoint");
  }
  const std::string good = R"({"format":"uptrain checkpoint 1","of":"of",)" + count + "0}\n" + floats;
  write(good + digest(good));
  EXPECT_EQ(load_checkpoint(path_, "of")->parameters.size(), 4U);
}

TEST_F(Checkpoint, OfSomethingElseIsRefused) {
  save_checkpoint(path_, "another", training_);
  expect_refused<std::invalid_argument>("other settings");
}

TEST_F(Checkpoint, AFileThatCannotBeWrittenLeavesTheOldOne) {
  save_checkpoint(path_, "of", training_);
  const std::string before = read_text(path_);
  EXPECT_THROW(save_checkpoint(folder_ / "none" / "a", "of", training_), std::system_error);
  EXPECT_THROW(save_checkpoint(folder_, "of", training_), std::system_error);
  EXPECT_EQ(read_text(path_), before);
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace uptrain
