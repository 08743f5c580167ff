// SPDX-License-Identifier: Apache-2.0
// Attention to the pages of keys that matter most, with a bound on what it leaves out.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/indexed.hpp"
#include "gqa/layer/linear.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/page_selection.hpp"

namespace gqa {

struct SparseOptions {
  Index pages = 0;      ///< of 64 tokens that each KV head reads, those of the largest bounds; to be given
  Index sinks = 1;      ///< first tokens that are read beside them, with their pages
  Index recent = 64;    ///< last tokens that are, the queries' own among them at least
  double min_mass = 0;  ///< reads on until so much of every row's probability is read for certain, below 1
  std::optional<double> scale = {};  ///< as in AttentionOptions
  Workspace* workspace = nullptr;    ///< as in AttentionOptions
};

/// What a sparse call read. Masses are of the softmax over all keys, of which a query's row read 1 - what is
/// left; the bound holds for certain, whatever the keys, and mostly is far above the truth.
struct SparseReport {
  Index pages = 0;                       ///< of the layer
  double pages_read = 0;                 ///< of those, by a KV head on average
  double most_unread_mass = 0;           ///< the largest of all rows' bounds
  std::vector<double> unread_mass = {};  ///< tokens x H: at most so much of a row's probability was not read
};

/// The pages of a layer and how much each may matter to each row of queries.
template <class Acc>
class PageBounds {
 public:
  /// For tokens x H x D queries (one sequence) and a layer of an IndexedCache: of page p of KV head g,
  ///
  ///     bound[i, h, p] = scale * sum_d (max(q[i, h, d], 0) largest[p, d] + min(q[i, h, d], 0) smallest[p,
  ///     d])
  ///
  /// which no score of the page's keys exceeds. A page whose bound is no number (a key is NaN) gets infinity.
  /// Throws std::invalid_argument for sizes that do not belong together.
  template <TensorLike Q, Cache C>
  PageBounds(const Q& q, const IndexedCache<C>& cache, Index layer, std::optional<double> scale = {}) {
    const auto qs = as_view(q);
    const Index G = cache.num_kv_heads(), D = cache.head_dim();
    GQA_CHECK(qs.batch == 1, std::invalid_argument, "q: batch is " << qs.batch << ", expected 1");
    GQA_CHECK(qs.dim == D, std::invalid_argument, "q: dim is " << qs.dim << ", expected " << D);
    GQA_CHECK(qs.heads > 0 && qs.heads % G == 0, std::invalid_argument,
              "q: heads is " << qs.heads << ", expected a multiple of the " << G << " of the cache");
    tokens_ = qs.tokens;
    heads_ = qs.heads;
    kv_heads_ = G;
    pages_ = cache.num_pages(layer);
    keys_ = pages_ == 0 ? 0 : Ranges(cache.layer(layer).retained(0)).hull().end;
    const double factor = scale.value_or(1 / std::sqrt(static_cast<double>(D)));
    GQA_CHECK(std::isfinite(factor) && factor > 0, std::invalid_argument,
              "scale is " << factor << ", expected a positive number");
    if (pages_ == 0 || tokens_ == 0) return;

    // The sum is a product: of what is positive and negative in q with the largest and the smallest.
    const Index rows = tokens_ * heads_ / G;
    std::vector<Acc> split(static_cast<std::size_t>(rows * 2 * D));
    stride_ = round_up(pages_, 64);
    bounds_.resize(static_cast<std::size_t>(checked_mul(rows * G, stride_, "bounds")));
    Workspace workspace;
    for (Index g = 0; g < G; ++g) {
      // Sums in floats of 2 D products may come out lower than they are, and so may a score's: by less than D
      // half epsilons each of |q| times the largest key there is.
      const auto* const keys = cache.bounds(layer, g);
      const double largest_key = cache.largest_element(layer, g);
      Acc* to = split.data();
      std::vector<double> slack;
      for_rows(g, [&](Index t, Index h) {
        const auto* const from = qs.at(0, t, h);
        double length = 0;
        for (Index d = 0; d < D; ++d) {
          const auto x = static_cast<Acc>(from[d]);
          to[d] = std::max(x, Acc{0});
          to[D + d] = std::min(x, Acc{0});
          length += std::abs(static_cast<double>(x));
        }
        to += 2 * D;
        slack.push_back(static_cast<double>(std::numeric_limits<Acc>::epsilon()) * static_cast<double>(D) *
                        length * largest_key);
      });
      Acc* const products = bounds_.data() + g * rows * stride_;
      linear(MatrixView(split.data(), rows, 2 * D), MatrixView(keys, pages_, 2 * D),
             MatrixOut(products, rows, pages_, stride_), {.workspace = &workspace});
      for (Index r = 0; r < rows; ++r)
        for (Index p = 0; p < pages_; ++p) {
          Acc& bound = products[r * stride_ + p];
          bound =
              static_cast<Acc>((static_cast<double>(bound) + slack[static_cast<std::size_t>(r)]) * factor);
          if (!(bound == bound)) bound = std::numeric_limits<Acc>::infinity();
        }
    }
  }

