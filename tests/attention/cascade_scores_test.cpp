// SPDX-License-Identifier: Apache-2.0
// Cascades with score functions, learned sinks and masks by head, which see the positions of the whole: the
// oracle's answer in every dtype.
#include <gtest/gtest.h>

#include "attention/cascade_case.hpp"

namespace gqa {
namespace {

using test::CascadeCase;
using test::Threads;

template <class T>
class CascadeExtras : public ::testing::Test {
 protected:
  /// Over a prefix of whole chunks of keys and over one that ends within a chunk; `tell(problem)` tells the
  /// oracle what the extras tell the call.
  template <class Tell, class... X>
  static void expect_oracle(const Tell& tell, const X&... extras) {
    for (Index prefix : {512, 100}) {
      CascadeCase<T> c({{{prefix}, {0, 5}}, test::tails}, test::cascade_queries, test::cascade_heads, 1);
      Threads threads(2);
      const auto result = c.attend(threads, extras...);
      for (std::size_t seq = 0; seq < c.unshared.each.size(); ++seq) {
        auto problem = c.unshared.each[seq].problem();
        problem.visible = [](Index, Index q, Index kv) { return kv <= q; };
        tell(problem);
        EXPECT_TRUE(test::within_bound(c.unshared.of(result, seq), problem, reference::attention(problem),
                                       test::naive_attention<T>(problem)))
            << "prefix " << prefix << ", sequence " << seq;
      }
    }
  }
};

TYPED_TEST_SUITE(CascadeExtras, test::AllScalars, test::ScalarNames);

const std::vector<double> logits{1, 2, -1, 0.5, 3, -4};

// Of absolute positions: a level's own would give another score.
double modify(double s, Index h, Index q, Index kv) {
  return 2 * std::tanh(s / 2) + 0.1 * static_cast<double>(h) + 0.3 * static_cast<double>((q + 2 * kv) % 7);
}

TYPED_TEST(CascadeExtras, ScoreFunctionsOfTheWholesPositions) {
  this->expect_oracle(
      [](auto& problem) {
        problem.modify = modify;
        problem.sink_logits = logits;
      },
      causal(), AnyScoreMod(modify), SinkLogits(logits));
}

TYPED_TEST(CascadeExtras, SinksAloneLeaveThePrefixSharedAndCountOnce) {
  this->expect_oracle([](auto& problem) { problem.sink_logits = logits; }, causal(), SinkLogits(logits));
}

TYPED_TEST(CascadeExtras, MasksByHead) {
  // The first head sees all of the prefix, which says nothing about the others.
  std::vector<AnyMask> list;
  for (Index h = 0; h < 6; ++h)
    list.push_back(h % 3 == 0   ? AnyMask(causal())
                   : h % 3 == 1 ? AnyMask(causal() & chunked(90))
                                : AnyMask(sliding_window(100)));
  const auto visible = [](Index h, Index q, Index kv) {
    return kv <= q && (h % 3 == 0 || (h % 3 == 1 ? q / 90 == kv / 90 : q - kv < 100));
  };
  this->expect_oracle(
      [&](auto& problem) {
        problem.visible = visible;
        problem.sink_logits = logits;
      },
      per_head(list), SinkLogits(logits));
}

}  // namespace
}  // namespace gqa
