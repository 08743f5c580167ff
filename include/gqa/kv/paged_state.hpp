// SPDX-License-Identifier: Apache-2.0
// What a paged cache, its sequences and their views share.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "gqa/kv/page_pool.hpp"
#include "gqa/kv/read_tokens.hpp"
#include "gqa/kv/sequence.hpp"

namespace gqa {

/// A sequence of a paged cache: a number that none other of the program has or will have.
struct SequenceId {
  std::uint64_t value = 0;
  friend bool operator==(const SequenceId&, const SequenceId&) = default;
};

namespace detail {

/// A sequence's tokens and the pages they are in, for all layers.
template <Scalar T>
struct PagedSequenceState {
  PagedSequenceState(SequenceId number, Index max_tokens, Index num_layers)
      : id(number), sequence(max_tokens, num_layers) {}

  SequenceId id;
  Sequence sequence;
  std::vector<Index> pages;     // changed under the lock only
  Index tokens_for_others = 0;  // its size, under the lock
  bool swapped_out = false;
  bool evicted = false;  // its tokens are no longer those of its first positions

  void check_resident(const char* wanted_by) const {
    GQA_CHECK(!swapped_out, std::invalid_argument,
              wanted_by << ": sequence " << id.value << " is swapped out");
  }
  /// Pages change hands between passes of a model, when all that there is room for is written.
  void check_between_passes(const char* wanted_by) const {
    check_resident(wanted_by);
    const Index layer = sequence.unwritten_layer();
    GQA_CHECK(layer < 0, std::invalid_argument,
              wanted_by << ": layer " << layer << " of sequence " << id.value << " is written up to token "
                        << sequence.written(layer) << ", expected all " << sequence.size());
  }
};

/// The pool and the sequences. What concerns more than one sequence happens under the lock.
template <Scalar T>
struct PagedState {
  using SequenceState = PagedSequenceState<T>;

  PagedState(const CacheShape& shape, Index num_pages, Index page_tiles, Index most_tokens)
      : pool(shape, num_pages, page_tiles), max_tokens(most_tokens) {}

  PagePool<T> pool;
  Index max_tokens;
  mutable std::mutex mutex;
  std::unordered_map<std::uint64_t, std::shared_ptr<SequenceState>> sequences;

  Index page_tokens() const { return pool.page_tokens(); }

  /// A sequence of no tokens that nobody knows yet.
  std::shared_ptr<SequenceState> make_sequence() const {
    return std::make_shared<SequenceState>(SequenceId{next_epoch()}, max_tokens, pool.shape().num_layers);
  }
  /// Under the lock.
  void add(std::shared_ptr<SequenceState> s) {
    const std::uint64_t id = s->id.value;
    sequences.emplace(id, std::move(s));
  }

  /// Under the lock. Throws std::out_of_range.
  const std::shared_ptr<SequenceState>& at_locked(SequenceId id) const {
    const auto found = sequences.find(id.value);
    GQA_CHECK(found != sequences.end(), std::out_of_range,
              "sequence " << id.value << " is not, or no longer, in the cache");
    return found->second;
  }
  std::shared_ptr<SequenceState> at(SequenceId id) const {
    const std::lock_guard lock(mutex);
    return at_locked(id);
  }

  /// Under the lock.
  void release_pages(SequenceState& s, std::size_t from) noexcept {
    while (s.pages.size() > from) {
      pool.release(s.pages.back());
      s.pages.pop_back();
    }
  }

  /// Under the lock: throws std::length_error where the pool does not have so many pages.
  void check_pages(const char* wanted_by, Index needed) const {
    GQA_CHECK(needed <= pool.available(), std::length_error,
              wanted_by << ": " << needed << " pages needed, " << pool.available() << " of "
                        << pool.num_pages() << " are free");
  }
  /// Under the lock: pages for an empty table. Throws std::length_error, std::bad_alloc; nothing has changed.
  void take_pages(const char* wanted_by, SequenceState& s, Index needed) {
    check_pages(wanted_by, needed);
    s.pages.reserve(static_cast<std::size_t>(needed));
    for (Index i = 0; i < needed; ++i) s.pages.push_back(pool.take());
  }

