// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gqa/kv/cache_state.hpp"

namespace gqa::detail {

/// What a batch of sequences and its views share: one at least, of equal sizes. What is done to several of
/// them is done to all or to none.
template <Scalar T>
struct BatchState {
  std::vector<CacheState<T>> seqs;
  Index memory_limit;
  std::uint64_t view_epoch = next_epoch();  // until all is cleared; 0: the cache is gone

  /// Throws std::length_error where the sizes overflow.
  BatchState(Index num_seqs, Index max_tokens, const Slabs<T>& sizes, Index limit) : memory_limit(limit) {
    checked_mul(num_seqs, sizes.bytes_for(max_tokens), "num_seqs");
    checked_mul(num_seqs, sizeof(CacheState<T>), "num_seqs");
    seqs.reserve(static_cast<std::size_t>(num_seqs));
    for (Index seq = 0; seq < num_seqs; ++seq) seqs.emplace_back(max_tokens, sizes.like());
  }
  /// One of the same sizes, without tokens.
  BatchState like() const { return {num_seqs(), at(0).sequence.max_tokens(), at(0).slabs, memory_limit}; }

  Index num_seqs() const { return std::ssize(seqs); }
  const CacheShape& shape() const { return at(0).slabs.shape(); }
  CacheState<T>& at(Index seq) { return seqs[static_cast<std::size_t>(seq)]; }
  const CacheState<T>& at(Index seq) const { return seqs[static_cast<std::size_t>(seq)]; }

  /// The sum over all sequences of what f says of each.
  template <class F>
  Index total(F&& f) const {
    Index sum = 0;
    for (const CacheState<T>& s : seqs) sum += f(s);
    return sum;
  }

  void check_seq(const char* wanted_by, Index seq) const { detail::check_seq(wanted_by, seq, num_seqs()); }
  void check_count(const char* wanted_by, std::size_t n) const {
    GQA_CHECK(
        n == seqs.size(), std::invalid_argument,
        wanted_by << ": " << n << " given, expected one for each of the " << num_seqs() << " sequences");
  }
  void check_truncate(Index seq, Index n) const {
    const Index size = at(seq).sequence.size();
    GQA_CHECK(n >= 0 && n <= size, std::invalid_argument,
              "truncate: n is " << n << ", expected 0 to the " << size << " tokens of sequence " << seq);
  }
  void check_write(Index layer, std::span<const Span> spans) const {
    at(0).sequence.check_layer(layer);
    check_count("write", spans.size());
    for (Index seq = 0; seq < num_seqs(); ++seq) {
      const Sequence& sequence = at(seq).sequence;
      const Span& span = spans[static_cast<std::size_t>(seq)];
      GQA_CHECK(sequence.holds(span), std::invalid_argument,
                "span: tokens " << span.positions.begin << " to " << span.positions.end
                                << " are not, or no longer, among the " << sequence.size() << " of sequence "
                                << seq);
      GQA_CHECK(span.positions.begin <= sequence.written(layer), std::invalid_argument,
                "span: begins at token " << span.positions.begin << ", but layer " << layer << " of sequence "
                                         << seq << " is written up to " << sequence.written(layer));
    }
  }

  /// more(seq) tokens more for each. Throws as BatchCache::extend.
  template <class More>
  std::vector<Span> extend(More&& more) {
    Index bytes = 0;
    for (Index seq = 0; seq < num_seqs(); ++seq) {
      const Sequence& sequence = at(seq).sequence;
      const Index n = more(seq), size = sequence.size(), most = sequence.max_tokens();
      GQA_CHECK(n >= 0, std::invalid_argument,
                "extend: n is " << n << " for sequence " << seq << ", expected at least 0");
      GQA_CHECK(n <= most - size, std::length_error,
                "extend: sequence " << seq << " holds " << size << " of at most " << most
                                    << " tokens, no room for " << n);
      bytes += at(seq).allocated_with(n);
    }
    check_limit("extend", bytes, memory_limit);
    std::vector<Span> spans(seqs.size());
    std::vector<Growth> growth(seqs.size());
    for (Index seq = 0; seq < num_seqs(); ++seq)
      growth[static_cast<std::size_t>(seq)] = at(seq).slabs.grow(at(seq).sequence.size() + more(seq));
    for (Index seq = 0; seq < num_seqs(); ++seq) {  // nothing throws from here on
      at(seq).slabs.add(std::move(growth[static_cast<std::size_t>(seq)]));
      spans[static_cast<std::size_t>(seq)] = at(seq).sequence.extend(more(seq));
    }
    return spans;
  }

