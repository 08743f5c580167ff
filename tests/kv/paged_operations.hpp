// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <numeric>

#include "gqa/kv/paged.hpp"
#include "kv/paged_contents.hpp"

namespace gqa::test {

/// A paged cache beside what it should hold.
template <class T>
class PagedModel : PagedContents {
 public:
  static constexpr int num_kinds = 19;

  explicit PagedModel(Index page_tokens)
      : PagedContents(page_tokens),
        cache_({.num_pages = pool_.free,
                .page_tokens = page_tokens,
                .max_tokens = max_tokens,
                .num_layers = layers,
                .num_kv_heads = shape.num_kv_heads,
                .head_dim = shape.head_dim,
                .value_dim = shape.value_dim}) {}

  void apply(const Operation& op) {
    const auto [kind, a, b, c] = op;
    if (sequences_.empty() || kind == 0) return create();
    Sequence& s = sequences_[static_cast<std::size_t>(a) % sequences_.size()];
    switch (kind) {
      case 1:
      case 2:
      case 3:
        write_rest(s);
        if (extend(s, b % 150, c)) write_rest(s);
        return;
      case 4:
        extend(s, b % 70, c);
        return;
      case 5:
        return write_part(s, b, c);
      case 6:
        return truncate(s, b % 3 == 0 ? c % (size(s) + 2) : size(s) - b % 70);
      case 7:
        return fork(s);
      case 8:
        if (b % 2 == 0) free(s);
        return;
      case 9:
      case 10:
        return publish(s, b);
      case 11:
        return create_like(s, b, c);
      case 12:
        return reorder(b, c);
      case 13:
        return swap(s, b);
      case 14:
        return save_or_restore(s, b);
      case 15:
        if (b % 10 == 0) clear();
        return;
      case 16:
        if (b % 8 == 0) clear_one(s);
        return;
      case 17:
        return evict(s, b % 4 == 0 ? size(s) : b % (size(s) + 1));
      default:
        return refused(s, b);
    }
  }

  /// Everything is as the model says.
  void check() {
    Index tokens = 0, shared = 0;
    std::map<const PoolModel::Page*, std::pair<Index, int>> held;  // tokens and sequences
    for (const Sequence& s : sequences_) {
      require_equal(cache_.size(s.id), size(s), "size");
      require(cache_.swapped_out(s.id) == s.swapped.has_value(), "swapped_out");
      for (std::size_t i = 0; i < s.pages.size(); ++i) {
        auto& [most, holders] = held[s.pages[i].get()];
        most = std::max(most, std::min(size(s) - static_cast<Index>(i) * page_tokens_, page_tokens_));
        ++holders;
      }
      if (s.swapped) continue;
      const std::vector<int> numbers = numbers_of(s.ids);
      for (Index i = 0; i < layers; ++i)
        require_layer<T>(
            cache_.layer(i, s.id), 0, i, shape, numbers, Range{0, written(s, i)},
            [&](Range r, auto k, auto v) { cache_.read(i, s.id, r, k, v); }, written(s, i) != s.not_cleared);
    }
    for (const auto& [page, each] : held) {
      tokens += each.first;
      shared += each.second > 1;
    }
    const PageStatistics p = cache_.statistics();
    require_equal(p.used, std::ssize(held), "used");
    require_equal(p.used, pool_.used, "used");
    require_equal(p.shared, shared, "shared");
    require_equal(p.kept, std::ssize(pool_.kept), "kept");
    require_equal(p.free, pool_.free, "free");
    require_equal(p.copied, pool_.copied, "copied");
    require_equal(p.evicted, pool_.evicted, "evicted");
    require_equal(p.reused_tokens, pool_.reused_tokens, "reused_tokens");
    require_equal(cache_.num_sequences(), std::ssize(sequences_), "num_sequences");
    const Index bytes = tokens * token_bytes<T>(shape, layers);
    require_equal(cache_.bytes(), bytes, "bytes");
    require_equal(cache_.allocated_bytes(), p.pages * block_bytes<T>(shape, layers, page_tokens_),
                  "allocated_bytes");
    require_equal(cache_.padding_bytes(), p.used * block_bytes<T>(shape, layers, page_tokens_) - bytes,
                  "padding_bytes");
  }

  /// Nothing is left behind.
  void finish() {
    while (!sequences_.empty()) free(sequences_.back());
    check();
    clear();
    check();
    require_equal(cache_.statistics().free, cache_.statistics().pages, "free pages in the end");
  }

 private:
  struct Saved {
    Packed packed;
    std::vector<TokenId> ids;
    std::array<Index, layers> written;
  };

