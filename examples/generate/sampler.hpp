// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

#include "gqa/core/error.hpp"
#include "gqa/core/random.hpp"
#include "vocabulary.hpp"

namespace generate {

/// The token of the highest score, the first of equals. Throws std::runtime_error when no score is a number.
inline TokenId most_likely(std::span<const float> logits) {
  std::size_t best = logits.size();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (!std::isnan(logits[i]) && (best == logits.size() || logits[i] > logits[best])) best = i;
  }
  GQA_CHECK(best != logits.size(), std::runtime_error, "the model's scores are not numbers");
  return static_cast<TokenId>(best);
}

/// Chooses the next token: the most likely one at temperature 0, otherwise one of the `top_k` most likely (0:
/// of all) with probability softmax(logits / temperature). The same seed gives the same choices everywhere.
class Sampler {
 public:
  Sampler(double temperature, Index top_k, std::uint64_t seed)
      : temperature_(temperature), top_k_(top_k), random_(seed) {}

  TokenId operator()(std::span<const float> logits) {
    const TokenId best = most_likely(logits);
    if (temperature_ == 0) return best;
    candidates_.clear();
    for (TokenId id = 0; id < std::ssize(logits); ++id) {
      if (!std::isnan(logits[static_cast<std::size_t>(id)])) candidates_.push_back(id);
    }
    const auto likelier = [&](TokenId a, TokenId b) {
      const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    };
    if (top_k_ > 0 && top_k_ < std::ssize(candidates_)) {
      std::nth_element(candidates_.begin(), candidates_.begin() + top_k_, candidates_.end(), likelier);
      candidates_.resize(static_cast<std::size_t>(top_k_));
      std::ranges::sort(candidates_);  // nth_element's order is the standard library's own
    }
    const double highest = logits[static_cast<std::size_t>(best)];
    weights_.resize(candidates_.size());
    std::ranges::transform(candidates_, weights_.begin(), [&](TokenId id) {
      return std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - highest) / temperature_);
    });
    const double uniform = random_.uniform();
    double rest = uniform * std::accumulate(weights_.begin(), weights_.end(), 0.0);
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      rest -= weights_[i];
      if (rest < 0) return candidates_[i];
    }
    return best;
  }

 private:
  double temperature_;
  Index top_k_;
  gqa::detail::Random random_;
  std::vector<TokenId> candidates_;
  std::vector<double> weights_;
};

}  // namespace generate
