// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "gqa/kv/layered_state.hpp"
#include "gqa/kv/view.hpp"

namespace gqa::detail {

/// Which of a layer's tokens a view shows.
enum class Part {
  all,
  sinks,   ///< the first ones, which stay
  recent,  ///< what is there of those behind the sinks
};

/// What attention reads: one layer of a cache, as far as it has been written and is kept. It follows the
/// cache through moves, sees it grow and drop tokens; after clear() it must be taken anew. Reading then
/// throws std::invalid_argument, as it does when the cache is gone.
template <gqa::Scalar T, Index G, Index D>
class LayerView {
  using State = LayeredState<T>;

 public:
  using Scalar = T;
  static constexpr Index static_num_kv_heads = G;
  static constexpr Index static_head_dim = D;

  LayerView(std::shared_ptr<const State> state, Index layer, Part part)
      : state_(std::move(state)),
        group_(&state_->group(layer)),
        layer_(layer),
        layer_of_group_(state_->place(layer).layer),
        part_(part),
        epoch_(state_->sequence().view_epoch()) {}

  Index num_seqs() const { return 1; }
  Index num_kv_heads() const { return group_->shape().num_kv_heads; }
  Index head_dim() const { return group_->shape().head_dim; }
  Index value_dim() const { return group_->shape().value_dim; }
  Index scratch_bytes() const {
    return part_ == Part::recent && group_->sinks() % simd::padding != 0 ? group_->blocks().loose_bytes() : 0;
  }

  Ranges retained(Index) const {
    check();
    const Ranges all = state_->retained(layer_);
    if (part_ == Part::all) return all;
    const Index end = all.hull().end, sinks = std::min(group_->sinks(), end);
    if (part_ == Part::sinks) return Range{0, sinks};
    return Range{std::max(sinks, all[all.size() - 1].begin), end};
  }

  KVTile tile(Index, Index kv_head, Range want, void* scratch) const {
    check();
    const Range tokens = tokens_of_block(want);
    const PackedBlock<T> block = group_->block_at(layer_of_group_, kv_head, want.begin / tile_keys);
    if (tokens.begin % simd::padding != 0) [[unlikely]]  // behind the sinks
      return group_->blocks().loose_tile(block, tokens, scratch);
    return group_->blocks().tile(block, tokens);
  }

 private:
  void check() const {
    if (epoch_ != state_->sequence().view_epoch()) [[unlikely]]
      refuse_view(state_->sequence().view_epoch(), layer_);
  }

  std::shared_ptr<const State> state_;
  const LayerGroup<T>* group_;
  Index layer_, layer_of_group_;
  Part part_;
  std::uint64_t epoch_;
};

}  // namespace gqa::detail
