// SPDX-License-Identifier: Apache-2.0
// What a call of attention takes, before it is made: counted bytes and operations over measured rates.
#pragma once

#include <array>
#include <cmath>

#include "gqa/plan/call_shape.hpp"

namespace gqa {

/// What a machine gives attention over one element type on so many threads: measure_rates() measures it.
struct CostRates {
  /// Keys and values read a second where successive calls go through so many bytes: of a second-level cache,
  /// of the last cache and of memory.
  struct Read {
    double footprint = 0;  ///< bytes
    double rate = 0;       ///< bytes a second
  };

  Index element_bytes = 4;
  Index num_threads = 1;
  bool widens = false;            ///< keys of 16 bits become floats before many rows multiply them
  std::array<Read, 3> read = {};  ///< by footprint, ascending
  double multiply = 0;            ///< multiply-adds a second, of products alone
  double score = 0;               ///< scores a second that become weights
  double call = 0;                ///< seconds of a call that has next to nothing to do
};

namespace detail {

inline void check_rates(const CostRates& r) {
  const auto check = [](const char* name, double value) {
    GQA_CHECK(value > 0 && value <= std::numeric_limits<double>::max(), std::invalid_argument,
              "rates: " << name << " is " << value << ", expected more than 0");
  };
  for (std::size_t i = 0; i < r.read.size(); ++i) {
    check("read.footprint", r.read[i].footprint);
    check("read.rate", r.read[i].rate);
    GQA_CHECK(i == 0 || r.read[i - 1].footprint < r.read[i].footprint, std::invalid_argument,
              "rates: read.footprint is " << r.read[i].footprint << ", expected more than "
                                          << r.read[i - 1].footprint);
  }
  check("multiply", r.multiply);
  check("score", r.score);
  GQA_CHECK(r.call >= 0, std::invalid_argument, "rates: call is " << r.call << ", expected at least 0");
  GQA_CHECK(r.element_bytes >= 1, std::invalid_argument,
            "rates: element_bytes is " << r.element_bytes << ", expected at least 1");
}

/// The rate of reading for a footprint: between two that were measured, in proportion to its logarithm.
inline double read_rate(const CostRates& rates, double footprint) {
  const auto& read = rates.read;
  if (footprint <= read.front().footprint) return read.front().rate;
  for (std::size_t i = 1; i < read.size(); ++i) {
    if (footprint > read[i].footprint) continue;
    const double part =
        std::log(footprint / read[i - 1].footprint) / std::log(read[i].footprint / read[i - 1].footprint);
    return read[i - 1].rate * std::pow(read[i].rate / read[i - 1].rate, part);
  }
  return read.back().rate;
}

/// How reading and multiplying overlap: neither in full (their sum, 1) nor perfectly (the longer, infinity).
/// 2.5 fits decode with 4 to 16 rows from cache and memory, in f32, f16 and bf16, within a tenth.
inline constexpr double overlap = 2.5;

inline double overlapped(double a, double b) {
  return std::pow(std::pow(a, overlap) + std::pow(b, overlap), 1 / overlap);
}

/// Seconds of the arithmetic: of H heads, `pairs` of a query and a key each,
///
///     H pairs ((D + Dv) / multiply + 1 / score)
inline double arithmetic_seconds(const CostRates& rates, const CallShape& shape) {
  const double pairs =
      static_cast<double>(shape.num_seqs) * static_cast<double>(shape.num_q_heads) * multiplied_pairs(shape);
  const auto dims = static_cast<double>(shape.head_dim + round_up(shape.values(), simd::padding));
  return pairs * (dims / rates.multiply + 1 / rates.score);
}

}  // namespace detail

/// Seconds that a call of attention() takes over caches that successive calls go through `footprint` bytes of
/// (those of all layers of a model; 0: its own alone):
///
///     t = (read^p + arithmetic^p)^(1/p) + rows + call,   p = 2.5
///     read = bytes of keys and values that are seen / rate of their footprint
///     arithmetic = H pairs ((D + Dv) / multiply + 1 / score)
///     rows = bytes of queries and outputs, as stored and as floats / rate of the last cache
///
/// Pairs are counted as they are multiplied, in whole tiles of 64 keys. Rates are those of one element type
/// and number of threads; calls of less than 50 us, which run on one thread, want rates of one. Throws
/// std::invalid_argument for sizes or rates that cannot be.
inline double predicted_seconds(const CostRates& rates, const CallShape& shape, double footprint = 0) {
  detail::check_shape(shape);
  detail::check_rates(rates);
  GQA_CHECK(footprint >= 0, std::invalid_argument,
            "footprint is " << footprint << " bytes, expected at least 0");
  const auto element = static_cast<double>(rates.element_bytes);
  const double bytes = detail::kv_bytes(shape, element);
  const double read = bytes / detail::read_rate(rates, std::max(bytes, footprint));
  const double last_cache = rates.read[1].rate;
  const double rows = static_cast<double>(shape.num_seqs) * static_cast<double>(shape.q_tokens) *
                      static_cast<double>(shape.num_q_heads);
  double moved = rows * static_cast<double>(shape.head_dim + shape.values()) * (element + 4);
  // A key that is widened is read, written as a float, and read as one.
  if (rates.widens && detail::tuning::widens_once(shape.rows()))
    moved += bytes / element * static_cast<double>(shape.head_dim) /
             static_cast<double>(shape.head_dim + shape.values()) * (element + 8);
  return detail::overlapped(read, detail::arithmetic_seconds(rates, shape)) + moved / last_cache + rates.call;
}

}  // namespace gqa
