// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "gqa/core/ragged.hpp"
#include "gqa/kv/batch_rows.hpp"
#include "gqa/kv/batch_state.hpp"
#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/state_owner.hpp"

namespace gqa {

/// The keys and values of several sequences for all layers of a model, which attention reads as one argument:
/// a KVCache for each, with one `layer(i)`. Sequences grow together, `extend(n)`, or each by a number of
/// tokens of its own, and are truncated and cleared together or alone.
///
/// One pass of a model: `spans = extend(n)` once, then for each layer `write(layer, spans, k, v)` and
/// attention over `layer(i)`. Memory is taken 512 tokens of a sequence at a time when they are reached.
///
/// Sizes given as Dynamic are taken from the Config. Every operation either happens, for all sequences, or
/// throws and leaves the cache as it was. Not safe for concurrent writing; any number of threads may read.
///
/// Moving a cache takes its tokens, spans and views along, as with KVCache. It is copied by clone() alone.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic, Index Dv = D>
class BatchCache : detail::StateOwner<detail::BatchState<T>> {
  static_assert(G == Dynamic || G > 0, "gqa: num_kv_heads must be positive");
  static_assert(D == Dynamic || D > 0, "gqa: head_dim must be positive");
  static_assert(Dv == Dynamic || Dv > 0, "gqa: value_dim must be positive");

  using State = detail::BatchState<T>;
  using Owner = detail::StateOwner<State>;

 public:
  using Scalar = T;

  struct Config {
    Index num_seqs = 1;
    Index max_tokens = 0;  ///< of each sequence
    Index num_layers = 1;
    Index num_kv_heads = G;
    Index head_dim = D;
    Index value_dim = Dv;    ///< head_dim where it is left Dynamic
    Index memory_limit = 0;  ///< the most that allocated_bytes() may come to; 0: any
  };

  /// What attention reads: one layer of all sequences, as far as each has been written. It follows the cache
  /// through moves and sees sequences grow, shrink and change places; after clear() of all of them it must be
  /// taken anew. Reading then throws std::invalid_argument, as it does when the cache is gone.
  class View {
   public:
    using Scalar = T;
    static constexpr Index static_num_kv_heads = G;
    static constexpr Index static_head_dim = D;

    Index num_seqs() const { return state_->num_seqs(); }
    Index num_kv_heads() const { return state_->shape().num_kv_heads; }
    Index head_dim() const { return state_->shape().head_dim; }
    Index value_dim() const { return state_->shape().value_dim; }
    Index scratch_bytes() const { return 0; }

    Range retained(Index seq) const {
      check();
      return {0, state_->at(seq).sequence.written(layer_)};
    }

    KVTile tile(Index seq, Index kv_head, Range want, void*) const {
      check();
      return state_->at(seq).tile(layer_, kv_head, want);
    }

   private:
    friend class BatchCache;
    View(std::shared_ptr<const State> state, Index layer)
        : state_(std::move(state)), layer_(layer), epoch_(state_->view_epoch) {}

    void check() const {
      if (epoch_ != state_->view_epoch) [[unlikely]]
        detail::refuse_view(state_->view_epoch, layer_);
    }

    std::shared_ptr<const State> state_;
    Index layer_;
    std::uint64_t epoch_;
  };

  /// Takes no memory for tokens yet. Throws std::invalid_argument for a size that is missing, not positive or
  /// contradicts the template's, std::length_error where max_tokens of all sequences overflow.
  explicit BatchCache(const Config& config) : Owner(std::make_shared<State>(make_state(config))) {}

  /// A second cache of the same sizes with the same tokens, as far as each layer is written. Spans and views
  /// stay those of the first. Throws std::bad_alloc.
  BatchCache clone() const {
    const State& from = state("clone");
    auto copy = std::make_shared<State>(from.like());
    for (Index seq = 0; seq < from.num_seqs(); ++seq) copy->at(seq).copy(from.at(seq));
    return BatchCache(std::move(copy));
  }

  /// Makes room for n more tokens in every layer of every sequence: a span for each. Throws std::length_error
  /// where one would go beyond max_tokens or all beyond memory_limit, std::invalid_argument for a negative n,
  /// std::bad_alloc; nothing has changed then.
  std::vector<Span> extend(Index n) {
    return state("extend").extend([n](Index) { return n; });
  }

  /// The same with n[i] more tokens for sequence i, which may be 0. Throws std::invalid_argument also for
  /// another number of them.
  std::vector<Span> extend(std::span<const Index> n) {
    State& s = state("extend");
    s.check_count("extend", n.size());
    return s.extend([n](Index seq) { return n[static_cast<std::size_t>(seq)]; });
  }