  Index num_pages() const { return pages_; }
  Index num_tokens() const { return tokens_; }
  Index num_q_heads() const { return heads_; }
  Index num_kv_heads() const { return kv_heads_; }

  /// The bound of a page's scores for one row.
  double operator()(Index token, Index q_head, Index page) const {
    return static_cast<double>(row(token, q_head)[page]);
  }

  /// The pages that a KV head is to read: the `options.pages` of the largest bounds of any of its rows (all,
  /// where there are fewer), those of the sinks and the recent tokens. Throws std::invalid_argument for pages
  /// below 1, sinks below 0, and recent tokens fewer than the queries.
  PageSelection select(const SparseOptions& options) const {
    GQA_CHECK(options.pages >= 1, std::invalid_argument,
              "pages is " << options.pages << ", expected at least 1 of 64 tokens");
    GQA_CHECK(options.sinks >= 0, std::invalid_argument,
              "sinks is " << options.sinks << ", expected at least 0");
    GQA_CHECK(options.recent >= tokens_, std::invalid_argument,
              "recent is " << options.recent << ", expected at least the " << tokens_ << " tokens of q");
    PageSelection selection(heads_, kv_heads_, pages_, tile_keys);
    const Index sink_pages = std::min(pages_, ceil_div(options.sinks, tile_keys));
    const Index first_recent = std::max<Index>(0, keys_ - options.recent) / tile_keys;
    for (Index g = 0; g < kv_heads_; ++g) {
      const Index count = std::min(options.pages, pages_);
      const std::vector<Index> best = by_bound(g, count);
      for (Index i = 0; i < count; ++i) selection.add(g, best[static_cast<std::size_t>(i)]);
      for (Index p = 0; p < sink_pages; ++p) selection.add(g, p);
      for (Index p = first_recent; p < pages_; ++p) selection.add(g, p);
    }
    return selection;
  }

