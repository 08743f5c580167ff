// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "gqa/kv/cache_blocks.hpp"
#include "gqa/kv/layer_group.hpp"
#include "gqa/kv/sequence.hpp"

namespace gqa::detail {

/// What a cache whose layers may differ is asked to be.
struct LayeredConfig {
  SpanLimits limits;
  std::vector<CacheLayer> layers;

  friend bool operator==(const LayeredConfig&, const LayeredConfig&) = default;
};

/// Of the tokens that a checkpoint does not copy: how many are still as they were.
using UnchangedTokens = std::shared_ptr<Index>;

/// What a checkpoint keeps. The groups that keep every token stand in it without any.
template <Scalar T>
struct SavedState {
  std::shared_ptr<const LayeredConfig> config;
  std::vector<LayerGroup<T>> groups;
  Sequence sequence;
  UnchangedTokens unchanged;  // null: everything is copied
};

/// What a cache whose layers may differ and its views share: one sequence, and the blocks of each group of
/// layers of one description.
template <Scalar T>
class LayeredState {
 public:
  /// Which group a layer is in, and where in it.
  struct Place {
    std::size_t group;
    Index layer;
  };

  /// Takes no memory for tokens yet. Throws std::length_error where the sizes overflow.
  LayeredState(std::shared_ptr<const LayeredConfig> config, Index memory_limit)
      : config_(std::move(config)),
        memory_limit_(memory_limit),
        places_(places_of(config_->layers)),
        groups_(groups_of(*config_, places_)),
        sequence_(config_->limits.max_tokens, static_cast<Index>(config_->layers.size())) {
    Index most = 0, per_token = 0;  // so that later sums do not overflow
    for (const LayerGroup<T>& g : groups_) {
      most = checked_add(most, g.bytes_for(config_->limits.max_tokens), "max_tokens");
      per_token = checked_add(per_token, g.bytes_per_token(), "cache");
    }
  }

  const std::shared_ptr<const LayeredConfig>& config() const { return config_; }
  const SpanLimits& limits() const { return config_->limits; }
  Index memory_limit() const { return memory_limit_; }
  const std::vector<LayerGroup<T>>& groups() const { return groups_; }
  const Sequence& sequence() const { return sequence_; }
  Sequence& sequence() { return sequence_; }
  Place place(Index layer) const { return places_[static_cast<std::size_t>(layer)]; }
  const LayerGroup<T>& group(Index layer) const { return groups_[place(layer).group]; }
  bool all_windowed() const {
    return std::all_of(groups_.begin(), groups_.end(), [](const auto& g) { return g.windowed(); });
  }
  Ranges retained(Index layer) const { return group(layer).retained(sequence_.written(layer)); }
  Index bookkeeping_bytes() const {
    Index bytes = static_cast<Index>(sizeof *this + sizeof(LayeredConfig)) + sequence_.bytes();
    bytes += static_cast<Index>(
        config_->layers.capacity() * sizeof(CacheLayer) + groups_.capacity() * sizeof(LayerGroup<T>) +
        places_.capacity() * sizeof(Place) + checkpoints_.capacity() * sizeof(UnchangedTokens));
    for (const LayerGroup<T>& g : groups_) bytes += g.bookkeeping_bytes();
    return bytes;
  }

  void check_span(Index n) const {
    const Index unwritten = sequence_.size() - sequence_.written_everywhere();
    GQA_CHECK(n <= limits().max_span - unwritten, std::length_error,
              "extend: n is " << n << " and " << unwritten
                              << " tokens are not yet written in all layers, expected at most max_span, "
                              << limits().max_span << ", in all");
  }

  /// All of the positions are there still.
  void check_kept(const char* name, Index layer, Range positions, Ranges there) const {
    const bool kept = positions.empty() || std::any_of(there.begin(), there.end(), [&](Range r) {
                        return r.begin <= positions.begin && positions.end <= r.end;
                      });
    GQA_CHECK(kept, std::invalid_argument,
              name << ": tokens " << positions.begin << " to " << positions.end
                   << " are not all kept: of those behind its " << group(layer).sinks() << " sinks, layer "
                   << layer << " has " << there.hull().end - there[there.size() - 1].size() << " to "
                   << there.hull().end);
  }

