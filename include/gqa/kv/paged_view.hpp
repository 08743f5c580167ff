// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "gqa/kv/paged_state.hpp"

namespace gqa {

/// One layer of one sequence of a paged cache, for attention to read, as far as it has been written. It sees
/// the sequence grow; reading throws std::invalid_argument when the sequence was freed, and while it is
/// swapped out.
template <gqa::Scalar T, Index G = Dynamic, Index D = Dynamic>
class PagedView {
 public:
  using Scalar = T;
  static constexpr Index static_num_kv_heads = G;
  static constexpr Index static_head_dim = D;

  PagedView(std::shared_ptr<const detail::PagedState<T>> state,
            std::shared_ptr<const detail::PagedSequenceState<T>> sequence, Index layer)
      : state_(std::move(state)),
        sequence_(std::move(sequence)),
        layer_(layer),
        epoch_(sequence_->sequence.view_epoch()) {}

  Index num_seqs() const { return 1; }
  Index num_kv_heads() const { return state_->pool.shape().num_kv_heads; }
  Index head_dim() const { return state_->pool.shape().head_dim; }
  Index value_dim() const { return state_->pool.shape().value_dim; }
  Index scratch_bytes() const { return 0; }

  Range retained(Index) const {
    check();
    return {0, sequence_->sequence.written(layer_)};
  }
  KVTile tile(Index, Index kv_head, Range want, void*) const {
    check();
    return state_->tile(*sequence_, layer_, kv_head, want);
  }

 private:
  void check() const {
    if (epoch_ != sequence_->sequence.view_epoch() || sequence_->swapped_out) [[unlikely]]
      refuse();
  }
  [[noreturn, gnu::noinline, gnu::cold]] void refuse() const {
    const std::uint64_t now = sequence_->sequence.view_epoch();
    GQA_CHECK(false, std::invalid_argument,
              "view: sequence " << sequence_->id.value << " was "
                                << (now == 0        ? "freed"
                                    : now == epoch_ ? "swapped out"
                                                    : "cleared")
                                << " after the view of layer " << layer_ << " was taken");
  }

  std::shared_ptr<const detail::PagedState<T>> state_;
  std::shared_ptr<const detail::PagedSequenceState<T>> sequence_;
  Index layer_;
  std::uint64_t epoch_;
};

}  // namespace gqa
