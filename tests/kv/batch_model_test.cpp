// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a batch cache against plain vectors of tokens.
#include <algorithm>
#include <optional>

#include "gqa/kv/batch.hpp"
#include "kv/random_operations.hpp"

namespace gqa {
namespace {

using test::expect;
using test::Operation;
using test::Outcome;
using test::require;
using test::require_equal;
using test::TokenRows;

template <class T>
class BatchModel {
 public:
  static constexpr int num_kinds = 13;

  BatchModel(Index num_seqs, Index limit_in_slabs)
      : limit_(limit_in_slabs * slab_bytes),
        seqs_(static_cast<std::size_t>(num_seqs)),
        cache_({.num_seqs = num_seqs,
                .max_tokens = max_tokens,
                .num_layers = layers,
                .num_kv_heads = shape.num_kv_heads,
                .head_dim = shape.head_dim,
                .value_dim = shape.value_dim,
                .memory_limit = limit_}) {
    take_views();
  }

  void apply(const Operation& op) {
    const auto [kind, a, b, c] = op;
    const std::size_t seq = static_cast<std::size_t>(a) % seqs_.size();
    switch (kind) {
      case 0:
      case 1:
      case 2:
        extend(std::vector<Index>(seqs_.size(), 0));  // what is missing of the last pass
        if (!passes_.empty()) write_rest();
        if (extend(lengths(b, c)) && !passes_.empty())
          for (Index i = 0; i < layers; ++i) write(passes_.back(), i, a % 2 == 0);
        return;
      case 3:
        extend(lengths(b, c));
        return;
      case 4:
      case 5:
        if (!passes_.empty())
          write(passes_[static_cast<std::size_t>(a) % passes_.size()], b % layers, c % 2 == 0);
        return;
      case 6:
        return truncate(seq, size(seq) - b % 40);
      case 7:
        return truncate(seq, b % (size(seq) + 2));
      case 8:
        return truncate_all(b % 50);
      case 9:
      case 10:
        return reorder(a, b, c);
      case 11:
        return clear(a, seq);
      default:
        return b % 2 == 0 ? refused(c) : clone();
    }
  }

  void check() {
    Index tokens = 0, slabs = 0;
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      const Sequence& s = seqs_[seq];
      const Index number = static_cast<Index>(seq);
      require_equal(cache_.size(number), s.size, "size");
      for (std::size_t i = 0; i < layers; ++i) {
        const Index layer = static_cast<Index>(i);
        test::require_layer<T>(views_[i], number, layer, shape, s.written[i],
                               Range{0, std::ssize(s.written[i])},
                               [&](Range r, auto k, auto v) { cache_.read(layer, number, r, k, v); });
      }
      tokens += s.size;
      slabs += s.slabs;
    }
    require_equal(cache_.bytes(), tokens * token_bytes, "bytes");
    require_equal(cache_.allocated_bytes(), slabs * slab_bytes, "allocated_bytes");
    require_equal(cache_.padding_bytes(), slabs * slab_bytes - tokens * token_bytes, "padding_bytes");
  }

  void finish() {
    clear(0, 0);
    check();
  }

 private:
  static constexpr Index layers = 2, max_tokens = 1100;
  static constexpr detail::LayerShape shape{2, 3, 1};
  inline static const Index slab_bytes = test::block_bytes<T>(shape, layers, 512);
  inline static const Index token_bytes = test::token_bytes<T>(shape, layers);

  struct Sequence {
    Index size = 0, slabs = 0;
    std::array<std::vector<int>, layers> written = {};
  };
  /// A span for each sequence, and which are valid.
  struct Pass {
    std::vector<Span> spans;
    std::vector<bool> valid;
  };

  Index size(std::size_t seq) const { return seqs_[seq].size; }
  void forget_spans(std::size_t seq) {
    for (Pass& each : passes_) each.valid[seq] = false;
  }
  void take_views() {
    views_.clear();
    for (Index i = 0; i < layers; ++i) views_.push_back(cache_.layer(i));
  }
  void views_end() {
    for (const auto& view : views_)
      expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    take_views();
  }

  /// The same of each, or of each its own.
  std::vector<Index> lengths(int b, int c) const {
    std::vector<Index> n;
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq)
      n.push_back(c % 3 == 0 ? b % 100 : b * (static_cast<int>(seq) * 7 + 3) % (c % 150 + 1));
    return n;
  }

