// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "kv/operations.hpp"
#include "kv/sequence_contents.hpp"

namespace gqa::test {

/// A cache of one sequence whose layers keep every token or a window of them, beside what it should hold.
template <class Cache>
class SequenceModel : SequenceContents {
  using T = typename Cache::Scalar;
  static constexpr bool layered = requires(Cache & cache) { cache.checkpoint(); };

 public:
  static constexpr int num_kinds = 18;

  SequenceModel(Cache cache, SequenceSizes sizes)
      : SequenceContents(std::move(sizes)), cache_(std::move(cache)) {
    take_views();
  }

  void apply(const Operation& op) {
    const auto [kind, a, b, c] = op;
    switch (kind) {
      case 0:
      case 1:
      case 2:
        finish_pass();
        if (extend(c % std::min<Index>(sizes_.max_span + 1, 200))) write_all(spans_.back());
        return;
      case 3:
        extend(b % (sizes_.max_span + 3) % 200);
        return;
      case 4:
      case 5:
      case 6:
        return write_part(a, b, c);
      case 7:
        for (const Known& span : std::vector(spans_)) write_all(span);
        return;
      case 8:
        return truncate(now_.size - b % 20);
      case 9:
        return truncate(a < 32 ? b % (now_.size + 1) : now_.size - c % 200);
      case 10:
        return truncate(b % 2 == 0 ? now_.size + 1 + c : -1 - c);
      case 11:
        return checkpoint();
      case 12:
        if (b % 2 == 0) restore(a);
        return;
      case 13:
        return clone(b);
      case 14:
        if (a % 16 == 0) clear();
        return;
      case 15:
        return save_or_restore(a, b);
      case 16:
        return wrong_sizes(b, c);
      default:
        return move();
    }
  }

  void check() {
    require_equal(cache_.size(), now_.size, "size");
    Index bytes = 0, allocated = 0;
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i) {
      const Index layer = static_cast<Index>(i);
      const std::vector<int>& tokens = now_.written[i];
      const Ranges retained = retained_of(i, std::ssize(tokens));
      if (windowed(i)) require(finds_window(i, retained), "the next query finds its window");
      require_layer<T>(views_[i], 0, layer, shape(i), tokens, retained,
                       [&](Range r, auto k, auto v) { cache_.read(layer, r, k, v); });
      bytes += retained_of(i, now_.size).positions() * token_bytes<T>(shape(i), 1);
      allocated += block_bytes<T>(shape(i), 1, room_of(i));
    }
    require_equal(cache_.bytes(), bytes, "bytes");
    require_equal(cache_.allocated_bytes(), allocated, "allocated_bytes");
    require_equal(cache_.padding_bytes(), allocated - bytes, "padding_bytes");
    if constexpr (layered)
      require_equal(cache_.oldest_truncation(), oldest_truncation(), "oldest_truncation");
  }

  void finish() {
    clear();
    check();
    require_equal(cache_.allocated_bytes(), 0, "allocated_bytes after clear()");
  }

 private:
  struct Known {
    Span span;
    bool valid;
  };
  struct Saved {
    Packed packed;
    Contents contents;
  };

  /// What is allocated once there are this many tokens in all.
  Index bytes_with(Index tokens) const {
    SequenceContents after = *this;
    after.take_memory(tokens);
    Index bytes = 0;
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      bytes += block_bytes<T>(shape(i), 1, after.room_of(i));
    return bytes;
  }
  void forget_spans() {
    for (Known& each : spans_) each.valid = false;
  }
  void take_views() {
    views_.clear();
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      views_.push_back(cache_.layer(static_cast<Index>(i)));
  }
  /// Those of before say so.
  void views_end() {
    for (const auto& view : views_)
      expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    take_views();
  }
  /// Where layers keep every token, those from n on are no longer what checkpoints have.
  void change_from(Index n) {
    for (auto& each : checkpoints_) each.unchanged = std::min(each.unchanged, n);
  }

  bool extend(Index n) {
    Outcome outcome = Outcome::happens;
    const Index unwritten = now_.size - written_everywhere();
    if (n > sizes_.max_tokens - now_.size || (layered && n > sizes_.max_span - unwritten))
      outcome = Outcome::too_long;
    if (sizes_.memory_limit > 0 && outcome == Outcome::happens &&
        bytes_with(now_.size + n) > sizes_.memory_limit)
      outcome = Outcome::too_long;
    std::optional<Span> span;
    expect(outcome, "extend", [&] { span = cache_.extend(n); });
    expect(Outcome::invalid, "extend by less than nothing", [&] { cache_.extend(-1 - n); });
    if (!span) return false;
    require(span->positions == Range{now_.size, now_.size + n}, "the span's positions");
    now_.size += n;
    now_.largest = std::max(now_.largest, now_.size);
    take_memory(now_.size);
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      if (windowed(i))
        now_.first[i] = std::max(now_.first[i], ceil_div(now_.size, tile_keys) - ring_tiles(i));
    if (spans_.size() == 8) spans_.erase(spans_.begin());
    spans_.push_back({*span, true});
    return true;
  }

