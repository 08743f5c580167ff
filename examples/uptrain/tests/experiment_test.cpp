// SPDX-License-Identifier: Apache-2.0
#include "experiment.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "checkpoint.hpp"
#include "gqa/core/error.hpp"

namespace uptrain {
namespace {

class ExperimentTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "uptrain-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    for (int i = 0; i < 200; ++i) words_ += "and it came to pass that he said unto them; ";
    settings_.shape = {.layers = 1, .width = 16, .hidden = 16, .context = 8};
    settings_.shape.vocabulary = Text(words_, 8, "x").vocabulary();
    settings_.steps = 50;
    settings_.batch = 2;
    settings_.measured = 4;
    settings_.calibrated = 4;
    settings_.seeds = 2;
    settings_.methods = {Method::random, Method::mean, Method::clustered, Method::low_rank};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// All losses there are.
  std::vector<double> losses(Experiment& experiment) const {
    Results results{.settings = settings_, .text_name = {}, .text_digest = {}, .base = {}, .runs = {}};
    experiment.fill(results);
    std::vector<double> all = results.base;
    for (const Result& run : results.runs) all.insert(all.end(), run.losses.begin(), run.losses.end());
    return all;
  }
  Experiment experiment(Index threads, bool keeps, double seconds = 0) const {
    ExperimentOptions options{.folder = {}, .checkpoint_seconds = seconds, .threads = threads};
    if (keeps) options.folder = folder_;
    return Experiment(settings_, text_of(), "digest", options);
  }
  const Text& text_of() const {
    static const Text text(words_, 8, "x");
    return text;
  }

  std::filesystem::path folder_;
  std::string words_;
  Settings settings_;
};

constexpr auto nothing = [](double) {};
constexpr auto always = [] { return true; };

TEST_F(ExperimentTest, ThreadsAndStopsChangeNoBit) {
  Experiment whole = experiment(1, false);
  ASSERT_TRUE(whole.run(nothing, always));
  const auto expected = losses(whole);
  // For each seed: from scratch, trained on with three shares, 3 G of 2 methods and 2 of clustered with the
  // same, and 3 of low rank.
  EXPECT_EQ(expected.size(), 2U * (1 + 4 + (3 * 2 + 2) * 4 + 3));

  Experiment threads = experiment(3, false);
  ASSERT_TRUE(threads.run(nothing, always));
  EXPECT_EQ(losses(threads), expected);

  for (int run = 0;; ++run) {
    Experiment stopped = experiment(2, true);
    std::atomic<int> left = 23;
    if (stopped.run(nothing, [&] { return --left > 0; })) {
      EXPECT_GT(run, 5);
      EXPECT_EQ(losses(stopped), expected);
      break;
    }
    ASSERT_LT(run, 200);
  }
  // All is there: nothing is left to do, whatever the number of seeds and methods before.
  settings_.seeds = 1;
  settings_.methods = {Method::mean};
  Experiment again = experiment(1, true);
  EXPECT_TRUE(again.run(nothing, [&] { return true; }));
  EXPECT_EQ(losses(again).size(), 1U + 4 + 3 * 4);
  EXPECT_EQ(losses(again)[0], expected[0]);
}

TEST_F(ExperimentTest, RemovesWhatKilledProcessesLeft) {
  std::ofstream(folder_ / "seed-1-scratch.checkpoint.17-1.tmp") << "half of one";
  std::ofstream(folder_ / "notes.txt") << "mine";
  experiment(1, true);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "seed-1-scratch.checkpoint.17-1.tmp"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "notes.txt"));
}

TEST_F(ExperimentTest, ShowsHowFarItIs) {
  settings_.seeds = 1;
  settings_.methods = {Method::first};
  Experiment one = experiment(1, false);
  double last = -1;
  EXPECT_TRUE(one.run(
      [&](double done) {
        EXPECT_GE(done, last);
        EXPECT_LE(done, 1);
        last = done;
      },
      always));
  EXPECT_GE(last, 0);
}

TEST_F(ExperimentTest, CheckpointsOfOtherSettingsOrTextsAreRefused) {
  settings_.seeds = 1;
  settings_.methods = {Method::mean};
  ASSERT_TRUE(experiment(1, true).run(nothing, always));
  const Settings kept = settings_;
  for (const auto change :
       {+[](Settings& s) { s.steps = 60; }, +[](Settings& s) { s.batch = 3; },
        +[](Settings& s) { s.shape.hidden = 8; }, +[](Settings& s) { s.rate = 0.5; },
        +[](Settings& s) { s.uptraining_rate = 0.5; }, +[](Settings& s) { s.shares[0] = 0.04; },
        +[](Settings& s) { s.measured = 5; }, +[](Settings& s) { s.calibrated = 5; }}) {
    settings_ = kept;
    change(settings_);
    EXPECT_THROW(experiment(1, true), std::invalid_argument);
  }
  settings_ = kept;
  EXPECT_THROW(Experiment(settings_, text_of(), "another",
                          {.folder = folder_, .checkpoint_seconds = 20, .threads = 1}),
               std::invalid_argument);
  std::ofstream(folder_ / "seed-1-mean-g4.checkpoint") << "x";
  EXPECT_THROW(experiment(1, true), gqa::format_error);
}

TEST_F(ExperimentTest, AFailureStopsAllThreads) {
  settings_.rate = 1e30;
  Experiment diverges = experiment(3, true);
  EXPECT_THROW(diverges.run(nothing, always), std::runtime_error);
  settings_.rate = 1e-3;
  EXPECT_THROW(
      Experiment(settings_, text_of(), "", {.folder = "/dev/null/x", .checkpoint_seconds = 20, .threads = 1}),
      std::system_error);
}

}  // namespace
}  // namespace uptrain
