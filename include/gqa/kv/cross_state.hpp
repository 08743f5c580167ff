// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "gqa/core/memory.hpp"
#include "gqa/kv/cache_state.hpp"
#include "gqa/kv/page_layout.hpp"

namespace gqa::detail {

/// A sequence of a length that is known from the beginning, in all layers, in one page of as many tiles.
template <Scalar T>
struct CrossSequence {
  /// Throws std::invalid_argument for negative tokens, std::length_error where the sizes overflow. Takes no
  /// memory yet.
  CrossSequence(const CacheShape& shape, Index n)
      : tokens(n), layout(shape, ceil_div(checked(n), tile_keys)) {
    checked_mul(layout.bytes_per_token(), n, "tokens");
  }

  Index tokens;
  PageLayout<T> layout;
  AlignedArray<T> page = {};

  void allocate() {
    if (tokens > 0) page = allocate_aligned<T>(static_cast<std::size_t>(layout.bytes()));
  }

  PackedBlock<T> block_at(Index layer, Index head, Index tile) const {
    return layout.block_at(page.get(), layer, head, tile);
  }
  KVTile tile(Index layer, Index head, Range want) const {
    return layout.blocks().tile(block_at(layer, head, want.begin / tile_keys), tokens_of_block(want));
  }

 private:
  static Index checked(Index n) {
    GQA_CHECK(n >= 0 && n <= max_position, std::invalid_argument,
              "tokens is " << n << ", expected 0 to " << max_position);
    return n;
  }
};

/// What a cross cache and its views share: one sequence at least, and which layers of which are missing.
template <Scalar T>
struct CrossState {
  CacheShape shape;
  std::vector<CrossSequence<T>> seqs;
  Index memory_limit;
  bool gone = false;

  /// Throws as CrossCache, and as `wanted_by` beyond the limit.
  CrossState(const char* wanted_by, const CacheShape& of_token, const std::vector<Index>& lengths,
             Index limit)
      : shape(of_token), memory_limit(limit) {
    GQA_CHECK(!lengths.empty(), std::invalid_argument, "tokens: none, expected those of at least 1 sequence");
    Index bytes = 0;
    seqs.reserve(lengths.size());
    for (const Index n : lengths) {
      seqs.emplace_back(shape, n);
      bytes = checked_add(bytes, seqs.back().layout.bytes(), "tokens");
    }
    check_limit(wanted_by, bytes, memory_limit);
    missing_.resize(static_cast<std::size_t>(checked_mul(num_seqs(), shape.num_layers, "tokens")), 1);
    missing_in_.resize(static_cast<std::size_t>(shape.num_layers), 0);
    for (CrossSequence<T>& each : seqs) {
      each.allocate();
      for (Index& missing : missing_in_) missing += each.tokens > 0;
    }
  }

  /// Throws std::bad_alloc.
  CrossState clone() const {
    std::vector<Index> lengths;
    for (const CrossSequence<T>& each : seqs) lengths.push_back(each.tokens);
    CrossState copy("clone", shape, lengths, memory_limit);
    copy.missing_ = missing_;
    copy.missing_in_ = missing_in_;
    for (Index seq = 0; seq < num_seqs(); ++seq)
      if (at(seq).tokens > 0)
        std::memcpy(static_cast<void*>(copy.at(seq).page.get()), static_cast<const void*>(at(seq).page.get()),
                    static_cast<std::size_t>(at(seq).layout.bytes()));
    return copy;
  }

  Index num_seqs() const { return std::ssize(seqs); }
  CrossSequence<T>& at(Index seq) { return seqs[static_cast<std::size_t>(seq)]; }
  const CrossSequence<T>& at(Index seq) const { return seqs[static_cast<std::size_t>(seq)]; }
  Index tokens() const {
    Index sum = 0;
    for (const CrossSequence<T>& each : seqs) sum += each.tokens;
    return sum;
  }
  Index allocated_bytes() const {
    Index sum = 0;
    for (const CrossSequence<T>& each : seqs) sum += each.layout.bytes();
    return sum;
  }
  Index bookkeeping_bytes() const {
    return static_cast<Index>(sizeof *this + seqs.capacity() * sizeof seqs.front() + missing_.capacity() +
                              missing_in_.capacity() * sizeof(Index));
  }

