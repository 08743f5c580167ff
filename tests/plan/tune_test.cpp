// SPDX-License-Identifier: Apache-2.0
// What tune() picks, by clocks that are made up, and that no pick changes a bit.
#include "gqa/plan/tune.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/plan/tuning_file.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;

constexpr CallShape prefill{
    .num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .q_tokens = 700, .kv_tokens = 900};

/// Seconds that calls of a tuning take by `of`, and a jitter in percent.
struct FakeClock {
  std::function<double(const Tuning&)> of;
  double jitter = 0;
  test::Random random{7};
  int calls = 0;
  double spent = 0;

  double operator()(const Tuning& tuning) {
    ++calls;
    const double seconds = of(tuning) * (1 + jitter * (random.uniform() - 0.5));
    spent += seconds;
    return seconds;
  }
};

TEST(Tune, ReturnsTheDefaultWhereNothingIsFaster) {
  for (const double jitter : {0.0, 0.02, 0.2, 1.0}) {
    FakeClock clock{[](const Tuning&) { return 1e-3; }, jitter};
    const TuneResult found = tune(prefill, 4, 4, clock);
    EXPECT_EQ(found.tuning, Tuning{}) << jitter;
    EXPECT_GT(clock.calls, 20);
    EXPECT_EQ(found.seconds, found.default_seconds);
  }
}

TEST(Tune, ReturnsTheDefaultWhereAllElseIsSlower) {
  FakeClock clock{[](const Tuning& t) { return t == Tuning{} ? 1e-3 : 1.1e-3; }, 0.05};
  EXPECT_EQ(tune(prefill, 4, 4, clock).tuning, Tuning{});
}

TEST(Tune, ChoosesWhatIsFaster) {
  FakeClock rows{[](const Tuning& t) { return t.block_rows == 96 ? 0.8e-3 : 1e-3; }, 0.05};
  const TuneResult found = tune(prefill, 1, 4, rows);
  EXPECT_EQ(found.tuning, (Tuning{.block_rows = 96}));
  EXPECT_NEAR(found.seconds, 0.8e-3, 0.05e-3);
  EXPECT_NEAR(found.default_seconds, 1e-3, 0.05e-3);
  EXPECT_EQ(found.runs, rows.calls - 1);
  FakeClock threads{[](const Tuning& t) { return t.threads == 1 ? 0.5e-3 : 1e-3; }, 0.05};
  EXPECT_EQ(tune(prefill, 4, 4, threads).tuning, (Tuning{.threads = 1}));
  EXPECT_EQ(tune(prefill, 4, 4, threads, {.threads = false}).tuning, Tuning{});
}

TEST(Tune, SettingsAddUp) {
  FakeClock clock{[](const Tuning& t) {
                    return 1e-3 - (t.threads == 2 ? 2e-4 : 0) - (t.block_rows == 48 ? 1e-4 : 0) -
                           (t.tasks_per_thread == 8 ? 1e-4 : 0);
                  },
                  0.02};
  EXPECT_EQ(tune(prefill, 4, 4, clock).tuning,
            (Tuning{.threads = 2, .block_rows = 48, .tasks_per_thread = 8}));
}

TEST(Tune, AGainWithinTheSpreadIsNone) {
  // A twentieth faster, but times are a half apart: the quartiles overlap.
  FakeClock clock{[](const Tuning& t) { return t.block_rows == 96 ? 0.95e-3 : 1e-3; }, 0.5};
  EXPECT_EQ(tune(prefill, 1, 4, clock).tuning, Tuning{});
  // Below least_gain, however sure.
  FakeClock sure{[](const Tuning& t) { return t.block_rows == 96 ? 0.98e-3 : 1e-3; }, 0};
  EXPECT_EQ(tune(prefill, 1, 4, sure).tuning, Tuning{});
  EXPECT_EQ(tune(prefill, 1, 4, sure, {.least_gain = 0.01}).tuning, (Tuning{.block_rows = 96}));
}

TEST(Tune, WhatWasFasterOnceMustBeFasterAgain) {
  // Faster than all while it is first compared, never after: the machine changed.
  int compared = 0;
  FakeClock clock{[&](const Tuning& t) {
    return t.block_rows == 96 && t.task_rows == 0 && ++compared <= 40 ? 0.5e-3 : 1e-3;
  }};
  EXPECT_EQ(tune(prefill, 1, 4, clock, {.seconds = 0.5}).tuning, Tuning{});
  EXPECT_GT(compared, 40);
}

