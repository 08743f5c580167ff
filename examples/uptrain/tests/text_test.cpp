// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "batch.hpp"

namespace uptrain {
namespace {

std::string numbered(Index size) {
  std::string bytes;
  for (Index i = 0; i < size; ++i) bytes += static_cast<char>(i * 256 / size);
  return bytes;
}

TEST(Text, NumbersItsBytesAndCutsThemInTwo) {
  const std::string bytes = "b\xFF" + std::string(500, 'a') + std::string(500, 'b') + '\0';
  const Text text(bytes, 4, "x");
  EXPECT_EQ(text.vocabulary(), 4);  // \0, a, b, \xFF
  EXPECT_EQ(text.training()[0], 2);
  EXPECT_EQ(text.training()[1], 3);
  EXPECT_EQ(text.training()[2], 1);
  EXPECT_EQ(text.training().back(), 0);
  EXPECT_EQ(text.training().size() + text.validation().size(), bytes.size());
  EXPECT_NEAR(static_cast<double>(text.validation().size()), 100, 10);
  // Both halves are in what is measured on.
  EXPECT_EQ(std::set<Symbol>(text.validation().begin(), text.validation().end()), (std::set<Symbol>{1, 2}));
}

TEST(Text, EveryByteIsInOnePart) {
  for (const Index size : {512, 997, 12345}) {
    const std::string bytes = numbered(size);
    const Text text(bytes, 1, "x");
    EXPECT_EQ(text.vocabulary(), 256);
    std::vector<Symbol> all = text.training(), whole;
    all.insert(all.end(), text.validation().begin(), text.validation().end());
    for (const char c : bytes) whole.push_back(static_cast<Symbol>(c));
    std::ranges::sort(all);
    EXPECT_EQ(all, whole);
  }
}

TEST(Text, TooShortOrOfOneSymbolIsRefused) {
  for (const std::string& bytes : {std::string(), std::string("a"), numbered(600), std::string(5000, 'a')}) {
    try {
      Text(bytes, 64, "poem.txt");
      ADD_FAILURE() << bytes.size();
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).find("poem.txt: "), 0U) << error.what();
    }
  }
  // As short as the message says is long enough.
  EXPECT_NO_THROW(Text(numbered(10 * 65 + 100), 64, "x"));
}

TEST(Text, FilesThatCannotBeReadAreNamed) {
  for (const std::string& path : {std::string("/no/such/file"), testing::TempDir()}) {
    try {
      read_text(path);
      ADD_FAILURE() << path;
    } catch (const std::system_error& error) {
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
    }
  }
}

TEST(Batch, IsAFunctionOfSeedAndStep) {
  const Text text(numbered(4096), 8, "x");
  const Batch a = training_batch(text, 3, 8, 1, 5), b = training_batch(text, 3, 8, 1, 5);
  EXPECT_EQ(a.inputs, b.inputs);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.inputs.size(), 24U);
  EXPECT_NE(a.inputs, training_batch(text, 3, 8, 1, 6).inputs);
  EXPECT_NE(a.inputs, training_batch(text, 3, 8, 2, 5).inputs);
  EXPECT_NE(training_batch(text, 3, 8, 2, 5).inputs, training_batch(text, 3, 8, 1, 6).inputs);
}

TEST(Batch, TargetsAreTheNextSymbolsAndEveryPlaceIsDrawn) {
  std::string bytes;
  for (Index i = 0; i < 200; ++i) bytes += static_cast<char>(i);
  const Text text(bytes, 1, "x");
  const auto& training = text.training();
  std::set<Index> firsts;
  for (Index step = 0; step < 400; ++step) {
    const Batch batch = training_batch(text, 4, 7, 1, step);
    for (std::size_t i = 0; i < batch.inputs.size(); ++i) {
      const auto at = std::ranges::find(training, batch.inputs[i]);
      ASSERT_EQ(batch.targets[i], at[1]);
      if (i % 7 == 0) firsts.insert(at - training.begin());
    }
  }
  EXPECT_EQ(std::ssize(firsts), std::ssize(training) - 7);
  EXPECT_EQ(*firsts.rbegin(), std::ssize(training) - 8);
}

TEST(Batch, MeasuredSequencesSpreadOverTheText) {
  const Text text(numbered(40000), 16, "x");
  const auto batches = validation_batches(text, 5, 2, 16);
  ASSERT_EQ(batches.size(), 3U);
  EXPECT_EQ(batches[0].sequences, 2);
  EXPECT_EQ(batches[2].sequences, 1);
  EXPECT_EQ(batches[0].inputs.front(), text.validation().front());
  EXPECT_GT(batches[2].inputs.front(), 240);  // near the end
  EXPECT_EQ(validation_batches(text, 1, 2, 16).front().inputs.size(), 16U);
}

}  // namespace
}  // namespace uptrain
