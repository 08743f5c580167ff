// SPDX-License-Identifier: Apache-2.0
// What every mask owes, checked by brute force over every block of a small square and random blocks of a
// large one.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "gqa/mask.hpp"
#include "support/random.hpp"

namespace gqa::test {

/// A mask written a second time, as a plain formula.
using Formula = std::function<bool(Index q_pos, Index kv_pos)>;

/// The formula on a rectangle of positions, with the number of true pairs in any block in O(1).
class TruthTable {
 public:
  TruthTable(const Formula& formula, Range q, Range kv)
      : q_(q), kv_(kv), sums_(static_cast<std::size_t>((q.size() + 1) * (kv.size() + 1))) {
    for (Index i = q.begin; i < q.end; ++i) {
      for (Index j = kv.begin; j < kv.end; ++j) {
        sum(i + 1, j + 1) = sum(i, j + 1) + sum(i + 1, j) - sum(i, j) + (formula(i, j) ? 1 : 0);
      }
    }
  }

  Index count(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return 0;
    return at(q.end, kv.end) - at(q.begin, kv.end) - at(q.end, kv.begin) + at(q.begin, kv.begin);
  }
  Coverage coverage(Range q, Range kv) const {
    const Index n = count(q, kv);
    return n == 0 ? Coverage::none : n == q.size() * kv.size() ? Coverage::full : Coverage::partial;
  }
  bool operator()(Index q_pos, Index kv_pos) const {
    return count({q_pos, q_pos + 1}, {kv_pos, kv_pos + 1}) == 1;
  }
  Range q() const { return q_; }
  Range kv() const { return kv_; }

 private:
  std::size_t cell(Index i, Index j) const {
    return static_cast<std::size_t>((i - q_.begin) * (kv_.size() + 1) + j - kv_.begin);
  }
  Index& sum(Index i, Index j) { return sums_[cell(i, j)]; }
  Index at(Index i, Index j) const { return sums_[cell(i, j)]; }

  Range q_, kv_;
  std::vector<Index> sums_;
};

enum class Exactness { exact, sound };

/// Coverage of one block: never a wrong `none` or `full`; where `exact`, never `partial` for want of trying.
template <PositionMask M>
::testing::AssertionResult coverage_holds(const M& mask, const TruthTable& truth, Range q, Range kv,
                                          Exactness exactness) {
  static const char* const names[] = {"none", "partial", "full"};
  const Coverage claimed = mask.coverage(q, kv), actual = truth.coverage(q, kv);
  if (claimed == actual || (claimed == Coverage::partial && exactness == Exactness::sound)) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure()
         << "queries [" << q.begin << ", " << q.end << ") by keys [" << kv.begin << ", " << kv.end
         << "): coverage says " << names[static_cast<int>(claimed)] << ", is "
         << names[static_cast<int>(actual)];
}

/// Rows of the queries in `q`.
template <PositionMask M>
void expect_rows_hold(const M& mask, const TruthTable& truth, Range q, Range kv) {
  for (Index i = q.begin; i < q.end; ++i) {
    for (Index begin = kv.begin; begin < kv.end; begin += 1 + begin % 3) {
      const Index count = std::min<Index>(kv.end - begin, (begin * 7 + i + 64) % 65);
      std::uint64_t expected = 0;
      for (Index j = 0; j < count; ++j) expected |= std::uint64_t{truth(i, begin + j)} << j;
      ASSERT_EQ(row_bits(mask, i, begin, count), expected)
          << "query " << i << ", keys from " << begin << ", count " << count;
    }
  }
}

template <PositionMask M>
void expect_bounds_hold(const M& mask, const TruthTable& truth, Range q) {
  const Range bounds = intersect(kv_bounds(mask, q), truth.kv());
  ASSERT_EQ(truth.count(q, bounds), truth.count(q, truth.kv()))
      << "queries [" << q.begin << ", " << q.end << ") see keys outside their bounds [" << bounds.begin
      << ", " << bounds.end << ")";
}

/// The runs from `from` on pass no key that the queries in `q` see, go forward, and end at the last.
template <PositionMask M>
void expect_runs_hold(const M& mask, const TruthTable& truth, Range q, Index from) {
  const Range nothing = {max_position, max_position};
  for (Index next = from; next < truth.kv().end;) {
    const Range run = next_visible(mask, q, next);
    ASSERT_EQ(truth.count(q, {next, std::min(run.begin, truth.kv().end)}), 0)
        << "queries [" << q.begin << ", " << q.end << ") see keys from " << next
        << " on, before the next run [" << run.begin << ", " << run.end << ")";
    if (run == nothing) return;
    ASSERT_TRUE(next <= run.begin && !run.empty() && run.end <= max_position)
        << "queries [" << q.begin << ", " << q.end << "): from " << next << " on, the next run is ["
        << run.begin << ", " << run.end << ")";
    next = run.end;
  }
}

/// All laws of a mask on positions -4 to `size` of queries and 0 to `size` of keys, every block of them.
template <PositionMask M>
void expect_mask_is(const M& mask, const Formula& formula, Exactness exactness, Index size = 18) {
  const TruthTable truth(formula, {-4, size}, {0, size});
  for (Index i = -4; i < size; ++i) {
    for (Index j = 0; j < size; ++j) ASSERT_EQ(mask(i, j), truth(i, j)) << "query " << i << ", key " << j;
  }
  for (Index a = -4; a <= size; ++a) {
    for (Index b = a; b <= size; ++b) {
      for (Index c = 0; c <= size; ++c) {
        for (Index d = c; d <= size; ++d) {
          ASSERT_TRUE(coverage_holds(mask, truth, {a, b}, {c, d}, exactness));
        }
      }
      ASSERT_NO_FATAL_FAILURE(expect_bounds_hold(mask, truth, {a, b}));
      for (Index c = 0; c < size; ++c) ASSERT_NO_FATAL_FAILURE(expect_runs_hold(mask, truth, {a, b}, c));
    }
  }
  ASSERT_NO_FATAL_FAILURE(expect_rows_hold(mask, truth, {-4, size}, {0, size}));
}

/// The same on random blocks of the sizes a kernel asks about.
template <PositionMask M>
void expect_large_blocks_hold(const M& mask, const Formula& formula, Exactness exactness, std::uint64_t seed,
                              Index size = 300) {
  const TruthTable truth(formula, {0, size}, {0, size});
  Random random(seed);
  const auto some_range = [&] {
    const Index length = random.pick(std::vector<Index>{1, 3, 16, 63, 64, 65, 128, 200});
    const Index begin = random.integer(0, size - length);
    return Range{begin, begin + length};
  };
  for (int n = 0; n < 300; ++n) {
    const Range q = some_range(), kv = some_range();
    ASSERT_TRUE(coverage_holds(mask, truth, q, kv, exactness));
    ASSERT_NO_FATAL_FAILURE(expect_bounds_hold(mask, truth, q));
    ASSERT_NO_FATAL_FAILURE(expect_runs_hold(mask, truth, q, 0));
    ASSERT_NO_FATAL_FAILURE(expect_runs_hold(mask, truth, q, kv.begin));
  }
  const Index q = random.integer(0, size - 5);
  ASSERT_NO_FATAL_FAILURE(expect_rows_hold(mask, truth, {q, q + 5}, {0, size}));
}

}  // namespace gqa::test
