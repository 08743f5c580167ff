// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a cross cache against plain vectors of tokens.
#include <algorithm>
#include <optional>

#include "gqa/kv/cross.hpp"
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
class CrossModel {
 public:
  static constexpr int num_kinds = 14;

  CrossModel(const std::vector<Index>& lengths, Index limit_in_tiles)
      : limit_(limit_in_tiles * tile_bytes),
        cache_({.tokens = lengths,
                .num_layers = layers,
                .num_kv_heads = shape.num_kv_heads,
                .head_dim = shape.head_dim,
                .value_dim = shape.value_dim,
                .memory_limit = limit_}) {
    for (const Index n : lengths) seqs_.push_back({n});
    take_views();
  }

  void apply(const Operation& op) {
    const auto [kind, a, b, c] = op;
    const std::size_t seq = static_cast<std::size_t>(a) % seqs_.size();
    switch (kind) {
      case 0:
      case 1:
        return write(b % layers, seq, c % 5 == 0 ? c % 3 - 1 : 0);
      case 2:
        return write_layer(b % layers, c % 2 == 0, c % 7 == 0 ? 1 : 0);
      case 3:
      case 4:  // what is missing
        for (Index layer = 0; layer < layers; ++layer)
          for (std::size_t i = 0; i < seqs_.size(); ++i)
            if (!seqs_[i].written[static_cast<std::size_t>(layer)]) write(layer, i, 0);
        return;
      case 5:
      case 6:
        return reset(seq, b % 4 == 0 ? seqs_[seq].size : b % (c % 300 + 1));
      case 7:
        return a % 4 == 0 ? clear() : reset(seq, 0);
      case 8:
      case 9:
        return pack();
      case 10:
        return unpack(b % 4 == 0);
      case 11: {
        cache_ = cache_.clone();
        return views_end();
      }
      case 12: {
        CrossCache<T> moved = std::move(cache_);
        expect(Outcome::invalid, "complete", [&] { (void)cache_.complete(); });
        cache_.clear();
        cache_ = std::move(moved);
        return;
      }
      default:
        return refused(b, c);
    }
  }

  void check() {
    Index tokens = 0;
    bool all_complete = true;
    for (Index layer = 0; layer < layers; ++layer) {
      const bool complete = is_complete(layer);
      all_complete = all_complete && complete;
      require_equal(cache_.complete(layer), complete, "complete(layer)");
      const auto& view = views_[static_cast<std::size_t>(layer)];
      if (!complete) {
        expect(Outcome::invalid, "a view of what is not written", [&] { (void)view.retained(0); });
        expect(Outcome::invalid, "a tile of it", [&] { (void)view.tile(0, 0, {0, 1}, nullptr); });
      }
      for (std::size_t i = 0; i < seqs_.size(); ++i) check_layer(view, layer, i, complete);
    }
    require_equal(cache_.complete(), all_complete, "complete()");
    for (std::size_t i = 0; i < seqs_.size(); ++i) {
      require_equal(cache_.size(static_cast<Index>(i)), seqs_[i].size, "size");
      tokens += seqs_[i].size;
    }
    require_equal(cache_.bytes(), tokens * token_bytes, "bytes");
    require_equal(cache_.allocated_bytes(), allocated(seqs_), "allocated_bytes");
    require_equal(cache_.padding_bytes(), allocated(seqs_) - tokens * token_bytes, "padding_bytes");
  }

  void finish() {
    clear();
    check();
    require_equal(cache_.allocated_bytes(), 0, "allocated_bytes after clear()");
  }

 private:
  static constexpr Index layers = 2;
  static constexpr detail::LayerShape shape{2, 3, 1};
  inline static const Index tile_bytes = test::block_bytes<T>(shape, layers, 64);
  inline static const Index token_bytes = test::token_bytes<T>(shape, layers);

  struct Sequence {
    Index size = 0;
    std::array<bool, layers> written = {};
    std::array<std::vector<int>, layers> tokens = {};
  };
  struct Saved {
    test::Packed packed;
    std::vector<Sequence> seqs;
  };

  static Index allocated(const std::vector<Sequence>& seqs) {
    Index tiles = 0;
    for (const Sequence& s : seqs) tiles += ceil_div(s.size, tile_keys);
    return tiles * tile_bytes;
  }
  bool within_limit(const std::vector<Sequence>& seqs) const {
    return limit_ == 0 || allocated(seqs) <= limit_;
  }
  bool is_complete(Index layer) const {
    return std::ranges::all_of(
        seqs_, [&](const Sequence& s) { return s.size == 0 || s.written[static_cast<std::size_t>(layer)]; });
  }

  void check_layer(const auto& view, Index layer, std::size_t i, bool complete) {
    const Sequence& s = seqs_[i];
    const auto l = static_cast<std::size_t>(layer);
    const Index seq = static_cast<Index>(i);
    const auto read = [&](Range r, auto k, auto v) { cache_.read(layer, seq, r, k, v); };
    if (complete) return test::require_layer<T>(view, seq, layer, shape, s.tokens[l], Range{0, s.size}, read);
    TokenRows<T> one(shape, 1), all(shape, s.size);
    if (!s.written[l])
      return expect(s.size == 0 ? Outcome::happens : Outcome::invalid, "read what is not written", [&] {
        read(Range{0, s.size}, all.keys(), all.values());
      });
    read(Range{0, s.size}, all.keys(), all.values());
    const TokenRows<T> expected(shape, layer, s.tokens[l]);
    require(all.k == expected.k && all.v == expected.v, "what is written of an incomplete layer");
    expect(Outcome::invalid, "read behind the end", [&] {
      read(Range{s.size, s.size + 1}, one.keys(), one.values());
    });
  }

