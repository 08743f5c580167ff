// SPDX-License-Identifier: Apache-2.0
// What each head looks at, in a few numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "gqa/inspect/probability_rows.hpp"

namespace gqa {

/// Means over rows: tokens that see anything.
struct HeadMeasure {
  double entropy = 0;    ///< -sum p ln p, in nats: 0 (one key) to ln n (n keys alike)
  double distance = 0;   ///< sum p |i - j|, in tokens
  double sinks = 0;      ///< mass on the keys at the first positions
  double window = 0;     ///< mass on the last keys up to the token, itself included
  double diagonal = 0;   ///< mass on the token itself
  double previous = 0;   ///< mass on the token before; of a row at position 0, none
  double induction = 0;  ///< mass on keys after an earlier copy of the token, over rows that have one
  Index num_rows = 0, num_induction_rows = 0;
};

struct HeadMeasureOptions {
  Index sinks = 4;    ///< positions 0 to sinks - 1 (StreamingLLM, arXiv 2309.17453)
  Index window = 32;  ///< keys i - window + 1 to i
  /// Ids of all tokens from position 0 on, for induction: the token at i, seen before at j - 1, attends to j
  /// (prefix matching, Olsson et al. 2022). They outlive the measures. None: induction is not measured.
  std::span<const std::int32_t> tokens = {};
};

/// Measures of each head over a stream of rows. Entropy and distance are of p / sum(p), which differs where
/// learned sinks take a part; masses are of p. Memory: a few numbers a head, and a row of flags.
class HeadMeasures {
 public:
  /// Throws std::invalid_argument for no heads, or negative sinks or window.
  explicit HeadMeasures(Index num_heads, const HeadMeasureOptions& options = {}) : options_(options) {
    GQA_CHECK(num_heads >= 1, std::invalid_argument,
              "HeadMeasures: num_heads is " << num_heads << ", expected at least 1");
    GQA_CHECK(options.sinks >= 0 && options.window >= 0, std::invalid_argument,
              "HeadMeasures: sinks is " << options.sinks << " and window " << options.window
                                        << ", expected at least 0");
    sums_.resize(static_cast<std::size_t>(num_heads));
  }

  /// Throws std::invalid_argument for rows of other heads, or of tokens whose ids are not there.
  void add(const ProbabilityRows& rows) {
    detail::check_rows("HeadMeasures", rows, num_heads());
    const Index end = std::max(rows.position(rows.num_tokens), rows.first_key + rows.num_keys);
    GQA_CHECK(options_.tokens.empty() ||
                  (rows.first_position >= 0 && rows.first_key >= 0 && end <= std::ssize(options_.tokens)),
              std::invalid_argument,
              "HeadMeasures: rows up to position " << end << ", expected those of the "
                                                   << options_.tokens.size() << " token ids");
    for (Index t = 0; t < rows.num_tokens; ++t) {
      find_copies(rows, rows.position(t));
      for (Index h = 0; h < num_heads(); ++h) add(rows, t, h);
    }
  }

  Index num_heads() const { return std::ssize(sums_); }

  /// Throws std::invalid_argument for a head that is not there.
  HeadMeasure head(Index h) const {
    GQA_CHECK(h >= 0 && h < num_heads(), std::invalid_argument,
              "HeadMeasures: head is " << h << ", expected at least 0 and less than " << num_heads());
    HeadMeasure m = sums_[static_cast<std::size_t>(h)];
    const auto n = static_cast<double>(std::max<Index>(m.num_rows, 1));
    for (double* mean : {&m.entropy, &m.distance, &m.sinks, &m.window, &m.diagonal, &m.previous}) *mean /= n;
    m.induction /= static_cast<double>(std::max<Index>(m.num_induction_rows, 1));
    return m;
  }

 private:
  /// Marks the keys up to position i whose token before is the one at i.
  void find_copies(const ProbabilityRows& rows, Index i) {
    copies_.clear();
    if (options_.tokens.empty()) return;
    const auto token = [&](Index at) { return options_.tokens[static_cast<std::size_t>(at)]; };
    const Index end = std::min(i, rows.first_key + rows.num_keys - 1);
    for (Index j = std::max<Index>(1, rows.first_key); j <= end; ++j)
      if (token(j - 1) == token(i)) copies_.push_back(j - rows.first_key);
  }

  void add(const ProbabilityRows& rows, Index t, Index h) {
    const std::span<const float> row = rows.row(t, h);
    const Index i = rows.position(t);
    double sum = 0, plogp = 0, distance = 0, sinks = 0, window = 0;
    for (Index c = 0; c < rows.num_keys; ++c) {
      const double p = static_cast<double>(row[static_cast<std::size_t>(c)]);
      if (p == 0) continue;
      const Index j = rows.first_key + c;
      sum += p;
      plogp += p * std::log(p);
      distance += p * static_cast<double>(std::abs(i - j));
      if (j < options_.sinks) sinks += p;
      if (j > i - options_.window && j <= i) window += p;
    }
    if (!(sum > 0)) return;
    HeadMeasure& m = sums_[static_cast<std::size_t>(h)];
    ++m.num_rows;
    // With s = sum p: -sum p/s ln(p/s) = ln s - (sum p ln p) / s, never below 0 but by rounding.
    m.entropy += std::max(0.0, std::log(sum) - plogp / sum);
    m.distance += distance / sum;
    m.sinks += sinks;
    m.window += window;
    const auto at = [&](Index j) {
      const Index c = j - rows.first_key;
      return c >= 0 && c < rows.num_keys ? static_cast<double>(row[static_cast<std::size_t>(c)]) : 0.0;
    };
    m.diagonal += at(i);
    m.previous += at(i - 1);
    if (copies_.empty()) return;
    ++m.num_induction_rows;
    for (const Index c : copies_) m.induction += static_cast<double>(row[static_cast<std::size_t>(c)]);
  }

  HeadMeasureOptions options_;
  std::vector<HeadMeasure> sums_;
  std::vector<Index> copies_;  // columns, of one token
};

}  // namespace gqa
