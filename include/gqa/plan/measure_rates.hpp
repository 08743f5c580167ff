// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <memory>
#include <string>

#include "gqa/plan/cost.hpp"
#include "gqa/plan/trial_call.hpp"

namespace gqa {

struct RateOptions {
  double seconds = 0.5;     ///< to measure for; making the caches takes about as long again
  double memory = 1 << 30;  ///< bytes to read memory's rate from, at most; four times the last cache suffice
  Clock clock = steady_seconds;  ///< what times are taken by
};

namespace detail {

/// Bytes of a core's own cache and of the last one, as Linux lists them; what is common where it lists none.
/// (What sysconf says of the last one is that of all sockets on some virtual machines.)
struct CacheSizes {
  double second = 0, last = 0;
};
inline CacheSizes cache_sizes() {
  CacheSizes sizes;
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    int level = 0;
    double kib = 0;
    if (!(std::ifstream(folder + "level") >> level) || !(std::ifstream(folder + "size") >> kib)) continue;
    if (level == 2) sizes.second = 1024 * kib;
    if (level == 3) sizes.last = 1024 * kib;
  }
  if (sizes.second == 0 && sizes.last == 0) sizes.last = 32 << 20;
  if (sizes.second == 0) sizes.second = 1 << 20;
  // One without a third level has none of a common size: its rate is that of what lies beyond the second.
  sizes.last = std::max(sizes.last, 4 * sizes.second);
  return sizes;
}

/// One of the calls that rates are solved from.
template <Scalar T>
struct RateTrial {
  CallShape shape;
  double footprint = 0;
  bool warm = true;  // runs before it is timed, so that its keys are where they are meant to be
  std::unique_ptr<TrialCall<T>> call = {};
  std::vector<double> times = {};

  RateTrial(const CallShape& s, Index layers, bool warmed = true)
      : shape(s),
        footprint(kv_bytes(s, sizeof(T)) * static_cast<double>(layers)),
        warm(warmed),
        call(std::make_unique<TrialCall<T>>(s, layers)) {}

  template <ExecutorLike E>
  void measure(E& executor, Clock clock) {
    for (int i = 0; i < (warm ? 3 : 0); ++i) call->run(executor);
    for (int i = 0; i < 5; ++i) times.push_back(call->time(executor, clock));
  }
  double seconds() {
    const auto middle = times.begin() + std::ssize(times) / 2;
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }
};

/// What a time says of one of its two parts, when the other is known.
inline double other_part(double together, double known) {
  return std::sqrt(std::max(together * together - known * known, together * together / 100));
}

}  // namespace detail