TEST(Tune, KeepsItsTime) {
  for (const double seconds : {0.05, 0.5, 1.5}) {
    for (const double call : {1e-6, 1e-4, 3e-3, 0.2, 5.0}) {
      FakeClock clock{[&](const Tuning&) { return call; }};
      EXPECT_EQ(tune(prefill, 8, 4, clock, {.seconds = seconds}).tuning, Tuning{});
      EXPECT_LE(clock.spent, std::max(seconds + 16 * call, call)) << seconds << " " << call;
      if (30 * call > seconds) {
        EXPECT_EQ(clock.calls, 1);
      }
    }
  }
}

TEST(Tune, NothingToChooseMeasuresNothing) {
  FakeClock clock{[](const Tuning&) { return 1e-3; }};
  // One thread and one block of rows.
  const CallShape decode{.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128, .kv_tokens = 5000};
  EXPECT_EQ(tune(decode, 1, 4, clock).tuning, Tuning{});
  EXPECT_EQ(clock.calls, 0);
  EXPECT_EQ(tune(decode, 2, 4, clock).tuning, Tuning{});
  EXPECT_GT(clock.calls, 0);
}

TEST(Tune, CandidatesDifferFromTheDefault) {
  const detail::TuneCandidates some(prefill, 8, 4);
  EXPECT_EQ(some.threads, (std::vector<Index>{1, 2, 4}));
  EXPECT_FALSE(some.block_rows.empty());
  const Index usual = detail::tuning::block_sizes(64, 64, 4).block_rows;
  EXPECT_EQ(std::count(some.block_rows.begin(), some.block_rows.end(), usual), 0);
  EXPECT_EQ(some.tasks_per_thread, (std::vector<Index>{1, 2, 8, 16}));
  // Little to do runs on one thread by itself: more are tried.
  const CallShape small{.num_q_heads = 2, .num_kv_heads = 2, .head_dim = 64, .kv_tokens = 100};
  EXPECT_EQ(detail::TuneCandidates(small, 8, 4).threads, (std::vector<Index>{2, 4, 8}));
  EXPECT_TRUE(detail::TuneCandidates(small, 8, 4).block_rows.empty());
}

/// A call of a shape with every setting a tune() may come to has the bits of the default.
template <class T>
void expect_the_same_bits(const CallShape& shape) {
  const auto numbers = [](std::uint64_t seed, Index n) { return test::random_values<T>(seed, n); };
  const auto q = numbers(1, shape.q_tokens * shape.num_q_heads * shape.head_dim),
             k = numbers(2, shape.kv_tokens * shape.num_kv_heads * shape.head_dim),
             v = numbers(3, shape.kv_tokens * shape.num_kv_heads * shape.values());
  Eigen::ThreadPool pool(3);
  const auto run = [&](const Tuning& tuning) {
    std::vector<T> out(static_cast<std::size_t>(shape.q_tokens * shape.num_q_heads * shape.values()));
    attention(pool, TensorView<const T>(q.data(), shape.q_tokens, shape.num_q_heads, shape.head_dim),
              TensorView<const T>(k.data(), shape.kv_tokens, shape.num_kv_heads, shape.head_dim),
              TensorView<const T>(v.data(), shape.kv_tokens, shape.num_kv_heads, shape.values()),
              TensorView<T>(out.data(), shape.q_tokens, shape.num_q_heads, shape.values()), causal(),
              AttentionOptions{.tuning = tuning});
    return out;
  };
  const auto expected = run({});
  const detail::TuneCandidates candidates(shape, 3, sizeof(T));
  int tried = 0;
  const auto expect_same = [&](Index Tuning::*setting, const std::vector<Index>& values) {
    for (const Index value : values) {
      Tuning tuning;
      tuning.*setting = value;
      const auto out = run(tuning);
      EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(T)), 0) << value;
      ++tried;
    }
  };
  expect_same(&Tuning::threads, candidates.threads);
  expect_same(&Tuning::block_rows, candidates.block_rows);
  expect_same(&Tuning::task_rows, candidates.task_rows);
  expect_same(&Tuning::tasks_per_thread, candidates.tasks_per_thread);
  EXPECT_GE(tried, 5);
}

