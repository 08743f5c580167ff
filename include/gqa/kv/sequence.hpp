// SPDX-License-Identifier: Apache-2.0
// The tokens of a sequence: how many there are, how many of them each layer has, and which spans and views
// are valid.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "gqa/core/shape.hpp"
#include "gqa/kv/cache_shape.hpp"

namespace gqa {

/// Tokens that a cache has made room for: their positions, and which state of which cache they belong to.
struct Span {
  Range positions;
  std::uint64_t epoch = 0;  ///< of one cache, between two of its truncations; never 0

  Index size() const { return positions.size(); }
};

namespace detail {

/// A number that no state of any cache of the program has had.
inline std::uint64_t next_epoch() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

/// Refuses to read through a view: `now` is the view epoch of what it is of, another than the view's own.
[[noreturn, gnu::noinline, gnu::cold]] inline void refuse_view(std::uint64_t now, Index layer) {
  GQA_CHECK(false, std::invalid_argument,
            "view: the cache was " << (now == 0 ? "destroyed" : "cleared") << " after the view of layer "
                                   << layer << " was taken");
}

/// Lengths, spans and epochs of one sequence in all layers. Checks what is asked of a cache before anything
/// changes.
class Sequence {
 public:
  Sequence(Index max_tokens, Index num_layers)
      : max_tokens_(max_tokens), written_(static_cast<std::size_t>(num_layers)) {}

  Index size() const { return size_; }
  Index max_tokens() const { return max_tokens_; }
  /// How many tokens a layer has, without gaps.
  Index written(Index layer) const { return written_[static_cast<std::size_t>(layer)]; }
  /// A layer that does not have all tokens yet; -1: every one has.
  Index unwritten_layer() const {
    for (std::size_t i = 0; i < written_.size(); ++i)
      if (written_[i] < size_) return static_cast<Index>(i);
    return -1;
  }
  Index bytes() const { return static_cast<Index>(written_.capacity() * sizeof(Index)); }

  /// Until clear(); 0: the cache is gone.
  std::uint64_t view_epoch() const { return view_epoch_; }
  void close() noexcept { view_epoch_ = 0; }
  std::uint64_t span_epoch() const { return span_epoch_; }

  void check_layer(Index layer) const { detail::check_layer(layer, std::ssize(written_)); }

  void check_room(Index n) const {
    GQA_CHECK(n >= 0, std::invalid_argument, "extend: n is " << n << ", expected at least 0");
    GQA_CHECK(
        n <= max_tokens_ - size_, std::length_error,
        "extend: the cache holds " << size_ << " of at most " << max_tokens_ << " tokens, no room for " << n);
  }

  /// n more tokens, for which there is room.
  Span extend(Index n) noexcept {
    size_ += n;
    return {{size_ - n, size_}, span_epoch_};
  }

  /// Whether a span's tokens are here, and still the same.
  bool holds(const Span& span) const {
    const Range p = span.positions;
    return span.epoch == span_epoch_ && p.begin >= 0 && p.begin <= p.end && p.end <= size_;
  }
  void check_write(Index layer, const Span& span) const {
    check_layer(layer);
    const Range p = span.positions;
    GQA_CHECK(holds(span), std::invalid_argument,
              "span: tokens " << p.begin << " to " << p.end << " are not, or no longer, among the " << size_
                              << " of the cache");
    check_gap(layer, p);
  }
  void check_gap(Index layer, Range positions) const {
    GQA_CHECK(positions.begin <= written(layer), std::invalid_argument,
              "span: begins at token " << positions.begin << ", but layer " << layer << " is written up to "
                                       << written(layer));
  }
  void note_written(Index layer, Range positions) noexcept {
    Index& written = written_[static_cast<std::size_t>(layer)];
    written = std::max(written, positions.end);
  }

  void check_read(Index layer, Range positions) const {
    check_layer(layer);
    GQA_CHECK(positions.begin >= 0 && positions.begin <= positions.end && positions.end <= written(layer),
              std::invalid_argument,
              "read: tokens " << positions.begin << " to " << positions.end << " are not among the "
                              << written(layer) << " written in layer " << layer);
  }

  /// Spans of before are no longer valid.
  void forget_spans() noexcept { span_epoch_ = next_epoch(); }
  /// Neither are they then.
  void truncate(Index n) noexcept {
    size_ = n;
    forget_spans();
    for (Index& written : written_) written = std::min(written, n);
  }

  /// Neither are views.
  void clear() noexcept {
    truncate(0);
    view_epoch_ = next_epoch();
  }

  /// The first n tokens are there, in all layers.
  void set_written(Index n) noexcept {
    size_ = n;
    std::fill(written_.begin(), written_.end(), n);
  }

  /// The fewest tokens that a layer has.
  Index written_everywhere() const { return *std::min_element(written_.begin(), written_.end()); }

  /// The lengths of another one of as many layers.
  void copy_lengths(const Sequence& other) noexcept {
    std::copy(other.written_.begin(), other.written_.end(), written_.begin());
    size_ = other.size_;
  }

  /// A layer has its first n tokens, and so the sequence at least those.
  void set_written(Index layer, Index n) noexcept {
    written_[static_cast<std::size_t>(layer)] = n;
    size_ = std::max(size_, n);
  }

  /// Has the lengths of another one of as many layers. Spans of before are no longer valid.
  void restore(const Sequence& other) noexcept {
    copy_lengths(other);
    span_epoch_ = next_epoch();
  }

 private:
  Index max_tokens_;
  std::vector<Index> written_;
  Index size_ = 0;
  std::uint64_t span_epoch_ = next_epoch();  // until truncate or clear
  std::uint64_t view_epoch_ = next_epoch();
};

}  // namespace detail

}  // namespace gqa