  /// At most so much of each row's probability (tokens x H) lies in the pages that were not selected, where
  /// the others' log-sum-exp came to `lse(token, q_head)`: with U = sum over those pages of their tokens
  /// times e^bound,
  ///
  ///     unread <= U / (U + e^lse).
  template <class Lse>
  std::vector<double> unread_mass(const PageSelection& selection, Lse&& lse) const {
    std::vector<double> mass(static_cast<std::size_t>(tokens_ * heads_));
    const Index rows = tokens_ * heads_ / kv_heads_, words = stride_ / 64;
    std::vector<Acc> weights(static_cast<std::size_t>(rows * stride_)), max(static_cast<std::size_t>(rows)),
        sum = max;
    std::vector<std::uint64_t> left(static_cast<std::size_t>(words));
    for (Index g = 0; g < kv_heads_ && rows * words > 0; ++g) {
      for (Index w = 0; w < words; ++w)
        left[static_cast<std::size_t>(w)] = ~selection.bits(g, 64 * w) & low_bits(pages_ - 64 * w);
      std::copy_n(bounds_.data() + g * rows * stride_, rows * stride_, weights.data());
      simd::row_kernels<Acc>(isa()).softmax({.scores = weights.data(),
                                             .stride = stride_,
                                             .rows = rows,
                                             .columns = stride_,
                                             .scale = 1,
                                             .mask = left.data(),
                                             .mask_stride = 0,
                                             .rows_per_mask = rows,
                                             .max = max.data(),
                                             .sum = sum.data(),
                                             .pack_pairs = false});
      std::size_t r = 0;
      for_rows(g, [&](Index t, Index h) {
        mass[static_cast<std::size_t>(t * heads_ + h)] =
            mass_of(static_cast<double>(max[r]) + log_tokens(static_cast<double>(sum[r])) - lse(t, h));
        ++r;
      });
    }
    return mass;
  }

  /// Adds pages, those of the largest bounds first, until at most `unread` of each row's probability can lie
  /// in the others. `lse(token, q_head)` is what the pages of the selection came to: more are never less.
  /// Returns how many it added.
  template <class Lse>
  Index extend(PageSelection& selection, double unread_most, Lse&& lse) const {
    Index added = 0;
    for (Index g = 0; g < kv_heads_; ++g) {
      std::vector<Index> left;  // the largest bounds first
      for (const Index page : by_bound(g, pages_))
        if (!selection.contains(g, page)) left.push_back(page);
      std::size_t needed = 0;
      for_rows(g, [&](Index t, Index h) {
        // Backwards, as long as what is left may stay unread.
        const Acc* const bounds = row(t, h);
        Acc largest = -std::numeric_limits<Acc>::infinity();
        for (const Index page : left) largest = std::max(largest, bounds[page]);
        double sum = 0;
        std::size_t first = left.size();
        for (; first > needed; --first) {
          sum += std::exp(static_cast<double>(bounds[left[first - 1]]) - static_cast<double>(largest));
          if (!(mass_of(static_cast<double>(largest) + log_tokens(sum) - lse(t, h)) <= unread_most)) break;
        }
        needed = first;
      });
      for (std::size_t i = 0; i < needed; ++i) selection.add(g, left[i]);
      added += static_cast<Index>(needed);
    }
    return added;
  }

 private:
  /// U / (U + R) for the logarithm of U / R.
  static double mass_of(double log_ratio) {
    if (log_ratio == -std::numeric_limits<double>::infinity()) return 0;
    return !(log_ratio < 700) ? 1 : std::exp(log_ratio) / (1 + std::exp(log_ratio));
  }

  /// The logarithm of the tokens of unread pages, which are whole as the last one is always read, each
  /// counting for its page's weight; or a little more, as weights are off by a few half epsilons.
  static double log_tokens(double sum_of_weights) {
    return std::log(sum_of_weights * static_cast<double>(tile_keys) * 1.00001);
  }