  /// Stores the keys (batch x tokens x G x D) and values (batch x tokens x G x Dv) of the spans' tokens in
  /// one layer, each the nearest T. k and v have as many tokens as the longest span; of a shorter one's
  /// sequence the first are stored. Throws std::invalid_argument for wrong sizes, spans that are not one for
  /// each sequence in order, that were truncated away or moved, or leave a gap before them; std::out_of_range
  /// for an absent layer.
  template <TensorLike K, TensorLike V>
  void write(Index layer, std::span<const Span> spans, const K& k, const V& v) {
    write_rows(layer, spans, detail::BatchRows(as_view(k)), detail::BatchRows(as_view(v)));
  }

  /// The same from packed tensors, ragged(tensor, offsets), with exactly the tokens of each span.
  template <class TK, class TV>
  void write(Index layer, std::span<const Span> spans, const Ragged<TK>& k, const Ragged<TV>& v) {
    write_rows(layer, spans, detail::BatchRows(k), detail::BatchRows(v));
  }

  /// Copies the tokens at `positions` of one layer of a sequence to k (tokens x G x D) and v (tokens x G x
  /// Dv), as KVCache::read. Throws std::invalid_argument for wrong sizes and for positions that are not
  /// written, std::out_of_range for an absent layer or sequence.
  template <TensorLike K, TensorLike V>
  void read(Index layer, Index seq, Range positions, K&& k, V&& v) const {
    const auto& s = checked("read", seq);
    const auto keys = detail::as_output(k);
    const auto values = detail::as_output(v);
    s.sequence.check_read(layer, positions);
    detail::check_tokens(s.slabs.shape(), keys, values, positions.size());
    s.read(layer, positions, keys, values);
  }

  /// One layer of all sequences, for attention to read. Throws std::out_of_range.
  View layer(Index i) const {
    state("layer").seqs.front().sequence.check_layer(i);
    return View(state_, i);
  }

  /// Forgets all but the first n tokens of every sequence, in every layer; their memory is kept for the next.
  /// Throws std::invalid_argument for a negative n or more tokens than one of them has.
  void truncate(Index n) {
    State& s = state("truncate");
    for (Index seq = 0; seq < s.num_seqs(); ++seq) s.check_truncate(seq, n);
    for (auto& each : s.seqs) each.truncate(n);
  }
  /// The same of one sequence. Throws std::out_of_range also for one there is none of.
  void truncate(Index seq, Index n) {
    State& s = state("truncate");
    s.check_seq("truncate", seq);
    s.check_truncate(seq, n);
    s.at(seq).truncate(n);
  }

  /// Forgets every token of every sequence and gives the memory back.
  void clear() {
    if (state_ == nullptr) return;
    state_->clear();
  }
  /// The same of one sequence, whose place the next can take: views go on with that. Throws
  /// std::out_of_range.
  void clear(Index seq) { checked("clear", seq).clear(); }

  /// Sequence i becomes what parents[i] was, for all i at once: what a step of beam search does. A parent may
  /// be named several times, or never, and is then forgotten. The first who names it takes its memory over,
  /// the others copy into what was forgotten. Spans of sequences whose parent is another are no longer valid.
  /// Throws std::invalid_argument for another number of parents, std::out_of_range for a parent there is none
  /// of, std::length_error beyond memory_limit, std::bad_alloc; nothing has changed then.
  void reorder(std::span<const Index> parents) { state("reorder").reorder(parents); }

  Index num_seqs() const { return state_ == nullptr ? 0 : state_->num_seqs(); }
  /// The tokens of a sequence. Throws std::out_of_range.
  Index size(Index seq) const { return checked("size", seq).sequence.size(); }
  /// The most tokens that a sequence can have.
  Index capacity() const { return state_ == nullptr ? 0 : state_->seqs.front().sequence.max_tokens(); }
  Index num_layers() const { return state_ == nullptr ? 0 : state_->shape().num_layers; }
  Index num_kv_heads() const { return state_ == nullptr ? 0 : state_->shape().num_kv_heads; }
  Index head_dim() const { return state_ == nullptr ? 0 : state_->shape().head_dim; }
  Index value_dim() const { return state_ == nullptr ? 0 : state_->shape().value_dim; }

  /// What one token of a sequence takes: layers * G * (D + Dv) * sizeof(T) bytes.
  Index bytes_per_token() const {
    return state_ == nullptr ? 0 : state_->seqs.front().slabs.bytes_per_token();
  }
  /// What the tokens of all sequences take.
  Index bytes() const {
    return state_ == nullptr ? 0 : state_->total([](const auto& s) { return s.bytes(); });
  }
  /// What has been taken from the system for tokens.
  Index allocated_bytes() const {
    return state_ == nullptr ? 0 : state_->total([](const auto& s) { return s.slabs.allocated_bytes(); });
  }
  /// Of that, what holds no token: room up to the next 512 of each sequence, and dims padded to whole
  /// vectors.
  Index padding_bytes() const { return allocated_bytes() - bytes(); }
  /// The cache's own bookkeeping.
  Index bookkeeping_bytes() const {
    Index bytes = sizeof *this;
    if (state_ != nullptr)
      bytes += static_cast<Index>(sizeof(State) + state_->seqs.capacity() * sizeof state_->seqs.front()) +
               state_->total([](const auto& s) { return s.slabs.bookkeeping_bytes() + s.sequence.bytes(); });
    return bytes;
  }

