// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "gqa/kernel/workspace.hpp"
#include "gqa/position/rope_table.hpp"

namespace gqa {

/// Memory that attention layers work in: one for all layers of a model, which belongs to one call at a time.
/// Calls no larger than an earlier one allocate nothing, and layers with the same Rope at the same positions
/// share its angles. T is what sums are taken in, float or double.
template <class T = float>
class LayerMemory {
 public:
  Workspace& workspace() { return workspace_; }
  /// One for each of n threads, beside workspace().
  std::span<Workspace> workspaces(Index n) {
    if (std::ssize(of_threads_) < n) of_threads_.resize(static_cast<std::size_t>(n));
    return std::span(of_threads_).first(static_cast<std::size_t>(n));
  }

  /// Positions from `first` on.
  std::span<const Index> positions(Index first, Index count) {
    positions_.resize(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i) positions_[static_cast<std::size_t>(i)] = first + i;
    return positions_;
  }
  /// Those of sequences one after another; `first(i)` is where those of sequence i begin.
  template <class First>
  std::span<const Index> positions(std::span<const Index> offsets, First&& first) {
    positions_.clear();
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
      for (Index t = offsets[i]; t < offsets[i + 1]; ++t)
        positions_.push_back(first(static_cast<Index>(i)) + t - offsets[i]);
    return positions_;
  }

  /// The angles at some positions, computed unless they were asked for lately.
  const RopeTable<T>& rotations(const Rope& rope, std::span<const Index> positions) {
    Kept* kept = nullptr;
    for (Kept& each : kept_)
      if (same(each.table.rope(), rope)) kept = &each;
    if (kept != nullptr && std::ranges::equal(kept->positions, positions)) return kept->table;
    if (kept == nullptr && kept_.size() < most_kept) kept = &kept_.emplace_back(RopeTable<T>(rope));
    if (kept == nullptr) {
      kept = &kept_[next_];
      next_ = (next_ + 1) % most_kept;
      *kept = Kept(RopeTable<T>(rope));
    }
    kept->positions.clear();  // the table may throw
    bool in_order = true;
    for (std::size_t i = 1; i < positions.size(); ++i) in_order &= positions[i] == positions[i - 1] + 1;
    if (in_order && !positions.empty())
      kept->table.assign(Range{positions.front(), positions.back() + 1});
    else
      kept->table.assign(positions);
    kept->positions.assign(positions.begin(), positions.end());
    return kept->table;
  }

 private:
  struct Kept {
    RopeTable<T> table;
    std::vector<Index> positions = {};
    explicit Kept(RopeTable<T> t) : table(std::move(t)) {}
  };
  static constexpr std::size_t most_kept = 4;  // models have one, or two where windows alternate

  static bool same(const Rope& a, const Rope& b) {
    return a.config().layout == b.config().layout && a.config().head_dim == b.config().head_dim &&
           a.config().rotary_dim == b.config().rotary_dim && a.attention_factor() == b.attention_factor() &&
           std::ranges::equal(a.inverse_frequencies(), b.inverse_frequencies());
  }

  Workspace workspace_;
  std::vector<Workspace> of_threads_;
  std::vector<Kept> kept_;
  std::vector<Index> positions_;
  std::size_t next_ = 0;
};

}  // namespace gqa