  /// n more tokens, for `wanted_by`. Throws as an extend() does.
  Span extend(const char* wanted_by, Index n) {
    sequence_.check_room(n);
    check_span(n);
    const Index tokens = sequence_.size() + n;
    take_memory(wanted_by, tokens);
    for (LayerGroup<T>& g : groups_) g.drop(tokens);
    return sequence_.extend(n);
  }

  /// `positions` of a layer are about to be written.
  void note_write(Index layer, Range positions) noexcept {
    if (!positions.empty() && !group(layer).windowed()) change_from(positions.begin);
  }

  bool can_truncate(Index n) const {
    return std::all_of(groups_.begin(), groups_.end(), [&](const auto& g) { return g.can_truncate(n); });
  }
  Index oldest_truncation() const {
    Index oldest = 0;
    for (const LayerGroup<T>& g : groups_) oldest = std::max(oldest, g.oldest_truncation());
    return oldest;
  }
  void truncate(Index n) noexcept {
    sequence_.truncate(n);
    for (LayerGroup<T>& g : groups_) g.truncate(n);
    change_from(n);
  }

  void clear() noexcept {
    for (LayerGroup<T>& g : groups_) g.release();
    sequence_.clear();
    change_from(0);
  }

  /// Holds nothing, and views say so.
  void close() noexcept {
    clear();
    sequence_.close();
  }

  /// The tokens of another of the same sizes. Throws std::bad_alloc.
  void copy(const LayeredState& other) {
    for (std::size_t i = 0; i < groups_.size(); ++i)
      groups_[i].copy(other.groups_[i], other.sequence_.size());
    sequence_.copy_lengths(other.sequence_);
  }

  /// Another one with room for what its layers are to retain. Throws format_error where no such cache
  /// retains these, std::length_error, std::bad_alloc.
  LayeredState stage(std::span<const Ranges> retained) const {
    const Index tokens = tokens_of(retained);
    GQA_CHECK(tokens <= limits().max_tokens, std::length_error,
              "restore: " << tokens << " tokens, but the cache holds at most " << limits().max_tokens);
    LayeredState staged(config_, memory_limit_);
    staged.take_memory("restore", tokens);
    for (std::size_t layer = 0; layer < retained.size(); ++layer)
      GQA_CHECK(staged.groups_[places_[layer].group].assign(retained[layer], tokens), format_error,
                "layer " << layer << " retains tokens up to " << retained[layer].hull().end << " in "
                         << retained[layer].size() << " ranges, the last from "
                         << retained[layer][retained[layer].size() - 1].begin
                         << " on, which this cache does not with its window, sinks, max_span and rollback");
    return staged;
  }
  /// Has what was staged, and filled, in place of its own tokens. Spans and views end.
  void adopt(LayeredState&& staged, std::span<const Ranges> retained) noexcept {
    groups_ = std::move(staged.groups_);
    sequence_.clear();
    for (std::size_t layer = 0; layer < retained.size(); ++layer)
      sequence_.set_written(static_cast<Index>(layer), retained[layer].hull().end);
    change_from(0);
  }

  SavedState<T> save() {
    GQA_CHECK(all_windowed() || sequence_.written_everywhere() == sequence_.size(), std::invalid_argument,
              "checkpoint: " << sequence_.written_everywhere() << " of " << sequence_.size()
                             << " tokens are written in all layers, expected all");
    SavedState<T> saved{config_, groups_of(*config_, places_), sequence_, nullptr};
    for (std::size_t i = 0; i < groups_.size(); ++i)
      if (groups_[i].windowed()) saved.groups[i].copy(groups_[i], sequence_.size());
    if (!all_windowed()) {
      std::erase_if(checkpoints_, [](const UnchangedTokens& c) { return c.use_count() == 1; });
      saved.unchanged = std::make_shared<Index>(sequence_.size());
      checkpoints_.push_back(saved.unchanged);
    }
    return saved;
  }