  void take_views() {
    views_.clear();
    for (Index i = 0; i < layers; ++i) views_.push_back(cache_.layer(i));
  }
  /// Those of a cache that is gone say so.
  void views_end() {
    for (const auto& view : views_)
      expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    take_views();
  }

  std::vector<int> new_tokens(Index n) {
    std::vector<int> tokens;
    for (Index i = 0; i < n; ++i) tokens.push_back(next_++);
    return tokens;
  }
  void note(Index layer, std::size_t seq, std::vector<int> tokens) {
    seqs_[seq].written[static_cast<std::size_t>(layer)] = true;
    seqs_[seq].tokens[static_cast<std::size_t>(layer)] = std::move(tokens);
  }

  /// One sequence, of so many tokens too many.
  void write(Index layer, std::size_t seq, Index more) {
    const Index n = std::max<Index>(0, seqs_[seq].size + more);
    const auto tokens = new_tokens(n);
    const TokenRows<T> rows(shape, layer, tokens);
    const bool may = n == seqs_[seq].size && !seqs_[seq].written[static_cast<std::size_t>(layer)];
    expect(may ? Outcome::happens : Outcome::invalid, "write",
           [&] { cache_.write(layer, static_cast<Index>(seq), rows.keys(), rows.values()); });
    if (may) note(layer, seq, tokens);
  }

  /// All sequences, of so many tokens too many each.
  void write_layer(Index layer, bool padded, Index more) {
    bool may = more == 0;
    Index longest = 0, all = 0;
    std::vector<Index> offsets{0};
    std::vector<std::vector<int>> tokens;
    for (const Sequence& s : seqs_) {
      may = may && !s.written[static_cast<std::size_t>(layer)];
      tokens.push_back(new_tokens(s.size + more));
      longest = std::max(longest, s.size + more);
      offsets.push_back(all += s.size + more);
    }
    std::vector<int> rows;
    for (const auto& each : tokens) {
      rows.insert(rows.end(), each.begin(), each.end());
      if (padded) rows.resize(rows.size() + static_cast<std::size_t>(longest) - each.size(), -1);
    }
    const TokenRows<T> of_all(shape, layer, rows);
    const Index batch = std::ssize(seqs_), heads = shape.num_kv_heads;
    expect(may ? Outcome::happens : Outcome::invalid, "write a layer", [&] {
      if (padded)
        cache_.write(layer, TensorView<const T>(of_all.k.data(), batch, longest, heads, shape.head_dim),
                     TensorView<const T>(of_all.v.data(), batch, longest, heads, shape.value_dim));
      else
        cache_.write(layer, ragged(of_all.keys(), offsets), ragged(of_all.values(), offsets));
    });
    for (std::size_t seq = 0; may && seq < seqs_.size(); ++seq) note(layer, seq, tokens[seq]);
  }

  void reset(std::size_t seq, Index n) {
    std::vector<Sequence> after = seqs_;
    after[seq] = {n};
    const bool may = within_limit(after);
    expect(may ? Outcome::happens : Outcome::too_long, "reset",
           [&] { cache_.reset(static_cast<Index>(seq), n); });
    if (may) seqs_ = std::move(after);
  }
  void clear() {
    cache_.clear();
    for (Sequence& s : seqs_) s = {};
  }

  void pack() {
    bool may = true;
    for (Index layer = 0; layer < layers; ++layer) may = may && is_complete(layer);
    expect(may ? Outcome::happens : Outcome::invalid, "pack", [&] { saved_ = {test::pack(cache_), seqs_}; });
    if (!may) return;
    for (Sequence& s : saved_->seqs) s.written.fill(true);
  }
  void unpack(bool damaged) {
    if (!saved_) return;
    const Outcome outcome = !within_limit(saved_->seqs) ? Outcome::too_long
                            : damaged                   ? Outcome::broken
                                                        : Outcome::happens;
    expect(outcome, "unpack", [&] { test::unpack(cache_, saved_->packed, damaged); });
    if (outcome == Outcome::happens) seqs_ = saved_->seqs;
  }

  void refused(int b, int c) {
    const Index absent = c % 2 == 0 ? std::ssize(seqs_) + c : -1 - c;
    const TokenRows<T> none(shape, 0);
    expect(Outcome::absent, "size", [&] { (void)cache_.size(absent); });
    expect(Outcome::absent, "reset", [&] { cache_.reset(absent, 1); });
    expect(Outcome::absent, "write", [&] { cache_.write(0, absent, none.keys(), none.values()); });
    expect(Outcome::absent, "write", [&] { cache_.write(layers + b, 0, none.keys(), none.values()); });
    expect(Outcome::absent, "layer", [&] { (void)cache_.layer(-1 - b); });
    expect(Outcome::invalid, "reset", [&] { cache_.reset(0, -1 - b); });
    expect(Outcome::too_long, "reset", [&] { cache_.reset(0, max_position); });
  }

  Index limit_;
  std::vector<Sequence> seqs_;
  CrossCache<T> cache_;
  std::vector<typename CrossCache<T>::View> views_;
  std::optional<Saved> saved_;
  int next_ = 1;
};

TEST(CrossModel, FloatWithinAMemoryLimit) {
  test::expect_as_modelled([] { return CrossModel<float>({65, 0, 7}, 6); });
}
TEST(CrossModel, BrainFloat) {
  test::expect_as_modelled([] { return CrossModel<bfloat16>({3, 64}, 9); });
}
TEST(CrossModel, HalfOfOneSequence) {
  test::expect_as_modelled([] { return CrossModel<half>({130}, 0); });
}

}  // namespace
}  // namespace gqa
