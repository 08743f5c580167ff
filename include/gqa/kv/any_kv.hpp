// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <memory>
#include <utility>

#include "gqa/kv/view.hpp"

namespace gqa {

/// A view of any kind that holds T: where views of different kinds go into one list, as the levels of a
/// cascade do, or which of them it is shows at run time only. Keeps a copy of the view; copies share it.
template <gqa::Scalar T>
class AnyKV {
 public:
  using Scalar = T;

  template <KVView View>
  requires(std::same_as<typename View::Scalar, T> && !std::same_as<View, AnyKV>) AnyKV(View view)
      : AnyKV(std::make_shared<const View>(std::move(view))) {}  // NOLINT: converts on purpose

  Index num_seqs() const { return source_.num_seqs; }
  Index num_kv_heads() const { return source_.num_kv_heads; }
  Index head_dim() const { return source_.head_dim; }
  Index value_dim() const { return source_.value_dim; }
  Index scratch_bytes() const { return source_.scratch_bytes; }
  Index padded_tokens() const { return source_.padded_tokens; }
  Ranges retained(Index seq) const { return source_.retained_of(source_.view, seq); }
  KVTile tile(Index seq, Index kv_head, Range want, void* scratch) const {
    return source_.tile_of(source_.view, seq, kv_head, want, scratch);
  }

 private:
  template <class View>
  explicit AnyKV(std::shared_ptr<const View> view)
      : source_(detail::source_of(*view)), view_(std::move(view)) {}

  detail::KVSource source_;
  std::shared_ptr<const void> view_;
};

}  // namespace gqa
