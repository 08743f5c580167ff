// SPDX-License-Identifier: Apache-2.0
// Attention behind plain functions, compiled once in attend.cpp, for the tests that only call it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <vector>

#include "gqa/core/parallel.hpp"
#include "gqa/kernel/workspace.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/mask/window.hpp"
#include "support/attention_case.hpp"
#include "support/naive.hpp"

namespace gqa::test {

/// Threads that count how often they were asked for.
class Threads {
 public:
  explicit Threads(int n) : pool_(std::make_unique<Eigen::ThreadPool>(n)) {}

  Index num_threads() const { return pool_->NumThreads(); }
  void parallel_for(Index n, TaskRef task) {
    ++calls_;
    PoolExecutor(*pool_).parallel_for(n, task);
  }
  int calls() const { return calls_; }

 private:
  std::unique_ptr<Eigen::ThreadPool> pool_;
  int calls_ = 0;
};

/// A KVView whose tiles come from a function; everything else is said by its sizes.
template <Scalar T>
struct FunctionKV {
  using Scalar = T;

  Index seqs = 1, kv_heads = 1, key_dim = 1, values_dim = 1;
  Range positions = {};
  Index scratch = 0;
  std::function<KVTile(Index seq, Index kv_head, Range want, void* scratch)> read = {};

  Index num_seqs() const { return seqs; }
  Index num_kv_heads() const { return kv_heads; }
  Index head_dim() const { return key_dim; }
  Index value_dim() const { return values_dim; }
  Index scratch_bytes() const { return scratch; }
  Range retained(Index) const { return positions; }
  KVTile tile(Index seq, Index kv_head, Range want, void* memory) const {
    return read(seq, kv_head, want, memory);
  }
};

/// What is asked of attention beside its tensors.
struct How {
  Window mask = no_mask();
  std::optional<double> scale = {};
  std::optional<Index> q_offset = {};
  Workspace* workspace = nullptr;
  Threads* threads = nullptr;  ///< serial where there are none
  Tuning tuning = {};
};

// The calls themselves: out and lse are written in full.
template <Scalar T>
void attend(const How& how, TensorView<const T> q, TensorView<const T> k, TensorView<const T> v,
            TensorView<T> out, RowsView<Accumulator<T>> lse);
template <Scalar T>
void attend(const How& how, TensorView<const T> q, const typename KVCache<T>::View& view, TensorView<T> out,
            RowsView<Accumulator<T>> lse);
template <Scalar T>
void attend(const How& how, TensorView<const T> q, const FunctionKV<T>& view, TensorView<T> out,
            RowsView<Accumulator<T>> lse);

/// Outputs and lse of a call, compared byte by byte.
template <Scalar T>
struct Result {
  std::vector<T> out;
  std::vector<Accumulator<T>> lse;

  friend bool operator==(const Result& a, const Result& b) {
    return same_bytes(a.out, b.out) && same_bytes(a.lse, b.lse);
  }
  /// Where two results differ first, for messages.
  static std::string difference(const Result& a, const Result& b) {
    for (std::size_t i = 0; i < a.out.size(); ++i)
      if (std::memcmp(&a.out[i], &b.out[i], sizeof(T)) != 0)
        return "out[" + std::to_string(i) + "] is " + std::to_string(static_cast<double>(a.out[i])) +
               " and " + std::to_string(static_cast<double>(b.out[i]));
    return "lse differs";
  }

  /// The rows of tokens [begin, end) of `of` in all.
  Result tokens(Index begin, Index end, Index of) const {
    const auto cut = [&](const auto& x) {
      const Index each = static_cast<Index>(x.size()) / of;
      return std::remove_cvref_t<decltype(x)>(x.begin() + begin * each, x.begin() + end * each);
    };
    return {cut(out), cut(lse)};
  }
  void append(const Result& more) {
    out.insert(out.end(), more.out.begin(), more.out.end());
    lse.insert(lse.end(), more.lse.begin(), more.lse.end());
  }

 private:
  template <class X>
  static bool same_bytes(const std::vector<X>& a, const std::vector<X>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(X)) == 0);
  }
};

template <Scalar T>
::testing::AssertionResult same(const Result<T>& a, const Result<T>& b) {
  if (a == b) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << Result<T>::difference(a, b);
}

/// attention() over any of the three, of packed queries, into memory that held something else.
template <Scalar T, class... KV>
Result<T> run(const How& how, TensorView<const T> q, Index value_dim, const KV&... kv) {
  Result<T> result{std::vector<T>(static_cast<std::size_t>(q.batch * q.tokens * q.heads * value_dim), T(7)),
                   std::vector<Accumulator<T>>(static_cast<std::size_t>(q.batch * q.tokens * q.heads), 7)};
  attend<T>(how, q, kv..., TensorView<T>(result.out.data(), q.batch, q.tokens, q.heads, value_dim),
            {result.lse.data(), q.batch, q.tokens, q.heads, q.tokens * q.heads, q.heads, 1});
  return result;
}