  bool extend(const std::vector<Index>& n) {
    bool room = true;
    Index slabs = 0;
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      room = room && n[seq] <= max_tokens - size(seq);
      slabs += std::max(seqs_[seq].slabs, ceil_div(size(seq) + n[seq], 512));
    }
    room = room && (limit_ == 0 || slabs * slab_bytes <= limit_);
    std::optional<std::vector<Span>> spans;
    expect(room ? Outcome::happens : Outcome::too_long, "extend", [&] {
      const bool equal = std::equal(n.begin() + 1, n.end(), n.begin());
      spans = equal ? cache_.extend(n.front()) : cache_.extend(n);
    });
    if (!room) return false;
    Pass pass{*spans, std::vector<bool>(seqs_.size(), true)};
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      Sequence& s = seqs_[seq];
      require(pass.spans[seq].positions == Range{s.size, s.size + n[seq]}, "the span's positions");
      s.size += n[seq];
      s.slabs = std::max(s.slabs, ceil_div(s.size, 512));
    }
    if (passes_.size() == 5) passes_.erase(passes_.begin());
    passes_.push_back(pass);
    return true;
  }

  void write(const Pass& pass, Index layer, bool padded) {
    bool may = true;
    Index longest = 0, all = 0;
    std::vector<Index> offsets{0};
    std::vector<std::vector<int>> numbers(seqs_.size());
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      const Range r = pass.spans[seq].positions;
      may = may && pass.valid[seq] && r.end <= size(seq) &&
            r.begin <= std::ssize(seqs_[seq].written[static_cast<std::size_t>(layer)]);
      for (Index p = 0; p < r.size(); ++p) numbers[seq].push_back(next_++);
      longest = std::max(longest, r.size());
      offsets.push_back(all += r.size());
    }
    std::vector<int> rows;
    for (const auto& each : numbers) {
      rows.insert(rows.end(), each.begin(), each.end());
      if (padded) rows.resize(rows.size() + static_cast<std::size_t>(longest) - each.size(), -1);
    }
    const TokenRows<T> tokens(shape, layer, rows);
    const Index batch = std::ssize(seqs_), heads = shape.num_kv_heads;
    expect(may ? Outcome::happens : Outcome::invalid, "write", [&] {
      if (padded)
        cache_.write(layer, pass.spans,
                     TensorView<const T>(tokens.k.data(), batch, longest, heads, shape.head_dim),
                     TensorView<const T>(tokens.v.data(), batch, longest, heads, shape.value_dim));
      else
        cache_.write(layer, pass.spans, ragged(tokens.keys(), offsets), ragged(tokens.values(), offsets));
    });
    if (!may) return;
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      auto& written = seqs_[seq].written[static_cast<std::size_t>(layer)];
      const Range r = pass.spans[seq].positions;
      if (r.empty()) continue;
      written.resize(static_cast<std::size_t>(std::max(r.end, std::ssize(written))));
      std::copy(numbers[seq].begin(), numbers[seq].end(), written.begin() + r.begin);
    }
  }
  /// Writes in each layer what it lacks.
  void write_rest() {
    for (Index layer = 0; layer < layers; ++layer) {
      Pass rest = passes_.back();
      for (std::size_t seq = 0; seq < seqs_.size(); ++seq)
        rest.spans[seq].positions = {std::ssize(seqs_[seq].written[static_cast<std::size_t>(layer)]),
                                     size(seq)};
      write(rest, layer, false);
    }
  }

  void forget_from(std::size_t seq, Index n) {
    if (n == size(seq)) return;
    seqs_[seq].size = n;
    for (auto& written : seqs_[seq].written)
      written.resize(std::min(written.size(), static_cast<std::size_t>(n)));
    forget_spans(seq);
  }
  void truncate(std::size_t seq, Index n) {
    const bool may = n >= 0 && n <= size(seq);
    expect(may ? Outcome::happens : Outcome::invalid, "truncate",
           [&] { cache_.truncate(static_cast<Index>(seq), n); });
    if (may) forget_from(seq, n);
  }
  void truncate_all(Index less) {
    Index n = size(0);
    for (const Sequence& s : seqs_) n = std::min(n, s.size);
    expect(Outcome::invalid, "truncate", [&] { cache_.truncate(n + 1); });
    n = std::max<Index>(0, n - less);
    cache_.truncate(n);
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) forget_from(seq, n);
  }

  void reorder(int a, int b, int c) {
    const Index n = std::ssize(seqs_);
    std::vector<Index> parents;
    for (Index seq = 0; seq < n; ++seq)
      parents.push_back(std::array<Index, 4>{a, b, c, seq}[static_cast<std::size_t>(seq + a) % 4] % n);
    // The first who names a parent, or is it, has its memory; others take what they need.
    std::vector<Sequence> after;
    Index slabs = 0;
    for (Index seq = 0; seq < n; ++seq) {
      const Index parent = parents[static_cast<std::size_t>(seq)];
      const bool itself = parents[static_cast<std::size_t>(parent)] == parent;
      const Index heir =
          itself ? parent : std::find(parents.begin(), parents.end(), parent) - parents.begin();
      after.push_back(seqs_[static_cast<std::size_t>(parent)]);
      if (heir != seq) after.back().slabs = ceil_div(after.back().size, 512);
      slabs += after.back().slabs;
    }
    const bool may = limit_ == 0 || slabs * slab_bytes <= limit_;
    std::vector<Index> wrong = parents;
    wrong.back() = n;
    expect(Outcome::absent, "reorder", [&] { cache_.reorder(wrong); });
    wrong.pop_back();
    expect(Outcome::invalid, "reorder", [&] { cache_.reorder(wrong); });
    expect(may ? Outcome::happens : Outcome::too_long, "reorder", [&] { cache_.reorder(parents); });
    if (!may) return;
    seqs_ = after;
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq)
      if (parents[seq] != static_cast<Index>(seq)) forget_spans(seq);
  }

  void clear(int a, std::size_t seq) {
    if (a % 8 > 0) {
      cache_.clear(static_cast<Index>(seq));
      seqs_[seq] = {};
      return forget_spans(seq);
    }
    cache_.clear();
    for (std::size_t i = 0; i < seqs_.size(); ++i) {
      seqs_[i] = {};
      forget_spans(i);
    }
    views_end();
  }

  void clone() {
    cache_ = cache_.clone();
    for (std::size_t seq = 0; seq < seqs_.size(); ++seq) {
      seqs_[seq].slabs = ceil_div(size(seq), 512);
      forget_spans(seq);
    }
    views_end();
  }

  void refused(int c) {
    const Index absent = c % 2 == 0 ? std::ssize(seqs_) + c : -1 - c;
    expect(Outcome::absent, "size", [&] { (void)cache_.size(absent); });
    expect(Outcome::absent, "clear", [&] { cache_.clear(absent); });
    expect(Outcome::absent, "truncate", [&] { cache_.truncate(absent, 0); });
    expect(Outcome::absent, "layer", [&] { (void)cache_.layer(absent + (absent > 0 ? layers : 0)); });
    expect(Outcome::invalid, "extend", [&] { cache_.extend(-1 - c); });
    std::vector<Index> n(seqs_.size() + 1);
    expect(Outcome::invalid, "extend", [&] { cache_.extend(n); });
    n.pop_back();
    n.back() = -1;
    expect(Outcome::invalid, "extend", [&] { cache_.extend(n); });
    TokenRows<T> one(shape, 1);
    for (const Range r : {Range{size(0), size(0) + 1}, Range{-1, 0}})
      expect(Outcome::invalid, "read", [&] { cache_.read(0, 0, r, one.keys(), one.values()); });
  }

  Index limit_;
  std::vector<Sequence> seqs_;
  BatchCache<T> cache_;
  std::vector<Pass> passes_;
  std::vector<typename BatchCache<T>::View> views_;
  int next_ = 1;
};

TEST(BatchModel, Float) {
  test::expect_as_modelled([] { return BatchModel<float>(3, 0); });
}
TEST(BatchModel, HalfWithinAMemoryLimit) {
  test::expect_as_modelled([] { return BatchModel<half>(4, 5); });
}
TEST(BatchModel, BrainFloat) {
  test::expect_as_modelled([] { return BatchModel<bfloat16>(2, 3); });
}

}  // namespace
}  // namespace gqa
