// SPDX-License-Identifier: Apache-2.0
// How much fits: the longest context and the most users in a budget of memory.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "gqa/plan/cache_plan.hpp"

namespace gqa {

namespace detail {

/// The largest n in [least, most] for which fits(n), which holds up to some n and for none beyond; least - 1
/// where there is none.
template <class F>
Index last_that_fits(Index least, Index most, F&& fits) {
  Index fitting = least - 1;
  for (Index beyond = most + 1; beyond - fitting > 1;) {
    const Index middle = fitting + (beyond - fitting) / 2;
    (fits(middle) ? fitting : beyond) = middle;
  }
  return fitting;
}

/// What does not fit in an Index fits in no memory.
template <Scalar T>
bool cache_fits(const CachePlan& plan, Index tokens, Index users, Index budget) {
  try {
    return plan.bytes<T>(tokens, users) <= budget;
  } catch (const std::length_error&) {
    return false;
  }
}

inline void check_budget(Index budget) {
  GQA_CHECK(budget >= 0, std::invalid_argument, "budget is " << budget << " bytes, expected at least 0");
}

}  // namespace detail

/// The most tokens, up to `most`, that each of `users` sequences may have when `budget` bytes are there for
/// the cache; 0 where none fit. Throws std::invalid_argument for a budget below 0, users or most below 1.
template <Scalar T>
Index longest_context(const CachePlan& plan, Index budget, Index users = 1, Index most = max_position) {
  detail::check_budget(budget);
  GQA_CHECK(users >= 1, std::invalid_argument, "users is " << users << ", expected at least 1");
  GQA_CHECK(most >= 1 && most <= max_position, std::invalid_argument,
            "most is " << most << ", expected 1 to " << max_position);
  const Index least = std::max<Index>(1, plan.config().shared_tokens);
  const Index found = detail::last_that_fits(
      least, std::max(least, most), [&](Index n) { return detail::cache_fits<T>(plan, n, users, budget); });
  return found < least || found > most ? 0 : found;
}

/// The most sequences of `tokens` tokens each for which `budget` bytes are enough. Throws
/// std::invalid_argument for a budget below 0, and tokens below 1 or what the sequences share.
template <Scalar T>
Index most_users(const CachePlan& plan, Index budget, Index tokens) {
  detail::check_budget(budget);
  GQA_CHECK(tokens >= 1, std::invalid_argument, "tokens is " << tokens << ", expected at least 1");
  const Index one = plan.bytes<T>(tokens), two = plan.bytes<T>(tokens, 2);
  GQA_CHECK(two > one, std::invalid_argument,
            "tokens is " << tokens << ", expected more than the " << plan.config().shared_tokens
                         << " shared: every sequence has pages of its own");
  return budget < one ? 0 : 1 + (budget - one) / (two - one);  // all but the first take the same
}

}  // namespace gqa
