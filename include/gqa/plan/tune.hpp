// SPDX-License-Identifier: Apache-2.0
// Measures how a call is best cut into work. Nothing here is called by anything else of the library.
#pragma once

#include <vector>

#include "gqa/core/function_ref.hpp"
#include "gqa/kernel/make_plan.hpp"
#include "gqa/plan/trial_call.hpp"

namespace gqa {

struct TuneOptions {
  double seconds = 1.5;      ///< to measure for at most
  double least_gain = 0.03;  ///< share of the default's time that a pick must save
  bool threads = true;       ///< whether another number of threads may be picked
  Clock clock = steady_seconds;
};

/// What tune() found.
struct TuneResult {
  Tuning tuning = {};  ///< to be passed in AttentionOptions; Tuning{}, the default, where nothing was faster
  double default_seconds = 0;  ///< medians of the last comparison, both in turns; 0 where none was made
  double seconds = 0;          ///< with `tuning`
  int runs = 0;                ///< calls that were timed
};

namespace detail {

/// Calls of different cuts, timed in turns.
class TuneRace {
 public:
  using Measure = FunctionRef<double(const Tuning&)>;

  /// The first of the contenders is the one to beat.
  TuneRace(std::vector<Tuning> contenders, double least_gain)
      : contenders_(std::move(contenders)), times_(contenders_.size()), least_gain_(least_gain) {}

  /// Runs rounds until they have taken so many seconds, `most_rounds` at most. What is a quarter slower after
  /// five rounds drops out. Returns the seconds they took.
  double run(Measure measure, double seconds) {
    double spent = 0;
    for (int round = 0; round < most_rounds && spent < seconds; ++round) {
      for (std::size_t i = 0; i < contenders_.size(); ++i) {
        // Each goes first in turn, as what ran before may leave the caches in another state.
        const std::size_t which = (i + static_cast<std::size_t>(round)) % contenders_.size();
        if (which > 0 && dropped(which)) continue;
        times_[which].push_back(measure(contenders_[which]));
        spent += times_[which].back();
        ++runs_;
      }
    }
    return spent;
  }

  /// The fastest contender where it wins by more than the spread of what was measured: its upper quartile
  /// lies below the lower one of the first, and its median below by `least_gain`. Else the first.
  std::size_t winner() const {
    std::size_t best = 0;
    for (std::size_t i = 1; i < contenders_.size(); ++i)
      if (std::ssize(times_[i]) >= least_rounds && quantile(i, 0.5) < quantile(best, 0.5)) best = i;
    const bool wins = best > 0 && std::ssize(times_[0]) >= least_rounds &&
                      quantile(best, 0.75) < quantile(0, 0.25) &&
                      quantile(best, 0.5) < (1 - least_gain_) * quantile(0, 0.5);
    return wins ? best : 0;
  }

  const Tuning& operator[](std::size_t i) const { return contenders_[i]; }
  double median(std::size_t i) const { return times_[i].empty() ? 0 : quantile(i, 0.5); }
  int runs() const { return runs_; }

 private:
  static constexpr int most_rounds = 101;
  static constexpr Index least_rounds = 7;  // fewer say nothing of their quartiles

  bool dropped(std::size_t i) const {
    return times_[i].size() >= 5 && !times_[0].empty() && quantile(i, 0.5) > 1.25 * quantile(0, 0.5);
  }
  double quantile(std::size_t i, double share) const {
    std::vector<double> sorted = times_[i];
    const auto at = sorted.begin() + static_cast<Index>(share * static_cast<double>(sorted.size() - 1) + 0.5);
    std::nth_element(sorted.begin(), at, sorted.end());
    return *at;
  }

  std::vector<Tuning> contenders_;
  std::vector<std::vector<double>> times_;
  double least_gain_;
  int runs_ = 0;
};

/// What is tried of one setting: for each, other numbers than the sizes lead to, as far as they can make a
/// difference.
struct TuneCandidates {
  std::vector<Index> threads, block_rows, task_rows, tasks_per_thread;

