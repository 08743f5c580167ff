// SPDX-License-Identifier: Apache-2.0
// Every mask through every placement: prefill, decode, MHA, GQA, MQA, every dtype, against the oracle.
#include <gtest/gtest.h>

#include "score/placements.hpp"

namespace gqa {
namespace {

template <class T>
class EveryMask : public ::testing::Test {};
TYPED_TEST_SUITE(EveryMask, test::AllScalars, test::ScalarNames);

TYPED_TEST(EveryMask, IsTheOraclesEverywhere) {
  for (const test::Sizes& sizes : test::placed_heads()) {
    test::Placements<TypeParam> placements(sizes, 1);
    for (const test::MaskCase& m : test::mask_cases(test::extent_of(sizes))) {
      SCOPED_TRACE(m.name);
      placements.expect_oracle(
          [&](std::optional<Index> seq) { return std::tuple(seq ? m.mask.of_seq(*seq) : m.mask); },
          [&](reference::Problem& problem, Index seq) {
            problem.visible = [&m, seq](Index h, Index q, Index kv) { return m.visible(seq, h, q, kv); };
          });
    }
  }
}

}  // namespace
}  // namespace gqa