  void create() {
    if (sequences_.size() < most_sequences) sequences_.push_back({.id = cache_.create()});
  }

  bool extend(Sequence& s, Index n, int seed) {
    const Index before = size(s), in_last = before % page_tokens_;
    const bool copies = n > 0 && in_last != 0 && !s.pages.empty() && is_shared(s.pages.back());
    const Index needed = pages_of(before + n) - pages_of(before) + copies;
    Outcome outcome = Outcome::happens;
    if (s.swapped)
      outcome = Outcome::invalid;
    else if (n > max_tokens - before || needed > pool_.available())
      outcome = Outcome::too_long;
    std::optional<Span> span;
    expect(outcome, "extend", [&] { span = cache_.extend(s.id, n); });
    if (!span) return false;
    require(span->positions == Range{before, before + n}, "the span's positions");
    if (copies) {
      const auto shared = s.pages.back();
      s.pages.back() = pool_.take();
      while (std::ssize(s.pages) < pages_of(before + n)) s.pages.push_back(pool_.take());
      pool_.release(shared);
      ++pool_.copied;
      s.not_cleared = -1;
    }
    while (std::ssize(s.pages) < pages_of(before + n)) s.pages.push_back(pool_.take());
    for (Index i = 0; i < n; ++i) s.ids.push_back((seed >> (i % 8)) & 1);
    if (s.spans.size() == 4) s.spans.erase(s.spans.begin());
    s.spans.push_back({*span, true});
    return true;
  }

  void write(Sequence& s, const Known& known, Index layer, Range positions) {
    const bool may =
        !s.swapped && known.valid && positions.end <= size(s) && positions.begin <= written(s, layer);
    std::vector<int> numbers = numbers_of(s.ids);
    numbers.resize(static_cast<std::size_t>(std::max(positions.end, size(s))));
    const TokenRows<T> rows(shape, layer, part_of(numbers, positions));
    expect(may ? Outcome::happens : Outcome::invalid, "write", [&] {
      cache_.write(layer, s.id, Span{positions, known.span.epoch}, rows.keys(), rows.values());
    });
    if (!may) return;
    Index& end = s.written[static_cast<std::size_t>(layer)];
    end = std::max(end, positions.end);
  }
  void write_rest(Sequence& s) {
    if (!extend(s, 0, 0)) return;
    for (Index i = 0; i < layers; ++i) write(s, s.spans.back(), i, {written(s, i), size(s)});
  }
  /// Some tokens of a span there was.
  void write_part(Sequence& s, int b, int c) {
    if (s.spans.empty()) return;
    const Known known = s.spans[static_cast<std::size_t>(b) % s.spans.size()];
    Range part = known.span.positions;
    part.begin += c % 3 == 0 ? c % (part.size() + 1) : 0;
    part.end = part.begin + (c % 5 == 0 ? b % (part.size() + 1) : part.size());
    write(s, known, b / 4 % layers, part);
  }

  void truncate(Sequence& s, Index n) {
    const bool may = !s.swapped && n >= 0 && n <= size(s);
    expect(may ? Outcome::happens : Outcome::invalid, "truncate", [&] { cache_.truncate(s.id, n); });
    if (!may || n == size(s)) return;
    s.ids.resize(static_cast<std::size_t>(n));
    for (Index& end : s.written) end = std::min(end, n);
    release_pages(s, pages_of(n));
    s.not_cleared = !s.pages.empty() && is_shared(s.pages.back()) ? n : -1;
    forget_spans(s);
  }

  void fork(Sequence& s) {
    if (sequences_.size() >= most_sequences) return;
    const bool may = between_passes(s);
    std::optional<SequenceId> id;
    expect(may ? Outcome::happens : Outcome::invalid, "fork", [&] { id = cache_.fork(s.id); });
    if (!may) return;
    for (const auto& page : s.pages) pool_.hold(page);
    forget_spans(s);
    sequences_.push_back({.id = *id,
                          .ids = s.ids,
                          .written = s.written,
                          .pages = s.pages,
                          .evicted = s.evicted,
                          .not_cleared = s.not_cleared});
  }

  void free(Sequence& s) {
    const auto view = cache_.layer(0, s.id);
    auto sequence = cache_.sequence(s.id);
    cache_.free(s.id);
    require(!cache_.contains(s.id), "a sequence that was freed is gone");
    expect(Outcome::invalid, "a view of a sequence that was freed", [&] { (void)view.retained(0); });
    expect(Outcome::absent, "a sequence that was freed", [&] { sequence.extend(0); });
    expect(Outcome::absent, "a sequence that was freed", [&] { cache_.free(s.id); });
    release_pages(s, 0);
    std::swap(s, sequences_.back());
    sequences_.pop_back();
  }