  /// Pages by the largest bound of a KV head's rows: the `count` of the largest in front, in order if that is
  /// all.
  std::vector<Index> by_bound(Index g, Index count) const {
    std::vector<Acc> most(static_cast<std::size_t>(pages_), -std::numeric_limits<Acc>::infinity());
    for_rows(g, [&](Index t, Index h) {
      const Acc* const bounds = row(t, h);
      for (std::size_t p = 0; p < most.size(); ++p) most[p] = std::max(most[p], bounds[p]);
    });
    std::vector<Index> order(most.size());
    std::iota(order.begin(), order.end(), Index{0});
    const auto before = [&](Index a, Index b) {
      const Acc x = most[static_cast<std::size_t>(a)], y = most[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    };
    if (count < pages_)
      std::nth_element(order.begin(), order.begin() + count, order.end(), before);
    else
      std::sort(order.begin(), order.end(), before);
    return order;
  }

  /// The rows that share a KV head.
  template <class F>
  void for_rows(Index g, F&& f) const {
    const Index group = heads_ / kv_heads_;
    for (Index t = 0; t < tokens_; ++t)
      for (Index h = g * group; h < (g + 1) * group; ++h) f(t, h);
  }

  const Acc* row(Index token, Index q_head) const {
    const Index group = heads_ / kv_heads_, g = q_head / group;
    return bounds_.data() + ((g * tokens_ + token) * group + q_head % group) * stride_;
  }

  Index tokens_ = 0, heads_ = 0, kv_heads_ = 1, pages_ = 0, keys_ = 0, stride_ = 0;
  std::vector<Acc> bounds_;  // [kv_head][token][head of the group][page], rows of whole words of pages
};

/// Attention of the last tokens of a sequence to its most relevant pages (Quest, Tang et al. 2024, arXiv
/// 2406.10774): for each KV head the pages of 64 tokens whose scores may be largest, the first and the last
/// are read, in ascending order, and no others,
///
///     out[i, h] = softmax(scale * q[i, h] K_S^T) V_S,   S the pages of KV head h / (H / G)
///
/// causally, with the last query on the last key. q is tokens x H x D, out tokens x H x Dv. With as many
/// pages as there are it is attention() to the bit. The report bounds, for each row, the probability of the
/// keys that were not read; with `min_mass` more pages are read until the bound says that so much was.
///
/// Throws std::invalid_argument as attention() does, for a selection that cannot be (see PageBounds::select),
/// and for min_mass below 0, 1 or more; out unchanged.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, TensorLike Q, Cache C, OutputLike Out>
SparseReport sparse_attention(E&& executor, const Q& q, const IndexedCache<C>& cache, Index layer, Out&& out,
                              const SparseOptions& options) {
  using Acc = Accumulator<typename C::Scalar>;
  GQA_CHECK(options.min_mass >= 0 && options.min_mass < 1, std::invalid_argument,
            "min_mass is " << options.min_mass << ", expected at least 0 and less than 1");
  const PageBounds<Acc> bounds(q, cache, layer, options.scale);
  PageSelection selection = bounds.select(options);
  const Index tokens = bounds.num_tokens(), heads = bounds.num_q_heads();
  std::vector<Acc> lse(static_cast<std::size_t>(tokens * heads));
  const RowsView<Acc> lse_rows{lse.data(), 1, tokens, heads, tokens * heads, heads, 1};
  const auto view = cache.layer(layer);
  const AttentionOptions how{.scale = options.scale, .workspace = options.workspace};
  const auto attend = [&] {
    attention<H, G>(executor, q, view, out, selection & causal(), lse_into(lse_rows), how);
  };
  const auto lse_of = [&](Index t, Index h) {
    return static_cast<double>(lse[static_cast<std::size_t>(t * heads + h)]);
  };
  attend();
  if (options.min_mass > 0 && bounds.extend(selection, 1 - options.min_mass, lse_of) > 0) attend();

  SparseReport report{.pages = bounds.num_pages()};
  for (Index g = 0; g < bounds.num_kv_heads(); ++g)
    report.pages_read += static_cast<double>(selection.count(g)) / static_cast<double>(bounds.num_kv_heads());
  report.unread_mass = bounds.unread_mass(selection, lse_of);
  for (const double mass : report.unread_mass)
    report.most_unread_mass = std::max(report.most_unread_mass, mass);
  return report;
}
template <Index H = Dynamic, Index G = Dynamic, TensorLike Q, Cache C, OutputLike Out>
SparseReport sparse_attention(const Q& q, const IndexedCache<C>& cache, Index layer, Out&& out,
                              const SparseOptions& options) {
  return sparse_attention<H, G>(Serial{}, q, cache, layer, out, options);
}

}  // namespace gqa
