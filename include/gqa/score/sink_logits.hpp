// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "gqa/core/extent.hpp"

namespace gqa {

/// A learned sink: one raw logit per query head that joins the softmax's denominator and nothing else,
/// `p_j = e^{s_j} / (e^{sink} + sum_i e^{s_i})`, as in gpt-oss. It is neither scaled, soft-capped nor masked,
/// and lse includes it; -inf is no sink. A copy shares the logits. Throws std::invalid_argument for NaN and
/// +inf, and attention does for another number of them, or one that the type of its scores does not hold.
class SinkLogits {
 public:
  template <class T>
  explicit SinkLogits(std::span<const T> logits) {
    std::vector<double> values;
    for (const T& logit : logits) {
      const double value = static_cast<double>(logit);
      GQA_CHECK(value < std::numeric_limits<double>::infinity(), std::invalid_argument,
                "sink logits: [" << values.size() << "] is " << value << ", expected a number or -inf");
      values.push_back(value);
    }
    logits_ = std::make_shared<const std::vector<double>>(std::move(values));
  }
  template <class T>
  explicit SinkLogits(const std::vector<T>& logits) : SinkLogits(std::span<const T>(logits)) {}
  SinkLogits(std::initializer_list<double> logits)
      : SinkLogits(std::span<const double>(logits.begin(), logits.size())) {}

  double operator()(Index q_head) const { return (*logits_)[static_cast<std::size_t>(q_head)]; }
  Index size() const { return static_cast<Index>(logits_->size()); }

  void check(const AttentionExtent& extent) const {
    GQA_CHECK(size() == extent.num_q_heads, std::invalid_argument,
              "sink logits: size is " << size() << ", expected one for each of " << extent.num_q_heads
                                      << " query heads");
    for (std::size_t h = 0; h < logits_->size(); ++h)
      GQA_CHECK((*logits_)[h] == -std::numeric_limits<double>::infinity() || extent.holds((*logits_)[h]),
                std::invalid_argument,
                "sink logits: [" << h << "] is " << (*logits_)[h] << ", expected a number that "
                                 << extent.score_type() << " holds, or -inf");
  }

 private:
  std::shared_ptr<const std::vector<double>> logits_;
};

}  // namespace gqa