  void clear() {
    cache_.clear();
    for (Sequence& s : sequences_) release_pages(s, 0);
    sequences_.clear();
    pool_.drop_kept();
  }
  void clear_one(Sequence& s) {
    const auto view = cache_.layer(1, s.id);
    cache_.sequence(s.id).clear();
    expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    release_pages(s, 0);
    set_ids(s, {});
    s.swapped.reset();
  }

  void publish(Sequence& s, int n) {
    auto ids = std::span<const TokenId>(s.ids);
    if (n % 2 == 0) ids = ids.first(static_cast<std::size_t>(n) % (ids.size() + 1));
    std::vector<TokenId> others(ids.begin(), ids.end());
    for (TokenId& id : others) ++id;
    const bool may = between_passes(s) && !s.evicted;
    if (may && std::ssize(ids) >= page_tokens_ && s.pages.front()->published)
      expect(Outcome::invalid, "publish of other ids", [&] { cache_.publish(s.id, others); });
    others.resize(s.ids.size() + 1);
    expect(Outcome::invalid, "publish of more ids than tokens", [&] { cache_.publish(s.id, others); });
    expect(may ? Outcome::happens : Outcome::invalid, "publish", [&] { cache_.publish(s.id, ids); });
    if (may) note_published(s, ids);
  }

  /// A sequence for ids that begin as those of another.
  void create_like(const Sequence& s, int n, int seed) {
    if (sequences_.size() >= most_sequences) return;
    std::vector<TokenId> ids(s.ids.begin(), s.ids.begin() + n % (size(s) + 1));
    for (int i = 0; i < seed % 70; ++i) ids.push_back((seed >> (i % 8)) & 1);
    const auto match = cache_.create(ids);
    sequences_.push_back(found(match.id, ids));
    require_equal(match.tokens, size(sequences_.back()), "tokens found");
  }

  void reorder(int first, int second) {
    std::vector<SequenceId> ids;
    std::vector<Index> parents;
    bool may = true;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      const Sequence& s = sequences_[i];
      if (first % 8 > 0 && !between_passes(s)) continue;
      may = may && between_passes(s);
      ids.push_back(s.id);
      parents.push_back(ids.size() % 2 == 0 ? first : second);
    }
    for (Index& parent : parents) parent %= std::ssize(ids);
    if (!ids.empty()) {
      std::vector<Index> wrong = parents;
      wrong.back() = std::ssize(ids);
      expect(Outcome::invalid, "reorder", [&] { cache_.reorder(ids, wrong); });
      wrong.pop_back();
      expect(Outcome::invalid, "reorder", [&] { cache_.reorder(ids, wrong); });
    }
    expect(may ? Outcome::happens : Outcome::invalid, "reorder", [&] { cache_.reorder(ids, parents); });
    if (!may) return;
    note_reordered(ids, parents);
  }

  void swap(Sequence& s, int b) {
    if (!s.swapped) {
      std::vector<std::byte> memory(static_cast<std::size_t>(cache_.swap_bytes(s.id)));
      const bool may = between_passes(s);
      expect(may ? Outcome::too_long : Outcome::invalid, "swap_out to less memory",
             [&] { cache_.swap_out(s.id, std::span(memory).first(memory.size() - 1)); });
      expect(Outcome::invalid, "swap_in", [&] { cache_.swap_in(s.id, memory); });
      expect(may ? Outcome::happens : Outcome::invalid, "swap_out", [&] { cache_.swap_out(s.id, memory); });
      if (!may) return;
      release_pages(s, 0);
      forget_spans(s);
      s.swapped = memory;
      if (b % 2 == 0) old_swaps_.push_back(memory);
      if (old_swaps_.size() > 3) old_swaps_.erase(old_swaps_.begin());
      return;
    }
    for (const auto& old : old_swaps_)
      if (old != *s.swapped)
        expect(Outcome::broken, "swap_in of other memory", [&] { cache_.swap_in(s.id, old); });
    const bool may = pages_of(size(s)) <= pool_.available();
    expect(may ? Outcome::happens : Outcome::too_long, "swap_in", [&] { cache_.swap_in(s.id, *s.swapped); });
    if (!may) return;
    while (std::ssize(s.pages) < pages_of(size(s))) s.pages.push_back(pool_.take());
    s.swapped.reset();
  }