TEST(Tune, NoCandidateChangesABit) {
  for (const CallShape& shape :
       {CallShape{.num_q_heads = 7, .num_kv_heads = 1, .head_dim = 40, .value_dim = 24, .kv_tokens = 2100},
        CallShape{.num_q_heads = 6, .num_kv_heads = 2, .head_dim = 33, .q_tokens = 239, .kv_tokens = 700}}) {
    expect_the_same_bits<float>(shape);
    expect_the_same_bits<bfloat16>(shape);
  }
}

TEST(Tune, MeasuresCallsOfItsOwn) {
  Eigen::ThreadPool pool(2);
  const double start = steady_seconds();
  const TuneResult found = tune<float>(
      pool, {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 32, .q_tokens = 64, .kv_tokens = 300},
      {.seconds = 0.05});
  EXPECT_LT(steady_seconds() - start,
            20);  // far more than it takes, where sanitizers run it on a busy machine
  EXPECT_LE(found.seconds, found.default_seconds);
}

TEST(Tune, HugeCallsAreMeasuredInPart) {
  const CallShape huge{.num_q_heads = 128,
                       .num_kv_heads = 128,
                       .head_dim = 128,
                       .q_tokens = 1'000'000,
                       .kv_tokens = 1'000'000,
                       .num_seqs = 64};
  const CallShape part = detail::measurable<float>(huge, 3, 1.5);
  EXPECT_EQ(
      part,
      (CallShape{.num_q_heads = 6, .num_kv_heads = 6, .head_dim = 128, .q_tokens = 1024, .kv_tokens = 1024}));
  CallShape fits = prefill;
  fits.q_tokens = 150;
  EXPECT_EQ(detail::measurable<float>(fits, 1, 1.5), fits);
  const CallShape windowed{
      .num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64, .kv_tokens = 1 << 20, .window = 1000};
  EXPECT_EQ(detail::measurable<float>(windowed, 1, 1.5).kv_tokens, 1000);
}

TEST(Tune, BadInput) {
  FakeClock clock{[](const Tuning&) { return 1e-3; }};
  const auto refused = [&](const CallShape& shape, Index threads = 1, const TuneOptions& options = {}) {
    return message_of<std::invalid_argument>([&] { tune(shape, threads, 4, clock, options); });
  };
  CallShape shape = prefill;
  shape.num_kv_heads = 3;
  EXPECT_EQ(refused(shape), "shape: num_q_heads is 8, expected a multiple of num_kv_heads = 3");
  shape = prefill;
  shape.q_tokens = 901;
  EXPECT_EQ(refused(shape), "shape: q_tokens is 901, expected at most kv_tokens = 900");
  shape = prefill;
  shape.head_dim = 0;
  EXPECT_EQ(refused(shape).substr(0, 20), "shape: head_dim is 0");
  shape = prefill;
  shape.causal = false;
  shape.window = 5;
  EXPECT_EQ(refused(shape), "shape: window is 5, expected 0 without causal");
  EXPECT_EQ(refused(prefill, 0), "num_threads is 0, expected at least 1");
  EXPECT_EQ(refused(prefill, 1, {.seconds = 0}), "seconds is 0, expected more than 0, at most 3600");
  EXPECT_EQ(refused(prefill, 1, {.least_gain = 1}), "least_gain is 1, expected 0 to 1");
  EXPECT_EQ(clock.calls, 0);
  shape = prefill;
  shape.kv_tokens = max_position;
  shape.q_tokens = 1;
  EXPECT_THROW(tune(shape, 1, 4, clock), std::length_error);
  EXPECT_THROW(tune(prefill, 2, 4, [](const Tuning&) -> double { throw std::runtime_error("full"); }),
               std::runtime_error);
}

// ---- As text. ----

constexpr Tuning some_tuning{.threads = 2, .block_rows = 96, .task_rows = 384, .tasks_per_thread = 8};

TEST(TuningText, ReadsBackWhatItWrote) {
  Eigen::ThreadPool pool(2);
  for (const Tuning& tuning : {Tuning{}, some_tuning, Tuning{.task_rows = detail::tuning::most_tuning}})
    EXPECT_EQ(parse_tuning<half>(pool, prefill, tuning_text<half>(pool, prefill, tuning)), tuning);
}