  /// Whether there are tokens to be written.
  bool is_missing(Index layer, Index seq) const { return at(seq).tokens > 0 && flag(*this, layer, seq) != 0; }
  bool is_complete(Index layer) const { return missing_in_[static_cast<std::size_t>(layer)] == 0; }
  bool is_complete() const {
    for (Index layer = 0; layer < shape.num_layers; ++layer)
      if (!is_complete(layer)) return false;
    return true;
  }

  void check_layer(Index layer) const { detail::check_layer(layer, shape.num_layers); }
  void check_seq(const char* wanted_by, Index seq) const { detail::check_seq(wanted_by, seq, num_seqs()); }
  void check_unwritten(Index layer, Index seq) const {
    GQA_CHECK(flag(*this, layer, seq) != 0, std::invalid_argument,
              "write: layer " << layer << " of sequence " << seq
                              << " is written already; reset(seq, n) gives its place to another");
  }
  void check_readable(Index layer) const {
    if (gone || !is_complete(layer)) [[unlikely]]
      refuse_reading(layer);
  }

  template <class TK, class TV>
  void store(Index layer, Index seq, const TensorView<TK>& k, const TensorView<TV>& v,
             const simd::Kernels<Accumulator<T>>& kernels) noexcept {
    const CrossSequence<T>& s = at(seq);
    const auto block_at = [&](Index head, Index tile) { return s.block_at(layer, head, tile); };
    store_tokens(s.layout.blocks(), block_at, {0, s.tokens}, k, v, 0, kernels);
    note(layer, seq, 0);
  }

  template <class TK, class TV>
  void read(Index layer, Index seq, Range positions, const TensorView<TK>& k, const TensorView<TV>& v) const {
    const auto tile_at = [&](Index head, Range want) { return at(seq).tile(layer, head, want); };
    read_tokens<T>(positions, tile_at, k, v);
  }

  /// Throws as CrossCache::reset.
  void reset(Index seq, Index n) {
    CrossSequence<T> next(shape, n);
    const Index others = allocated_bytes() - at(seq).layout.bytes();
    check_limit("reset", checked_add(others, next.layout.bytes(), "reset"), memory_limit);
    if (next.layout.bytes() == at(seq).layout.bytes())
      next.page = std::move(at(seq).page);
    else
      next.allocate();
    replace(seq, std::move(next));
  }

  /// Every layer of every sequence is there.
  void note_all_written() noexcept {
    std::ranges::fill(missing_, 0);
    std::ranges::fill(missing_in_, 0);
  }

  void clear() noexcept {
    for (Index seq = 0; seq < num_seqs(); ++seq) replace(seq, CrossSequence<T>(shape, 0));
  }
  /// Holds nothing, and views say so.
  void close() noexcept {
    clear();
    gone = true;
  }

 private:
  template <class Self>
  static auto& flag(Self& self, Index layer, Index seq) {
    return self.missing_[static_cast<std::size_t>(layer * self.num_seqs() + seq)];
  }
  /// Whether a layer is missing, counted if there is something to be written.
  void note(Index layer, Index seq, unsigned char missing) noexcept {
    Index& count = missing_in_[static_cast<std::size_t>(layer)];
    count -= is_missing(layer, seq);
    flag(*this, layer, seq) = missing;
    count += is_missing(layer, seq);
  }
  void replace(Index seq, CrossSequence<T> next) noexcept {
    for (Index layer = 0; layer < shape.num_layers; ++layer) note(layer, seq, 0);
    at(seq) = std::move(next);
    for (Index layer = 0; layer < shape.num_layers; ++layer) note(layer, seq, 1);
  }

  [[noreturn, gnu::noinline, gnu::cold]] void refuse_reading(Index layer) const {
    GQA_CHECK(!gone, std::invalid_argument,
              "view: the cache was destroyed after the view of layer " << layer << " was taken");
    Index seq = 0;
    while (!is_missing(layer, seq)) ++seq;
    GQA_CHECK(false, std::invalid_argument,
              "view: layer " << layer << " of sequence " << seq << " is not written yet");
  }

  std::vector<unsigned char>
      missing_;                    // [layer][seq]; of a sequence without tokens, too, until it is written
  std::vector<Index> missing_in_;  // sequences of a layer that have tokens to be written
};

}  // namespace gqa::detail