  /// Throws std::invalid_argument where that cannot be, std::length_error beyond the limit, std::bad_alloc;
  /// nothing has changed then.
  void restore(const SavedState<T>& saved) {
    GQA_CHECK(saved.config != nullptr, std::invalid_argument, "restore: the checkpoint was moved from");
    GQA_CHECK(saved.config == config_ || *saved.config == *config_, std::invalid_argument,
              "restore: the checkpoint is of a cache of other sizes");
    const Index size = saved.sequence.size();
    if (!all_windowed()) {
      const bool ours =
          std::find(checkpoints_.begin(), checkpoints_.end(), saved.unchanged) != checkpoints_.end();
      GQA_CHECK(
          ours, std::invalid_argument,
          "restore: the checkpoint is of another cache, and layers keep all tokens, which it does not copy");
      GQA_CHECK(*saved.unchanged == size, std::invalid_argument,
                "restore: the first " << size
                                      << " tokens are wanted as they were, but where layers keep all, "
                                      << "only " << *saved.unchanged << " of them are unchanged");
    }
    take_memory("restore", size);
    for (std::size_t i = 0; i < groups_.size(); ++i) {
      if (groups_[i].windowed())
        groups_[i].copy_ring(saved.groups[i]);
      else
        groups_[i].forget(size);
    }
    sequence_.restore(saved.sequence);
    change_from(size);
  }

 private:
  static std::vector<Place> places_of(const std::vector<CacheLayer>& layers) {
    std::vector<Place> places;
    std::vector<Index> layers_in;  // each group
    for (const CacheLayer& layer : layers) {
      const auto like =
          static_cast<std::size_t>(std::find(layers.begin(), layers.end(), layer) - layers.begin());
      const std::size_t group = like == places.size() ? layers_in.size() : places[like].group;
      if (group == layers_in.size()) layers_in.push_back(0);
      places.push_back({group, layers_in[group]++});
    }
    return places;
  }
  static std::vector<LayerGroup<T>> groups_of(const LayeredConfig& config, const std::vector<Place>& places) {
    std::vector<LayerGroup<T>> groups;
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (places[i].layer != 0) continue;
      const auto same = [&](const Place& p) { return p.group == places[i].group; };
      groups.emplace_back(config.layers[i], std::count_if(places.begin(), places.end(), same), config.limits);
    }
    return groups;
  }

  /// In all groups or none. Throws std::length_error beyond the limit.
  void take_memory(const char* wanted_by, Index tokens) {
    const auto has_room = [&](const LayerGroup<T>& g) { return g.has_room(tokens); };
    if (std::all_of(groups_.begin(), groups_.end(), has_room)) return;
    Index bytes = 0;  // groups take theirs together: where one lacks room, none has more than it needs
    for (const LayerGroup<T>& g : groups_) bytes += g.bytes_for(tokens);
    check_limit(wanted_by, bytes, memory_limit_);
    std::vector<typename LayerGroup<T>::Memory> memory;
    memory.reserve(groups_.size());
    for (const LayerGroup<T>& g : groups_) memory.push_back(g.grow(tokens));
    for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i].add(std::move(memory[i]));
  }

  /// Tokens from n on are no longer what they were.
  void change_from(Index n) noexcept {
    for (const UnchangedTokens& unchanged : checkpoints_) *unchanged = std::min(*unchanged, n);
  }

  std::shared_ptr<const LayeredConfig> config_;
  Index memory_limit_;
  std::vector<Place> places_;
  std::vector<LayerGroup<T>> groups_;
  Sequence sequence_;
  std::vector<UnchangedTokens> checkpoints_;
};

}  // namespace gqa::detail