TEST(TuningText, IsForOneMachineAndShape) {
  Eigen::ThreadPool two(2), three(3);
  const std::string text = tuning_text<half>(two, prefill, some_tuning);
  const auto refused = [](auto&& f) { return message_of<format_error>(f); };
  EXPECT_NE(refused([&] { parse_tuning<float>(two, prefill, text); }).find("made for 'call f16, "),
            std::string::npos);
  EXPECT_NE(
      refused([&] { parse_tuning<half>(three, prefill, text); }).find("expected 'call f16, num_threads 3"),
      std::string::npos);
  for (Index CallShape::*size : {&CallShape::num_q_heads, &CallShape::head_dim, &CallShape::value_dim,
                                 &CallShape::kv_tokens, &CallShape::num_seqs, &CallShape::window}) {
    CallShape other = prefill;
    other.*size += size == &CallShape::num_q_heads ? 8 : size == &CallShape::value_dim ? 21 : 1;
    EXPECT_NE(refused([&] { parse_tuning<half>(two, other, text); }).find("made for"), std::string::npos);
  }
  CallShape spelled_out = prefill;
  spelled_out.value_dim = prefill.head_dim;
  EXPECT_EQ(parse_tuning<half>(two, spelled_out, text), some_tuning);
  // Whole texts of others: another machine, another version of the library.
  for (const auto& [from, to, message] : std::vector<std::array<std::string, 3>>{
           {"processor ", "processor other ", "made for 'processor other"},
           {"library ", "library 9", "made for 'library 9"},
           {"gqa tuning 1", "gqa tuning 2", "begins with 'gqa tuning 2'"}}) {
    std::string other = text.substr(0, text.rfind("sum "));
    other.replace(other.find(from), from.size(), to);
    other += "sum " + std::to_string(detail::text_sum(other)) + "\n";
    EXPECT_NE(refused([&] { parse_tuning<half>(two, prefill, other); }).find(message), std::string::npos)
        << other;
  }
}

TEST(TuningText, DamageIsNoticed) {
  const std::string text = tuning_text<float>(Serial{}, prefill, some_tuning);
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_THROW(parse_tuning<float>(Serial{}, prefill, damaged), format_error) << i;
    EXPECT_THROW(parse_tuning<float>(Serial{}, prefill, text.substr(0, i)), format_error) << i;
  }
  EXPECT_THROW(parse_tuning<float>(Serial{}, prefill, text + "\n"), format_error);
  EXPECT_THROW(parse_tuning<float>(Serial{}, prefill, text + text), format_error);
  // Right sums of wrong lines.
  const std::string header = detail::tuning_header(prefill, "f32", 1);
  for (const char* line :
       {"tuning threads -1, block_rows 0, task_rows 0, tasks_per_thread 0\n",
        "tuning threads 2000000, block_rows 0, task_rows 0, tasks_per_thread 0\n",
        "tuning threads 1, block_rows x, task_rows 0, tasks_per_thread 0\n",
        "tuning threads 1, block_rows 0, task_rows 0, tasks_per_thread 99999999999999999999\n",
        "tuning threads 1, block_rows 0, task_rows 0, tasks_per_thread 0 more\n", "tuning threads 1\n", "\n",
        "", "more\nlines\n"}) {
    const std::string wrong = header + line;
    EXPECT_THROW(parse_tuning<float>(Serial{}, prefill,
                                     wrong + "sum " + std::to_string(detail::text_sum(wrong)) + "\n"),
                 format_error)
        << line;
  }
}

TEST(TuningText, Files) {
  const auto folder = std::filesystem::path(testing::TempDir());
  const auto path = folder / ("tuning-" + std::to_string(getpid()));
  EXPECT_THROW(load_tuning<float>(path, Serial{}, prefill), std::system_error);
  save_tuning<float>(path, Serial{}, prefill, Tuning{});
  save_tuning<float>(path, Serial{}, prefill, some_tuning);
  EXPECT_EQ(load_tuning<float>(path, Serial{}, prefill), some_tuning);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".tmp"));
  EXPECT_THROW(save_tuning<float>(folder / "no" / "folder", Serial{}, prefill, some_tuning),
               std::system_error);
  std::ofstream(path, std::ios::app) << "x";
  EXPECT_THROW(load_tuning<float>(path, Serial{}, prefill), format_error);
  EXPECT_THROW(load_tuning<float>(folder, Serial{}, prefill), std::exception);  // a directory
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace gqa