template <Scalar T>
Result<T> run(const AttentionCase<T>& c, const How& how) {
  return run<T>(how, c.q_view(), c.sizes.value_dim, c.k_view(), c.v_view());
}

/// A one-layer cache that holds a case's keys and values.
template <Scalar T>
KVCache<T> cache_of(const AttentionCase<T>& c) {
  KVCache<T> cache({.max_tokens = c.sizes.num_kv_tokens,
                    .num_kv_heads = c.sizes.num_kv_heads,
                    .head_dim = c.sizes.head_dim,
                    .value_dim = c.sizes.value_dim});
  cache.append(c.k_view(), c.v_view());
  return cache;
}

template <Scalar T>
Result<T> run_cached(const AttentionCase<T>& c, const How& how) {
  const auto cache = cache_of(c);
  return run<T>(how, c.q_view(), c.sizes.value_dim, cache.layer(0));
}

/// What the oracle is to be asked for the same.
template <Scalar T>
reference::Problem problem_of(AttentionCase<T>& c, const How& how) {
  auto problem = c.problem();
  if (how.scale) problem.scale = *how.scale;
  if (how.q_offset) problem.q_offset = *how.q_offset;
  problem.visible = [mask = how.mask](Index, Index q_pos, Index kv_pos) { return mask(q_pos, kv_pos); };
  return problem;
}

/// Replaces what `naive` has by what another run has further from the oracle's.
inline void keep_worse(const reference::Solution& exact, const reference::Solution& other,
                       reference::Solution& naive) {
  const auto keep = [](const std::vector<double>& e, const std::vector<double>& o, std::vector<double>& n) {
    for (std::size_t i = 0; i < e.size(); ++i)
      if (std::abs(o[i] - e[i]) > std::abs(n[i] - e[i])) n[i] = o[i];
  };
  keep(exact.out, other.out, naive.out);
  keep(exact.lse, other.lse, naive.lse);
}

/// The problem with the dims of q and k turned by some places: the same scores, summed in another order.
inline reference::Solution naive_in_order(const reference::Problem& problem, Index turn, auto naive) {
  const auto turned = [&](std::span<const double> x) {
    std::vector<double> y(x.begin(), x.end());
    for (auto row = y.begin(); row != y.end(); row += problem.head_dim)
      std::rotate(row, row + turn % problem.head_dim, row + problem.head_dim);
    return y;
  };
  const auto q = turned(problem.q), k = turned(problem.k);
  reference::Problem other = problem;
  other.q = q;
  other.k = k;
  return naive(other);
}

/// Whether out and lse are at most twice as far from the oracle's as a naive run in T. Of few outputs one
/// naive run may be close by chance: where it is too close, the worst of a few that sum in other orders
/// counts.
template <Scalar T>
::testing::AssertionResult within_bound(const Result<T>& result, const reference::Problem& problem,
                                        const reference::Solution& exact, reference::Solution naive) {
  // Three roundings end each output: p v, 1 / sum and their product. A naive run has none where it sees one
  // key.
  reference::Solution rounded = exact;
  for (double& x : rounded.out) x *= 1 + detail::unit_roundoff<Accumulator<T>>();
  keep_worse(exact, rounded, naive);
  const auto judge = [&] {
    const auto out = out_within_naive_error<T>(std::span<const T>(result.out), problem, exact, naive);
    if (!out) return out;
    return lse_within_naive_error<T>(std::span<const Accumulator<T>>(result.lse), exact, naive);
  };
  for (Index turn = 1; turn <= 7 && !judge(); turn += 2)
    keep_worse(exact, naive_in_order(problem, turn, naive_attention<T>), naive);
  return judge();
}

/// The case over tensors and over a cache is within the derived error of the oracle.
template <Scalar T>
void expect_oracle(AttentionCase<T>& c, const How& how = {}) {
  const auto problem = problem_of(c, how);
  const auto exact = reference::attention(problem);
  const auto naive = naive_attention<T>(problem);
  EXPECT_TRUE(within_bound(run(c, how), problem, exact, naive)) << "tensors: " << c.sizes.name();
  EXPECT_TRUE(within_bound(run_cached(c, how), problem, exact, naive)) << "cache: " << c.sizes.name();
}
template <Scalar T>
void expect_oracle(const Sizes& sizes, std::uint64_t seed, const How& how = {}) {
  AttentionCase<T> c(sizes, seed);
  expect_oracle(c, how);
}

/// Names typed tests by their dtype.
struct ScalarNames {
  template <class T>
  static std::string GetName(int) {
    return scalar_name<T>();
  }
};

}  // namespace gqa::test