  /// Sequence i becomes what parents[i] was. Throws as BatchCache::reorder.
  void reorder(std::span<const Index> parents) {
    check_count("reorder", parents.size());
    for (std::size_t i = 0; i < parents.size(); ++i)
      GQA_CHECK(parents[i] >= 0 && parents[i] < num_seqs(), std::out_of_range,
                "reorder: parents[" << i << "] is " << parents[i] << ", expected less than " << num_seqs());
    const std::vector<Index> sources = take_over(parents);
    std::vector<Growth> growth(parents.size());
    std::vector<CacheState<T>> next;
    next.reserve(parents.size());
    const auto for_copies = [&](auto&& f) {
      for (std::size_t i = 0; i < parents.size(); ++i)
        if (sources[i] != parents[i]) f(at(parents[i]), at(sources[i]), growth[i]);
    };
    Index bytes = 0;
    for (std::size_t i = 0; i < parents.size(); ++i) {
      const CacheState<T>& from = at(parents[i]);
      bytes += sources[i] == parents[i] ? from.slabs.allocated_bytes() : from.allocated_at_least();
    }
    check_limit("reorder", bytes, memory_limit);
    for_copies([](const CacheState<T>& from, const CacheState<T>& to, Growth& more) {
      more = to.slabs.grow(from.sequence.size());
    });
    for_copies(
        [](const CacheState<T>& from, CacheState<T>& to, Growth& more) {  // nothing throws from here on
          to.slabs.add(std::move(more));
          to.slabs.shrink(from.sequence.size());
          to.copy(from);
        });
    for (std::size_t i = 0; i < parents.size(); ++i) {
      next.push_back(std::move(at(sources[i])));
      if (parents[i] != static_cast<Index>(i)) next.back().sequence.forget_spans();
    }
    seqs = std::move(next);
  }

  void clear() noexcept {
    for (CacheState<T>& each : seqs) each.clear();
    view_epoch = next_epoch();
  }
  /// Holds nothing, and views say so.
  void close() noexcept {
    clear();
    view_epoch = 0;
  }

 private:
  using Growth = typename Slabs<T>::Growth;

  /// Whose memory each sequence takes over: its parent's, if it comes first of those that name it (or is it),
  /// else that of one which nobody names. There are as many of these.
  static std::vector<Index> take_over(std::span<const Index> parents) {
    constexpr Index nobody = -1;
    const auto at = [](auto& list, auto i) -> auto& { return list[static_cast<std::size_t>(i)]; };
    std::vector<Index> heirs(parents.size(), nobody), sources(parents.size());
    for (std::size_t i = 0; i < parents.size(); ++i)
      if (parents[i] == static_cast<Index>(i)) heirs[i] = parents[i];
    for (std::size_t i = 0; i < parents.size(); ++i)
      if (at(heirs, parents[i]) == nobody) at(heirs, parents[i]) = static_cast<Index>(i);
    Index forgotten = 0;
    for (std::size_t i = 0; i < parents.size(); ++i) {
      sources[i] = parents[i];
      if (at(heirs, parents[i]) == static_cast<Index>(i)) continue;
      while (at(heirs, forgotten) != nobody) ++forgotten;
      sources[i] = forgotten++;
    }
    return sources;
  }
};

}  // namespace gqa::detail
