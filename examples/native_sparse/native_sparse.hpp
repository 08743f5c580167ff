// SPDX-License-Identifier: Apache-2.0
// Attention that learns what to read, of this library's parts.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "compression.hpp"
#include "gqa/cache.hpp"
#include "gqa/core/parallel.hpp"
#include "gqa/mask/page_selection.hpp"

namespace native_sparse {

struct Config {
  Index num_q_heads = 8, num_kv_heads = 2, head_dim = 64, value_dim = 64;
  Index block = 32;    ///< tokens that a compressed key stands for, a multiple of
  Index stride = 16;   ///< how many further the next one begins
  Index page = 64;     ///< tokens that are selected together, a multiple of the stride
  Index pages = 16;    ///< selected by a KV head: the first one, the two newest, the rest by importance
  Index window = 512;  ///< last tokens that are read in any case
  Index max_tokens = 0;
  Index max_span = 64;  ///< tokens computed at once
  double scale = 0.125;
};

struct KeysValues {
  Tokens k, v;
};
/// A token's keys and values for each branch: projections of their own, or the same three times.
struct Branches {
  KeysValues compressed, selected, window;
};

/// How many keys the queries of a call read, by a KV head on average; compressed ones count as one each.
struct KeysRead {
  double compressed = 0, selected = 0, window = 0;
  double all = 0;  ///< that attention to everything would have read

  double sum() const { return compressed + selected + window; }
};

/// Native sparse attention (Yuan et al. 2025, arXiv 2502.11089) of one layer and sequence, and its cache. A
/// query attends to three sets of keys, each with a softmax of its own,
///
///     out[t, h] = gates[t, h, 0] o_cmp + gates[t, h, 1] o_slc + gates[t, h, 2] o_win
///
/// - compressed: a key and a value for every block of tokens that has ended by then, attended to as any;
/// - selected: the tokens of the pages that matter most to the heads which share a KV head. What a page is
///   worth is the probability that those heads, together, give the compressed keys over it: each counts once
///   for every stride of the page that its block covers (equation 9 of the paper, whose index is turned here
///   so that the blocks over a page count, not those before it);
/// - window: the last tokens.
///
/// A token's output is the same bits in a prefill, a chunk or alone. With every page selected and gates 0, 1,
/// 0 it is attention() to the bit.
class NativeSparse {
 public:
  /// Throws std::invalid_argument for sizes that do not belong together, and what `keys` and `values` throw.
  explicit NativeSparse(const Config& config, Compress keys = mean, Compress values = mean);

  /// Takes in the tokens that come next, and attends: q is tokens x H x D, gates tokens x H x 3, out tokens x
  /// H x Dv. A branch whose gates are all 0 is not read. Throws std::invalid_argument for sizes that do not
  /// belong together, std::length_error beyond max_tokens; nothing has changed then.
  KeysRead forward(gqa::PoolExecutor executor, const Tokens& q, const Branches& branches, const Tokens& gates,
                   const gqa::TensorView<float>& out);

  Index size() const { return all_.size(); }
  const Config& config() const { return config_; }
  Index num_blocks() const { return compressed_.size(); }
  /// Keys and values of the selected branch: all there have been.
  auto keys() const { return all_.layer(0); }
  /// The pages that the last query selected, if it did.
  const std::optional<gqa::PageSelection>& last_selection() const { return last_selection_; }
  /// Of all three branches.
  Index bytes() const { return compressed_.bytes() + all_.bytes() + window_.bytes(); }

 private:
  void check(const Tokens& q, const Branches& branches, const Tokens& gates,
             const gqa::TensorView<float>& out) const;
  void take_in(const Branches& branches);
  void compress(const KeysValues& kv);
  void compress_pending();
  void attend_chunk(gqa::PoolExecutor executor, const Tokens& q, const Tokens& gates,
                    const gqa::TensorView<float>& out, KeysRead& read);
  double attend_selected(gqa::PoolExecutor executor, const Tokens& q, const gqa::TensorView<float>& out);
  gqa::PageSelection select(Index position, std::span<const double> importance) const;

  Config config_;
  Compress compress_keys_, compress_values_;
  gqa::KVCache<float> compressed_, all_;
  gqa::RingCache<float> window_;
  std::vector<float> pending_k_, pending_v_;  // tokens from the beginning of the block that comes next
  std::optional<gqa::PageSelection> last_selection_;
  gqa::Workspace workspace_;
};

/// Attention of the last token of `keys` to the selected pages and the window together, in two calls over
/// keys that they partition, merged by their log-sum-exps: out is 1 x H x Dv. What gates do with two
/// softmaxes is a sum; this is the one softmax over both sets, up to rounding.
void attend_to_both(gqa::PoolExecutor executor, const Tokens& q, const gqa::KVCache<float>::View& keys,
                    const gqa::PageSelection& selection, Index window, double scale,
                    const gqa::TensorView<float>& out);

}  // namespace native_sparse