  TuneCandidates(const CallShape& shape, Index num_threads, double element_bytes) {
    const double keys = static_cast<double>(shape.kv_tokens - first_key(shape)) *
                        static_cast<double>(shape.num_seqs * shape.num_kv_heads);
    const bool alone =
        tuning::estimate_ns(keys * static_cast<double>(shape.head_dim + shape.values()), element_bytes,
                            static_cast<double>(shape.rows())) < tuning::min_parallel_ns;
    if (num_threads > 1 && !alone) threads.push_back(1);
    for (Index n = 2; n < num_threads; n *= 2) threads.push_back(n);
    if (num_threads > 1 && alone) threads.push_back(num_threads);
    const auto sums = static_cast<Index>(element_bytes == 8 ? 8 : 4);
    const tuning::BlockSizes usual = tuning::block_sizes(shape.head_dim, shape.values(), sums);
    const auto add = [&](std::vector<Index>& to, Index value, Index otherwise) {
      // One that holds all rows is enough.
      const bool larger = !to.empty() && to.back() >= shape.rows();
      if (value != otherwise && !larger && std::min(value, otherwise) < shape.rows()) to.push_back(value);
    };
    for (const Index rows : {24, 48, 96, 144, 192, 384}) add(block_rows, rows, usual.block_rows);
    for (const Index blocks : {1, 4, 64}) add(task_rows, blocks * usual.block_rows, usual.task_rows);
    if (num_threads > 1)
      for (const Index tasks : {1, 2, 8, 16}) tasks_per_thread.push_back(tasks);
  }
};

/// The sizes that are measured for calls of `shape`: its last queries and keys, of fewer heads and sequences,
/// so many that a call takes about a 300th of the time there is, over 64 MiB of keys and values at most. What
/// a block and a task are best made of shows in them, as groups and dims stay: two tasks a thread, of 1,024
/// rows and two chunks of keys, are always left.
template <Scalar T>
CallShape measurable(CallShape shape, Index num_threads, double seconds) {
  const auto shrink = [](Index& size, double share, Index least) {
    if (share < 1)
      size = std::max(std::min(size, least), static_cast<Index>(share * static_cast<double>(size)));
  };
  if (shape.window > 0) shape.kv_tokens = std::min(shape.kv_tokens, shape.window + shape.q_tokens - 1);
  const Index group_size = shape.group_size();
  const auto shrink_all = [&](auto share) {
    shrink(shape.num_seqs, share(), 1);
    shrink(shape.num_kv_heads, share(), 2 * num_threads);
    shape.num_q_heads = shape.num_kv_heads * group_size;
    shrink(shape.q_tokens, share(), ceil_div(1024, group_size));
    shrink(shape.kv_tokens, share(), std::max(2 * chunk_keys, shape.q_tokens));
  };
  shrink_all([&] {
    const double ns = tuning::estimate_ns(kv_bytes(shape, 1), sizeof(T), static_cast<double>(shape.rows()));
    return seconds * 1e9 / 300 / ns;
  });
  constexpr double most_bytes = 64 << 20;
  shrink_all([&] { return most_bytes / kv_bytes(shape, sizeof(T)); });
  shape.window = std::min(shape.window, shape.kv_tokens);
  return shape;
}

}  // namespace detail

/// How calls of these sizes are cut best, where `measure(tuning)` makes one and returns its seconds, whatever
/// it is: with a mask, a score function, a cache of its own. One setting after another (threads, rows of a
/// block, rows of a task, tasks a thread) takes the value that wins, and what all come to must at last win
/// against the default in a comparison of its own; else the result is the default, Tuning{}. All are timed in
/// turns; a winner's upper quartile lies below the other's lower one, and its median lower by least_gain. No
/// bit of any output depends on it.
///
/// It measures for options.seconds, and a call more at most; calls that take more than a thirtieth of it are
/// too long to be compared, and get the default. Throws std::invalid_argument for sizes that cannot be, and
/// what `measure` throws.
inline TuneResult tune(const CallShape& shape, Index num_threads, double element_bytes,
                       detail::FunctionRef<double(const Tuning&)> measure, const TuneOptions& options = {}) {
  detail::check_shape(shape);
  GQA_CHECK(num_threads >= 1, std::invalid_argument,
            "num_threads is " << num_threads << ", expected at least 1");
  GQA_CHECK(options.seconds > 0 && options.seconds <= 3600, std::invalid_argument,
            "seconds is " << options.seconds << ", expected more than 0, at most 3600");
  GQA_CHECK(options.least_gain >= 0 && options.least_gain < 1, std::invalid_argument,
            "least_gain is " << options.least_gain << ", expected 0 to 1");
  detail::TuneCandidates candidates(shape, num_threads, element_bytes);
  if (!options.threads) candidates.threads.clear();
  TuneResult result;
  Tuning best;
  const std::pair<Index Tuning::*, const std::vector<Index>*> settings[] = {
      {&Tuning::threads, &candidates.threads},
      {&Tuning::block_rows, &candidates.block_rows},
      {&Tuning::task_rows, &candidates.task_rows},
      {&Tuning::tasks_per_thread, &candidates.tasks_per_thread}};
  const auto races = 1 + std::count_if(std::begin(settings), std::end(settings),
                                       [](const auto& setting) { return !setting.second->empty(); });
  if (races == 1) return result;
  const double first = measure(best);  // allocates, and is not counted
  if (30 * first > options.seconds) return result;
  double left = options.seconds - first;
  auto to_run = static_cast<double>(races);
  const auto run = [&](std::vector<Tuning> contenders) {
    detail::TuneRace race(std::move(contenders), options.least_gain);
    left -= race.run(measure, left / to_run--);
    result.runs += race.runs();
    return race;
  };
  for (const auto& [setting, values] : settings) {
    if (values->empty()) continue;
    if (setting == &Tuning::tasks_per_thread && best.threads == 1) continue;
    std::vector<Tuning> contenders{best};
    for (const Index value : *values) {
      contenders.push_back(best);
      contenders.back().*setting = value;
    }
    const auto race = run(std::move(contenders));
    best = race[race.winner()];
    result.default_seconds = result.seconds = race.median(0);
  }
  if (best == Tuning{}) return result;
  const auto last = run({Tuning{}, best});
  const std::size_t winner = last.winner();
  result.tuning = last[winner];
  result.default_seconds = last.median(0);
  result.seconds = last.median(winner);
  return result;
}

/// The same for attention over a cache of T, causal or with a window, with random numbers: in less than two
/// seconds, filling the cache included. Calls too long for that are measured in part: fewer heads, queries
/// and keys, of the same dims and group size; they run on all threads, as the whole has more to do. Throws
/// std::invalid_argument for sizes that cannot be, std::bad_alloc.
///
///     const gqa::CallShape shape{.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128, .kv_tokens = 8192};
///     const auto found = gqa::tune<gqa::bfloat16>(pool, shape);
///     gqa::attention(pool, q, cache, out, gqa::causal(), gqa::AttentionOptions{.tuning = found.tuning});
template <Scalar T, ExecutorLike E>
TuneResult tune(E&& executor, const CallShape& shape, const TuneOptions& options = {}) {
  detail::check_shape(shape);
  const double start = steady_seconds();
  const Index num_threads = std::max<Index>(1, as_executor(executor).num_threads());
  const CallShape part = detail::measurable<T>(shape, num_threads, options.seconds);
  detail::TrialCall<T> call(part);
  TuneOptions rest = options;
  rest.threads = options.threads && detail::kv_bytes(part, sizeof(T)) == detail::kv_bytes(shape, sizeof(T)) &&
                 part.rows() == shape.rows();
  rest.seconds = std::max(options.seconds / 4, options.seconds - (steady_seconds() - start));
  const auto measure = [&](const Tuning& tuning) { return call.time(executor, options.clock, tuning); };
  return tune(shape, num_threads, sizeof(T), measure, rest);
}

}  // namespace gqa
