// SPDX-License-Identifier: Apache-2.0
// Every number that a measurement chose, as a pure function of sizes. Those under "bits" are part of what is
// computed: sums are cut there. The others change how fast it is and nothing else.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "gqa/core/shape.hpp"
#include "gqa/simd/product.hpp"

namespace gqa {

using simd::tile_keys;

// ---- Bits. ----

/// The KV axis is cut into chunks at multiples of this position, whatever the threads, the batch or the
/// cache. A chunk's softmax is taken whole and chunks merge in ascending order, so how work is split shows in
/// no bit. 512 keys: a merge (2 FMAs an element of the output) costs 1/256 of the products of a chunk, and
/// the 6 score rows of a register tile (12 kB) leave L1 to the keys.
inline constexpr Index chunk_tiles = 8;
inline constexpr Index chunk_keys = chunk_tiles * tile_keys;

/// The chunks of so many positions merge among themselves first, in ascending order, and what they make
/// merges in ascending order: work that is split, over threads, calls or machines, is kept as one state for
/// each of these in place of one for each chunk, and merges to the same bits.
inline constexpr Index merge_keys = 16 * chunk_keys;

/// How a call is cut into work, where its caller knows better than the sizes say: it changes the time and no
/// bit. 0: as the library chooses. gqa::tune() measures it.
struct Tuning {
  Index threads = 0;           ///< of the executor's, at most; given, so many however little there is to do
  Index block_rows = 0;        ///< query rows (tokens x group_size) whose scores are kept at once
  Index task_rows = 0;         ///< query rows that a task has at most
  Index tasks_per_thread = 0;  ///< that queries, and then keys, are cut into at least, if they can be