  /// Under the lock: the sequence is gone, and its views say so.
  void close(SequenceState& s) noexcept {
    release_pages(s, 0);
    s.sequence.clear();
    s.sequence.close();
  }

  /// All sequences are, and nothing is kept.
  void close() noexcept {
    const std::lock_guard lock(mutex);
    for (auto& [id, sequence] : sequences) close(*sequence);
    sequences.clear();
    pool.drop_kept();
  }

  PackedBlock<T> block_at(const SequenceState& s, Index layer, Index head, Index tile) const {
    const Index page = tile / pool.page_tiles();
    return pool.block_at(s.pages[static_cast<std::size_t>(page)], layer, head,
                         tile - page * pool.page_tiles());
  }
  KVTile tile(const SequenceState& s, Index layer, Index head, Range want) const {
    return pool.blocks().tile(block_at(s, layer, head, want.begin / tile_keys), tokens_of_block(want));
  }

  template <class TK, class TV>
  void write(SequenceState& s, Index layer, const Span& span, const TensorView<TK>& k,
             const TensorView<TV>& v) {
    s.check_resident("write");
    s.sequence.check_write(layer, span);
    check_tokens(pool.shape(), k, v, span.size());
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    store_tokens(
        pool.blocks(), [&](Index head, Index tile) { return block_at(s, layer, head, tile); }, span.positions,
        k, v, s.sequence.written(layer), kernels);
    s.sequence.note_written(layer, span.positions);
  }

  template <class TK, class TV>
  void read(const SequenceState& s, Index layer, Range positions, const TensorView<TK>& k,
            const TensorView<TV>& v) const {
    s.check_resident("read");
    s.sequence.check_read(layer, positions);
    check_tokens(pool.shape(), k, v, positions.size());
    const auto tile_at = [&](Index head, Range want) { return tile(s, layer, head, want); };
    read_tokens<T>(positions, tile_at, k, v);
  }

  /// Room for n more tokens of a sequence. A last page that others see is copied first, for all layers.
  Span extend(SequenceState& s, Index n) {
    s.check_resident("extend");
    s.sequence.check_room(n);
    const Index size = s.sequence.size(), in_last = size % page_tokens();
    const auto wanted = static_cast<std::size_t>(ceil_div(size + n, page_tokens()));
    if (n == 0) return s.sequence.extend(0);
    Index shared = PagePool<T>::none;
    {
      const std::lock_guard lock(mutex);
      s.pages.reserve(wanted);
      if (in_last != 0 && pool.is_shared(s.pages.back())) shared = s.pages.back();
      const Index copies = shared == PagePool<T>::none ? 0 : 1;
      check_pages("extend", static_cast<Index>(wanted - s.pages.size()) + copies);
      if (copies > 0) s.pages.back() = pool.take();
      while (s.pages.size() < wanted) s.pages.push_back(pool.take());
      s.tokens_for_others = size + n;
    }
    if (shared != PagePool<T>::none) {
      const Index own = s.pages[static_cast<std::size_t>(size / page_tokens())];
      pool.copy(shared, own, in_last);
      pool.forget_from(own, in_last);
      const std::lock_guard lock(mutex);
      pool.release(shared);
      pool.note_copy();
    }
    return s.sequence.extend(n);
  }

  void truncate(SequenceState& s, Index n) {
    s.check_resident("truncate");
    GQA_CHECK(n >= 0 && n <= s.sequence.size(), std::invalid_argument,
              "truncate: n is " << n << ", expected 0 to the " << s.sequence.size() << " tokens there are");
    if (n == s.sequence.size()) return;
    s.sequence.truncate(n);
    bool own = false;
    {
      const std::lock_guard lock(mutex);
      release_pages(s, static_cast<std::size_t>(ceil_div(n, page_tokens())));
      s.tokens_for_others = n;
      own = n > 0 && !pool.is_shared(s.pages.back());
    }
    if (own) pool.forget_from(s.pages.back(), n % page_tokens());
  }
};

}  // namespace detail

}  // namespace gqa
