// SPDX-License-Identifier: Apache-2.0
// What a call of attention takes, before it is made: counted bytes and operations over measured rates.
#pragma once

#include <array>
#include <cmath>

#include "gqa/plan/call_shape.hpp"

namespace gqa {

/// What a machine gives attention over one element type on so many threads: measure_rates() measures it.
struct CostRates {
  /// A place that keys and values are read from, and how fast.
  struct Read {
    double fits = 0;  ///< bytes that successive calls may go through and find there; of twice as many, none
    double rate = 0;  ///< bytes a second
  };

  Index element_bytes = 4;
  Index num_threads = 1;
  bool widens = false;            ///< keys of 16 bits become floats before many rows multiply them
  std::array<Read, 3> read = {};  ///< a core's cache, the last cache, memory, whose `fits` says nothing
  double multiply = 0;            ///< multiply-adds a second, of products alone
  double score = 0;               ///< scores a second that become weights
  double mask = 0;                ///< seconds that a mask takes to say of 64 keys which a token sees
  double call = 0;                ///< seconds of a call that has next to nothing to do
};

namespace detail {

inline void check_rates(const CostRates& r) {
  const auto check = [](const char* name, double value) {
    GQA_CHECK(value > 0 && value <= std::numeric_limits<double>::max(), std::invalid_argument,
              "rates: " << name << " is " << value << ", expected more than 0");
  };
  for (const CostRates::Read& read : r.read) check("read.rate", read.rate);
  check("read.fits", r.read[0].fits);
  GQA_CHECK(r.read[0].fits < r.read[1].fits, std::invalid_argument,
            "rates: read.fits is " << r.read[1].fits << ", expected more than " << r.read[0].fits);
  check("multiply", r.multiply);
  check("score", r.score);
  GQA_CHECK(r.call >= 0, std::invalid_argument, "rates: call is " << r.call << ", expected at least 0");
  GQA_CHECK(r.mask >= 0, std::invalid_argument, "rates: mask is " << r.mask << ", expected at least 0");
  GQA_CHECK(r.element_bytes >= 1, std::invalid_argument,
            "rates: element_bytes is " << r.element_bytes << ", expected at least 1");
}

/// The rate of reading where successive calls go through `footprint` bytes. A cache that is gone through in
/// a cycle keeps nothing of what does not fit; between that and half of it the rates' logarithms are
/// interpolated.
inline double read_rate(const CostRates& rates, double footprint) {
  double rate = rates.read[2].rate;
  for (const std::size_t i : {std::size_t{1}, std::size_t{0}}) {
    const double beyond = std::clamp(std::log2(footprint / rates.read[i].fits), 0.0, 1.0);
    rate = rates.read[i].rate * std::pow(rate / rates.read[i].rate, beyond);
  }
  return rate;
}

/// Pairs of a query row and a key that packing a caller's keys costs as much as, all heads together: about 30
/// rows for each key that a task reads. Of a causal call's tasks, the mean one reads half of the queries'
/// own.
inline double packed_pairs(const CallShape& s) {
  const Index task_rows = tuning::block_sizes(s.head_dim, s.values(), sizeof(float)).task_rows;
  const auto tasks = static_cast<double>(ceil_div(s.rows(), std::max(task_rows, s.group_size())));
  const double own = s.causal && s.window == 0 ? static_cast<double>(s.q_tokens) * (tasks - 1) / 2 : 0;
  const double keys = tasks * static_cast<double>(s.kv_tokens - first_key(s)) - own;
  return 30 * keys * static_cast<double>(s.num_kv_heads) * static_cast<double>(s.num_seqs);
}

/// Seconds that so many pairs take, a product each of keys and of values and a weight:
///
///     pairs ((D + Dv) / multiply + 1 / score)
inline double arithmetic_seconds(const CostRates& rates, const CallShape& shape, double pairs) {
  const auto dims = static_cast<double>(shape.head_dim + round_up(shape.values(), simd::padding));
  return pairs * (dims / rates.multiply + 1 / rates.score);
}

/// Of all heads and sequences.
inline double all_pairs(const CallShape& s) {
  return static_cast<double>(s.num_seqs) * static_cast<double>(s.num_q_heads) * multiplied_pairs(s);
}

/// How often the mask is asked which of 64 keys a token sees, for one KV head after another: in all tiles of
/// the chunk that its last key is in, and with a window in those of its first. A single token sees all there
/// is.
inline double masked_tiles(const CallShape& s) {
  const double ends = s.causal && s.q_tokens > 1 ? 1 : 0;
  const double begins = s.window > 0 && s.window < s.kv_tokens ? 1 : 0;
  const Index tiles = std::min(chunk_tiles, ceil_div(s.kv_tokens, tile_keys));
  return (ends + begins) * static_cast<double>(s.num_seqs) * static_cast<double>(s.q_tokens) *
         static_cast<double>(s.num_kv_heads) * static_cast<double>(tiles);
}

}  // namespace detail

/// Where a call's keys and values are.
struct KVPlace {
  double footprint = 0;     ///< bytes that successive calls go through, as all layers' of a model; 0: its own
  bool in_tensors = false;  ///< a caller's, packed by each task anew; else in a cache
};

/// Seconds that a call of attention() takes:
///
///     t = sqrt(read^2 + arithmetic^2) + rows + masked + call
///     read = bytes of keys and values that are seen / rate of their footprint
///     arithmetic = H pairs ((D + Dv) / multiply + 1 / score)
///     rows = bytes of queries and outputs / rate of the last cache
///     masked = tokens KV heads tiles of a chunk (with a window of two) mask, of more than one token
///
/// Pairs are counted as they are multiplied, in whole tiles of 64 keys; packing a caller's keys and values
/// costs as much as 30 rows. Rates are those of one element type and number of threads; calls of less than
/// 50 us, which run on one thread, want rates of one. Throws std::invalid_argument for sizes or rates that
/// cannot be.
inline double predicted_seconds(const CostRates& rates, const CallShape& shape, const KVPlace& place = {}) {
  detail::check_shape(shape);
  detail::check_rates(rates);
  GQA_CHECK(place.footprint >= 0, std::invalid_argument,
            "footprint is " << place.footprint << " bytes, expected at least 0");
  const auto element = static_cast<double>(rates.element_bytes);
  const double bytes = detail::kv_bytes(shape, element);
  const double read = bytes / detail::read_rate(rates, std::max(bytes, place.footprint));
  const double pairs = detail::all_pairs(shape) + (place.in_tensors ? detail::packed_pairs(shape) : 0);
  double moved = static_cast<double>(shape.num_seqs) * static_cast<double>(shape.q_tokens) *
                 static_cast<double>(shape.num_q_heads) *
                 static_cast<double>(shape.head_dim + shape.values()) * element;
  // A key that is widened is read, written as a float, and read as one.
  if (rates.widens && detail::tuning::widens_once(shape.rows()))
    moved += bytes / element * static_cast<double>(shape.head_dim) /
             static_cast<double>(shape.head_dim + shape.values()) * (element + 8);
  // Reading and multiplying overlap in part: not in full, which would take the longer of the two, but more
  // than not at all. Of exponents from 1 (their sum) to infinity (the longer), 2 comes nearest to 195
  // measured cases of 1 to 8,192 rows, from caches and memory, in three element types; 1.8 to 2.25 are as
  // good within noise.
  return std::hypot(read, detail::arithmetic_seconds(rates, shape, pairs)) + moved / rates.read[1].rate +
         detail::masked_tiles(shape) * rates.mask + rates.call;
}

}  // namespace gqa