 private:
  friend struct detail::CacheBlocks<BatchCache>;

  using Owner::state;
  using Owner::state_;

  explicit BatchCache(std::shared_ptr<State> own) : Owner(std::move(own)) {}

  static State make_state(const Config& c) {
    const detail::CacheShape shape = detail::checked_shape<G, D, Dv>(c);
    GQA_CHECK(c.num_seqs > 0, std::invalid_argument, "num_seqs is " << c.num_seqs << ", expected at least 1");
    GQA_CHECK(c.max_tokens >= 0, std::invalid_argument,
              "max_tokens is " << c.max_tokens << ", expected at least 0");
    const Index limit = detail::checked_limit(c.memory_limit);
    return State(c.num_seqs, c.max_tokens, detail::Slabs<T>(shape, c.max_tokens), limit);
  }

  detail::CacheState<T>& checked(const char* wanted_by, Index seq) const {
    State& s = state(wanted_by);
    s.check_seq(wanted_by, seq);
    return s.at(seq);
  }

  template <class TK, class TV>
  void write_rows(Index layer, std::span<const Span> spans, const detail::BatchRows<TK>& k,
                  const detail::BatchRows<TV>& v) {
    State& s = state("write");
    s.check_write(layer, spans);
    const auto tokens = [&](Index seq) { return spans[static_cast<std::size_t>(seq)].size(); };
    k.check("k", s.num_seqs(), tokens, s.shape().num_kv_heads, s.shape().head_dim);
    v.check("v", s.num_seqs(), tokens, s.shape().num_kv_heads, s.shape().value_dim);
    const auto& kernels = simd::kernels<T>(isa());  // may throw: before anything is written
    for (Index seq = 0; seq < s.num_seqs(); ++seq)
      s.at(seq).store(layer, spans[static_cast<std::size_t>(seq)].positions, k.of(seq, tokens(seq)),
                      v.of(seq, tokens(seq)), kernels);
  }
};

template <Scalar T, Index G, Index D, Index Dv>
struct detail::CacheBlocks<BatchCache<T, G, D, Dv>> {
  using Cache = BatchCache<T, G, D, Dv>;
  using Scalar = T;
  using Staged = std::vector<Slabs<T>>;  // of each sequence

  static Index num_layers(const Cache& c) { return c.state("packing").shape().num_layers; }
  static Index num_seqs(const Cache& c) { return c.state("packing").num_seqs(); }
  static LayerShape shape(const Cache& c, Index) { return layer_shape(c.state_->shape()); }
  static Ranges retained(const Cache& c, Index section) {
    const Index seqs = c.state_->num_seqs();
    return Range{0, c.state_->at(section % seqs).sequence.written(section / seqs)};
  }
  static PackedBlock<T> block_at(const Cache& c, Index section, Index head, Index tile) {
    const Index seqs = c.state_->num_seqs();
    return c.state_->at(section % seqs).slabs.block_at(section / seqs, head, tile);
  }

  static Staged stage(const Cache& c, std::span<const Ranges> retained) {
    const State& s = *c.state_;
    const std::vector<Index> tokens = tokens_of_each(retained, s.num_seqs());
    Index bytes = 0;
    for (Index seq = 0; seq < s.num_seqs(); ++seq) {
      const Index n = tokens[static_cast<std::size_t>(seq)], most = s.at(seq).sequence.max_tokens();
      GQA_CHECK(n <= most, std::length_error,
                "restore: " << n << " tokens of sequence " << seq << ", but it holds at most " << most);
      bytes += s.at(seq).slabs.bytes_for(n);
    }
    check_limit("restore", bytes, s.memory_limit);
    Staged staged;
    staged.reserve(tokens.size());
    for (const Index n : tokens) {
      staged.push_back(s.at(0).slabs.like());
      staged.back().reserve(n);
    }
    return staged;
  }
  static PackedBlock<T> block_at(const Staged& staged, Index section, Index head, Index tile) {
    const Index seqs = std::ssize(staged);
    return staged[static_cast<std::size_t>(section % seqs)].block_at(section / seqs, head, tile);
  }
  static void adopt(Cache& c, Staged&& staged, std::span<const Ranges> retained) noexcept {
    State& s = *c.state_;
    s.clear();
    for (Index seq = 0; seq < s.num_seqs(); ++seq)
      s.at(seq).slabs = std::move(staged[static_cast<std::size_t>(seq)]);
    for (std::size_t i = 0; i < retained.size(); ++i) {
      const Index section = static_cast<Index>(i), seqs = s.num_seqs();
      s.at(section % seqs).sequence.set_written(section / seqs, retained[i][0].end);
    }
  }

 private:
  using State = BatchState<T>;
};

}  // namespace gqa