/// Measures the rates of attention over a cache of T on the executor's threads, by calls of its own:
///
/// - decode with two query heads a KV head, over half of a core's cache, a quarter of the last one and four
///   times the last one, gives the rates of reading;
/// - decode with 96 query heads a KV head, of 64 dims and of 128, gives the products' rate, by what the
/// second
///   takes longer, and the scores', by what is left;
/// - prefill of 2 heads with a mask and without gives what a mask costs;
/// - one token with one key gives what a call costs.
///
/// Takes about a second. Throws std::invalid_argument for options that cannot be, std::bad_alloc.
template <Scalar T, ExecutorLike E>
CostRates measure_rates(E&& executor, const RateOptions& options = {}) {
  GQA_CHECK(options.seconds > 0 && options.seconds <= 3600, std::invalid_argument,
            "seconds is " << options.seconds << ", expected more than 0, at most 3600");
  GQA_CHECK(options.memory >= 1 << 20 && options.memory <= 0x1p50, std::invalid_argument,
            "memory is " << options.memory << " bytes, expected 2^20 to 2^50");
  const auto sizes = detail::cache_sizes();
  const Index n = std::max<Index>(1, as_executor(executor).num_threads());
  constexpr Index D = 128;
  constexpr double token = 2 * D * sizeof(T);
  const auto tokens = [&](double bytes, Index heads) {
    return std::max<Index>(64, static_cast<Index>(bytes / token) / heads / tile_keys * tile_keys);
  };
  const auto decode = [](Index q_heads, Index kv_heads, Index dim, Index kv_tokens) {
    return CallShape{
        .num_q_heads = q_heads, .num_kv_heads = kv_heads, .head_dim = dim, .kv_tokens = kv_tokens};
  };
  const double beyond = std::min(4 * sizes.last, options.memory);
  constexpr Index layers = 8;
  using Trial = detail::RateTrial<T>;
  std::vector<Trial> trials;
  trials.reserve(8);
  trials.emplace_back(decode(2 * n, n, D, tokens(sizes.second / 2, 1)), 1);
  trials.emplace_back(decode(16 * n, 8 * n, D, tokens(std::min(sizes.last / 4, options.memory), 8 * n)), 1);
  trials.emplace_back(decode(16 * n, 8 * n, D, tokens(beyond / layers, 8 * n)), layers, false);
  trials.emplace_back(decode(96 * n, n, 64, 1024), 1);
  trials.emplace_back(decode(96 * n, n, 128, 1024), 1);
  trials.emplace_back(decode(1, 1, 16, 1), 1);
  CallShape prefill = decode(2 * n, 2 * n, 64, 1024);
  prefill.q_tokens = 1024;
  trials.emplace_back(prefill, 1, false);
  prefill.causal = false;
  trials.emplace_back(prefill, 1, false);

  // In turns, so that what slows the machine for a while slows none of them alone.
  const double end = steady_seconds() + options.seconds;
  for (int round = 0; round < 3 || steady_seconds() < end; ++round)
    for (Trial& trial : trials) trial.measure(executor, options.clock);

  CostRates rates;
  rates.element_bytes = sizeof(T);
  rates.num_threads = n;
  rates.widens = sizeof(T) == 2 && !(std::is_same_v<T, bfloat16> && isa() >= Isa::avx512bf16);
  rates.call = trials[5].seconds();
  const auto own = [&](std::size_t i) { return std::max(trials[i].seconds() - rates.call, rates.call / 10); };
  const double unmasked = own(7) * detail::all_pairs(trials[6].shape) / detail::all_pairs(trials[7].shape);
  rates.mask = std::max(own(6) - unmasked, 0.0) / detail::masked_tiles(trials[6].shape);
  // Reading hides behind the arithmetic of many rows nearly whole, and the arithmetic of one row behind
  // reading: each corrects the other a little, twice.
  const double fits[] = {sizes.second / 2, sizes.last / 2, trials[2].footprint};
  double read_64 = 0, read_128 = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const double narrow = detail::other_part(own(3), read_64), wide = detail::other_part(own(4), read_128);
    const double scores = detail::all_pairs(trials[3].shape);
    // narrow = scores (128 / multiply + 1 / score), wide = scores (256 / multiply + 1 / score). Where the
    // second takes more than twice as long as the first, noise or not, scores cost nothing.
    const double products = std::clamp(wide - narrow, wide / 4, wide / 2);
    rates.multiply = scores * 128 / products;
    rates.score = scores / std::max(wide - 2 * products, wide * 1e-3);
    for (std::size_t i = 0; i < 3; ++i) {
      const double bytes = detail::kv_bytes(trials[i].shape, sizeof(T));
      const double read = detail::other_part(
          own(i), detail::arithmetic_seconds(rates, trials[i].shape, detail::all_pairs(trials[i].shape)));
      rates.read[i] = {fits[i], bytes / read};
    }
    read_64 = detail::kv_bytes(trials[3].shape, sizeof(T)) / detail::read_rate(rates, trials[3].footprint);
    read_128 = detail::kv_bytes(trials[4].shape, sizeof(T)) / detail::read_rate(rates, trials[4].footprint);
  }
  return rates;
}

}  // namespace gqa
