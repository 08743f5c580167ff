// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdlib>
#include <vector>

#include "kv/operations.hpp"

namespace gqa::test {

/// Applies up to 1,000 random operations to new models that `make()` gives, and compares after each; of a
/// sequence that fails those are left out that it fails without. The same ones in every run; RC_PARAMS asks
/// for others.
template <class Make>
void expect_as_modelled(Make make) {
  ::setenv("RC_PARAMS", "seed=1 max_success=60", 0);
  const bool as_modelled = rc::check([&] {
    auto model = make();
    const auto operation = rc::gen::apply(
        [](int kind, int a, int b, int c) {
          return Operation{kind, a, b, c};
        },
        rc::gen::inRange(0, decltype(model)::num_kinds), rc::gen::inRange(0, 256), rc::gen::inRange(0, 1000),
        rc::gen::inRange(0, 1000));
    const auto operations =
        *rc::gen::scale(10.0, rc::gen::container<std::vector<Operation>>(rc::gen::noShrink(operation)));
    try {
      for (const Operation& each : operations) {
        model.apply(each);
        model.check();
      }
      model.finish();
    } catch (const Difference& difference) {
      RC_FAIL(difference.what);
    }
  });
  EXPECT_TRUE(as_modelled);
}

}  // namespace gqa::test