  /// Writes new numbers to a layer, or is refused.
  void write(std::size_t i, const Known& known, Range positions) {
    std::vector<int>& tokens = now_.written[i];
    bool kept = positions.empty();
    for (const Range r : retained_of(i, now_.size))
      kept = kept || (r.begin <= positions.begin && positions.end <= r.end);
    const bool there = known.valid && positions.begin >= 0 && positions.end <= now_.size &&
                       positions.begin <= std::ssize(tokens);
    std::vector<int> numbers;
    for (Index p = positions.begin; p < positions.end; ++p) numbers.push_back(next_++);
    const Index layer = static_cast<Index>(i);
    const TokenRows<T> rows(shape(i), layer, numbers);
    const Outcome outcome = there && kept ? Outcome::happens : Outcome::invalid;
    expect(outcome, "write", [&] {
      cache_.write(layer, Span{positions, known.span.epoch}, rows.keys(), rows.values());
    });
    if (outcome != Outcome::happens || positions.empty()) return;
    if (!windowed(i)) change_from(positions.begin);
    tokens.resize(static_cast<std::size_t>(std::max(positions.end, std::ssize(tokens))));
    std::copy(numbers.begin(), numbers.end(), tokens.begin() + positions.begin);
  }
  void write_all(const Known& known) {
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i) write(i, known, known.span.positions);
  }
  /// Writes in each layer what it lacks.
  void finish_pass() {
    extend(0);
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      write(i, spans_.back(), {std::ssize(now_.written[i]), now_.size});
  }
  /// Some tokens of a span there was, or a few beside it.
  void write_part(int a, int b, int c) {
    if (spans_.empty()) return;
    const Known known = spans_[static_cast<std::size_t>(a) % spans_.size()];
    const Range all = known.span.positions;
    Range part = {all.begin + b % (all.size() + 1), all.end};
    part.end = part.begin + c % (part.size() + 1);
    if (c % 16 == 0) part.end += c / 100;
    if (c % 16 == 1) part.begin -= std::min<Index>(part.begin, b / 10);
    if (c % 4 == 2) part = all;
    write(static_cast<std::size_t>(b) % sizes_.layers.size(), known, part);
  }

  void truncate(Index n) {
    const bool may = n >= 0 && n <= now_.size && (n == now_.size || can_truncate(n));
    expect(may ? Outcome::happens : Outcome::invalid, "truncate", [&] { cache_.truncate(n); });
    if (!may || n == now_.size) return;
    forget_tokens(n);
    for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
      if (n <= sizes_.layers[i].sinks) now_.first[i] = sink_tiles(i);
    change_from(n);
  }
  void forget_tokens(Index n) {
    now_.size = n;
    for (auto& tokens : now_.written) tokens.resize(std::min(tokens.size(), static_cast<std::size_t>(n)));
    forget_spans();
  }

  void clear() {
    cache_.clear();
    forget_tokens(0);
    now_.largest = slabs_ = 0;
    has_ring_ = false;
    restart_windows();
    change_from(0);
    views_end();
  }

  void clone(int b) {
    Cache copy = cache_.clone();
    const Known last = spans_.empty() ? Known{{{0, 0}, 1}, false} : spans_.back();
    expect(Outcome::invalid, "write of a span of another cache", [&] {
      const TokenRows<T> rows(shape(0), last.span.size());
      copy.write(0, last.span, rows.keys(), rows.values());
    });
    if (b % 2 == 0) {  // the other one does not see what happens to it
      copy.truncate(0);
      return copy.clear();
    }
    cache_ = std::move(copy);
    forget_spans();
    slabs_ = ceil_div(now_.size, 512);
    has_ring_ = now_.size > 0;
    if (any_unwindowed())
      for (auto& each : checkpoints_) each.ours = false;
    views_end();
  }

  void move() {
    Cache moved = std::move(cache_);
    expect(Outcome::invalid, "extend after a move", [&] { cache_.extend(1); });
    require_equal(cache_.size() + cache_.bytes() + cache_.allocated_bytes(), 0, "what was moved from");
    cache_ = std::move(moved);
  }

  void wrong_sizes(int b, int c) {
    const Index layers = std::ssize(sizes_.layers), absent = b % 2 == 0 ? layers + c : -1 - c;
    const std::size_t i = static_cast<std::size_t>(c) % sizes_.layers.size();
    const Index layer = static_cast<Index>(i), written = std::ssize(now_.written[i]);
    const Known known = spans_.empty() ? Known{{{0, 0}, 1}, false} : spans_.back();
    TokenRows<T> fit(shape(i), known.span.size()), more(shape(i), known.span.size() + 1);
    TokenRows<T> one(shape(i), 1), none(shape(i), 0);
    expect(Outcome::absent, "layer", [&] { (void)cache_.layer(absent); });
    expect(Outcome::absent, "write", [&] { cache_.write(absent, known.span, fit.keys(), fit.values()); });
    expect(Outcome::absent, "read", [&] { cache_.read(absent, {0, 0}, none.keys(), none.values()); });
    expect(Outcome::invalid, "write", [&] { cache_.write(layer, known.span, fit.keys(), more.values()); });
    expect(Outcome::invalid, "write", [&] { cache_.write(layer, known.span, more.keys(), fit.values()); });
    expect(Outcome::invalid, "write",
           [&] { cache_.write(layer, known.span, with_a_head_more(fit), fit.values()); });
    for (const Range r : {Range{written, written + 1}, Range{-1, 0}})
      expect(Outcome::invalid, "read", [&] { cache_.read(layer, r, one.keys(), one.values()); });
    if (dropped(i)) {
      const Index first = now_.first[i] * tile_keys;
      expect(Outcome::invalid, "read of what was dropped", [&] {
        cache_.read(layer, {first - 1, first}, one.keys(), one.values());
      });
    }
  }
  static auto with_a_head_more(const TokenRows<T>& rows) {
    return TensorView<const T>(rows.k.data(), rows.size, rows.shape.num_kv_heads + 1, rows.shape.head_dim);
  }

  void checkpoint() {
    if constexpr (layered) {
      const bool may = !any_unwindowed() || written_everywhere() == now_.size;
      expect(may ? Outcome::happens : Outcome::invalid, "checkpoint", [&] {
        if (checkpoints_.size() == 4) checkpoints_.erase(checkpoints_.begin());
        checkpoints_.push_back({cache_.checkpoint(), now_, now_.size, true});
      });
    }
  }
  void restore(int a) {
    if constexpr (layered) {
      if (checkpoints_.empty()) return;
      const Point& point = checkpoints_[static_cast<std::size_t>(a) % checkpoints_.size()];
      require_equal(point.checkpoint.size(), point.contents.size, "size of a checkpoint");
      const bool may = point.ours && (!any_unwindowed() || point.unchanged == point.contents.size);
      expect(may ? Outcome::happens : Outcome::invalid, "restore", [&] { cache_.restore(point.checkpoint); });
      if (!may) return;
      const auto before = std::move(now_.written);
      now_ = point.contents;
      for (std::size_t i = 0; i < sizes_.layers.size(); ++i)
        if (!windowed(i))
          require(std::equal(now_.written[i].begin(), now_.written[i].end(), before[i].begin()),
                  "the tokens of a checkpoint are there still");
      take_memory(now_.size);
      forget_spans();
      change_from(now_.size);
    }
  }

  void save_or_restore(int a, int b) {
    if (a % 4 > 0 || saved_.empty()) {
      if (b % 3 == 0 && extend(b % 20)) write(0, spans_.back(), spans_.back().span.positions);  // in a pass
      if (saved_.size() == 3) saved_.erase(saved_.begin());
      saved_.push_back({pack(cache_), now_});
      return;
    }
    const Saved& saved = saved_[static_cast<std::size_t>(a / 4) % saved_.size()];
    Packed broken = saved.packed;
    ++broken.layers.back().shape.value_dim;
    expect(Outcome::broken, "restore of other sizes", [&] { unpack(cache_, broken); });
    broken = saved.packed;
    broken.layers.front().retained = Range{0, sizes_.max_tokens + 1};
    expect(Outcome::too_long, "restore of too many tokens", [&] { unpack(cache_, broken); });
    expect(Outcome::broken, "restore of what is damaged", [&] { unpack(cache_, saved.packed, true); });
    unpack(cache_, saved.packed);
    now_ = saved.contents;
    now_.size = 0;
    for (const auto& tokens : now_.written) now_.size = std::max<Index>(now_.size, std::ssize(tokens));
    slabs_ = ceil_div(now_.size, 512);
    has_ring_ = now_.size > 0;
    forget_spans();
    change_from(0);
    views_end();
  }

  struct NoCheckpoint {};
  template <class C>
  struct CheckpointOf {
    using type = NoCheckpoint;
  };
  template <class C>
  requires requires { typename C::Checkpoint; }
  struct CheckpointOf<C> {
    using type = typename C::Checkpoint;
  };
  struct Point {
    typename CheckpointOf<Cache>::type checkpoint;
    Contents contents;
    Index unchanged;
    bool ours;
  };

  Cache cache_;
  int next_ = 1;
  std::vector<Known> spans_;
  std::vector<typename Cache::View> views_;
  std::vector<Point> checkpoints_;
  std::vector<Saved> saved_;
};

}  // namespace gqa::test