  friend bool operator==(const Tuning&, const Tuning&) = default;
};

namespace detail::tuning {

/// What a Tuning's numbers may be at most: more than there are rows, threads and tasks to gain from.
inline constexpr Index most_tuning = Index{1} << 20;

/// Backward cuts a sequence's queries into as many slices, which sum up gradients of the keys each for itself
/// until they merge in ascending order: by the scores of one KV head alone. 2^23 of them take about 50 ms (5
/// products of 128 dims at 200 GFLOP/s). A slice keeps gradients of all keys, as much as `2 / group_size` of
/// the queries', so there are at most 4, or 16 where many heads share the keys.
constexpr Index backward_slices(Index tokens, Index group_size, Index keys) {
  constexpr double scores = double{1 << 23};
  const double all =
      static_cast<double>(tokens) * static_cast<double>(group_size) * static_cast<double>(keys);
  const Index most = std::min(std::clamp<Index>(group_size, 4, 16), std::max<Index>(tokens, 1));
  return all >= scores * static_cast<double>(most) ? most
                                                   : std::max<Index>(1, static_cast<Index>(all / scores));
}

/// Scores are kept with a few columns more than a chunk has: the last product may write a vector past its
/// last key, and rows a power of two apart would compete for the same sets of the first-level cache.
inline constexpr Index score_stride = chunk_keys + simd::padding;

// ---- How work is cut. ----

/// The second-level cache that block sizes are derived from: 1 MiB is what current server cores have at
/// least.
inline constexpr Index cache_bytes = Index{1} << 20;

/// Block sizes in query rows: of a task, and of the part of it whose scores stay in the second-level cache.
struct BlockSizes {
  Index task_rows;
  Index block_rows;
};

/// Rows a block has: its scores (chunk_keys floats a row), queries, outputs and chunk outputs (head_dim or
/// value_dim floats each) fill at most half of `cache`; the other half holds the chunk's keys and
/// values. A task has enough blocks to share the packing of a chunk, which costs as much as about 30 rows
/// where a caller's rows lie pages apart, until it is about 1 %.
constexpr BlockSizes block_sizes(Index head_dim, Index value_dim, Index scalar_bytes,
                                 Index cache = cache_bytes) {
  // Sizes that overflow are refused elsewhere; here they only must not.
  constexpr Index enough = Index{1} << 32;
  const Index row_bytes =
      (chunk_keys + std::min(head_dim, enough) + 2 * std::min(value_dim, enough)) * scalar_bytes;
  const Index block = std::clamp<Index>(round_down(cache / 2 / std::max<Index>(row_bytes, 1), 24), 24, 192);
  return {16 * block, block};
}

/// A call worth less than this runs on one thread: waking another takes about 10 us here, and what the caches
/// hold takes a third of the estimate below.
inline constexpr double min_parallel_ns = 50000;

/// Nanoseconds one thread takes: the keys and values at 16 bytes a ns, or the two products at 80 FLOP a ns.
/// `elements` are those of keys and values that are read, `rows` how many multiply each.
constexpr double estimate_ns(double elements, double element_bytes, double rows) {
  return std::max(elements * element_bytes / 16, 2 * elements * rows / 80);
}

/// The same of backward: three products over head_dim and two over value_dim for each pair of a row and a
/// key.
constexpr double backward_ns(double pairs, Index head_dim, Index value_dim) {
  return pairs * static_cast<double>(3 * head_dim + 2 * value_dim) * 2 / 80;
}

/// Four tasks a thread leave at most a quarter of one thread's share to wait for at the end.
inline constexpr Index tasks_per_thread = 4;

/// More threads than this are not told apart: what an executor claims to have must not overflow.
inline constexpr Index most_threads = Index{1} << 16;

/// Keys that backward multiplies at once: loading and storing the 24 sums of a register tile costs about as
/// much as 3 of them. 256 take 4 % less time than 128 at 2,048 tokens, and as much at 512.
inline constexpr Index backward_tiles = 4;
inline constexpr Index backward_keys = backward_tiles * tile_keys;

/// See score_stride.
inline constexpr Index backward_stride = backward_keys + simd::padding;

/// Rows of a block of backward: both scores, queries, their gradients and those of the output fill at most
/// half of `cache`, as in block_sizes; the step's keys in both orders, values and the gradients of both pass
/// through the other half. 96 rows or 192 take the same time.
constexpr Index backward_rows(Index head_dim, Index value_dim, Index scalar_bytes,
                              Index cache = cache_bytes) {
  constexpr Index enough = Index{1} << 32;
  const Index row_bytes =
      (2 * backward_keys + 2 * std::min(head_dim, enough) + std::min(value_dim, enough)) * scalar_bytes;
  return std::clamp<Index>(round_down(cache / 2 / row_bytes, 24), 24, 192);
}

/// Chunks whose scores are kept until their rows' sums are known, in 4 MiB: a thread's share of a last cache,
/// which takes 192 rows by 5,120 keys. Those of further ones stay where their probabilities go: with only 1
/// MiB that takes 5 % longer at 2,048 keys, and at 16,384 as long. To multiply again, where they go nowhere,
/// takes a quarter longer there with 64 dims and a half with 128.
constexpr Index kept_chunks(Index rows, Index scalar_bytes) {
  return std::max<Index>(1, 4 * cache_bytes / (rows * score_stride * scalar_bytes));
}

// ---- How a block is multiplied. ----

/// Rows that a product on a partly masked tile is done for at a time: two register tiles, so that 4 rows a
/// position still fill them.
inline constexpr Index masked_run_rows = 12;

/// Few rows read keys and values as fast as memory gives them; from about 128 on products take longer. What
/// has been packed or read before (`at_hand`) is in the caches: there it is so for few rows only.
constexpr bool streams(Index rows, bool at_hand) { return rows <= (at_hand ? 16 : 128); }

/// Keys that a product with values runs over at once: loading and storing the 24 sums of a register tile
/// costs about as much as 3 keys, so 256 keys bring it to 1 %, and their values of 64 dims (64 kB) stay in
/// the second-level cache.
/// Where values stream from memory, a tile at a time is better: its second strip of dims finds them in the
/// first level.
constexpr Index value_run_keys(bool streaming) { return streaming ? tile_keys : 256; }

/// From this many rows on 16-bit keys are widened once, not in each pass over them: that takes as long as
/// about 10 passes' conversions, each a fifth of a pass. With fewer rows the products stream what is stored.
/// The sums are the same: each widened element enters the same multiply-add.
constexpr bool widens_once(Index rows) { return rows >= 64; }

/// From this many rows on a caller's values are copied to rows that stand side by side where their strides
/// leave them in a few sets of the first-level cache (of 64 lines of 64 bytes, 8 ways at least), to miss in
/// every pass: strides of whole pages, as G heads of D often make, leave all rows in one. A tile's 64 rows
/// need 8 sets, and as many for the keys.
constexpr bool copies_values(Index rows, Index row_bytes) {
  const Index lines = row_bytes / 64;
  const Index sets = lines == 0 ? 64 : 64 / std::gcd(lines, Index{64});
  return rows >= 24 && (sets < 16 || row_bytes % 64 != 0);
}

/// Tokens ahead of those being read or written whose rows are prefetched.
inline constexpr Index rows_ahead = 4;

}  // namespace detail::tuning

}  // namespace gqa