  void save_or_restore(Sequence& s, int b) {
    auto sequence = cache_.sequence(s.id);
    if (b % 3 > 0 || saved_.empty()) {
      if (saved_.size() == 3) saved_.erase(saved_.begin());
      expect(s.swapped ? Outcome::invalid : Outcome::happens, "save", [&] {
        saved_.push_back({pack(sequence), s.ids, s.written});
      });
      return;
    }
    const Saved& saved = saved_[static_cast<std::size_t>(b / 3) % saved_.size()];
    const Index tokens = *std::ranges::max_element(saved.written);
    Outcome outcome = Outcome::happens;
    if (std::ranges::count(saved.written, tokens) != layers)
      outcome = Outcome::broken;
    else if (pages_of(tokens) > pool_.available())
      outcome = Outcome::too_long;
    const auto view = cache_.layer(1, s.id);
    if (outcome == Outcome::happens) {
      // What it takes for a moment may be that of kept pages, which are gone then.
      expect(Outcome::broken, "restore of what is damaged", [&] { unpack(sequence, saved.packed, true); });
      Sequence gone{.id = s.id};
      while (std::ssize(gone.pages) < pages_of(tokens)) gone.pages.push_back(pool_.take());
      release_pages(gone, 0);
    }
    expect(outcome, "restore", [&] { unpack(sequence, saved.packed); });
    if (outcome != Outcome::happens) return;
    expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    std::vector<PoolModel::PagePtr> pages;
    while (std::ssize(pages) < pages_of(tokens)) pages.push_back(pool_.take());
    release_pages(s, 0);
    s.pages = pages;
    s.swapped.reset();
    set_ids(s, {saved.ids.begin(), saved.ids.begin() + tokens});
  }

  /// Keeps the first tokens, as which numbers tell: in pages of its own.
  void evict(Sequence& s, Index count) {
    std::vector<Index> slots(static_cast<std::size_t>(count));
    std::iota(slots.begin(), slots.end(), Index{0});
    const std::vector<std::vector<std::vector<Index>>> kept(
        layers, std::vector<std::vector<Index>>(static_cast<std::size_t>(shape.num_kv_heads), slots));
    std::vector<PoolModel::PagePtr> own, others;
    for (const auto& page : s.pages) (is_shared(page) ? others : own).push_back(page);
    const auto alone = std::ranges::count_if(others, [](const auto& page) { return page->holders == 1; });
    Outcome outcome = Outcome::happens;
    if (!between_passes(s) || count == 0)
      outcome = Outcome::invalid;
    else if (pages_of(count) - std::ssize(own) > pool_.available() + alone)
      outcome = Outcome::too_long;
    const auto view = cache_.layer(0, s.id);
    expect(outcome, "evict", [&] { cache_.sequence(s.id).evict(kept); });
    if (outcome != Outcome::happens) return;
    expect(Outcome::invalid, "a view of before", [&] { (void)view.retained(0); });
    for (const auto& page : others) pool_.release(page);
    while (std::ssize(own) < pages_of(count)) own.push_back(pool_.take());
    s.pages = std::move(own);
    release_pages(s, pages_of(count));
    s.ids.resize(slots.size());
    set_ids(s, s.ids);
    s.evicted = true;
  }

  /// What nothing could make happen.
  void refused(Sequence& s, int b) {
    const SequenceId unknown{s.id.value + (std::uint64_t{1} << 40)};
    const Index absent = b % 2 == 0 ? layers + b : -1 - b;
    const Known known = s.spans.empty() ? Known{{{0, 0}, 1}, false} : s.spans.back();
    TokenRows<T> rows(shape, known.span.size()), one(shape, 1);
    expect(Outcome::absent, "extend", [&] { cache_.extend(unknown, 1); });
    expect(Outcome::absent, "layer", [&] { (void)cache_.layer(absent, s.id); });
    expect(Outcome::invalid, "extend", [&] { cache_.extend(s.id, -1 - b); });
    for (const Index at : {size(s), Index{-1}})
      expect(Outcome::invalid, "read", [&] { cache_.read(0, s.id, {at, at + 1}, one.keys(), one.values()); });
    expect(s.swapped ? Outcome::invalid : Outcome::absent, "write",
           [&] { cache_.write(absent, s.id, known.span, rows.keys(), rows.values()); });
    if (known.span.size() != 1)
      expect(Outcome::invalid, "write", [&] { cache_.write(0, s.id, known.span, one.keys(), one.values()); });
    expect(s.swapped ? Outcome::invalid : Outcome::too_long, "extend",
           [&] { cache_.extend(s.id, max_tokens - size(s) + 1 + b); });
  }

  PagedCache<T> cache_;
  std::vector<Saved> saved_;
  std::vector<std::vector<std::byte>> old_swaps_;
};

}  // namespace gqa::test
