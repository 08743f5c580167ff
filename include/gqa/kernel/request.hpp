// SPDX-License-Identifier: Apache-2.0
// What a caller asks for, behind pointers: all that is made of an argument where its type is known. What
// follows sees no argument's type, and is compiled once for each accumulator.
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "gqa/core/function_ref.hpp"
#include "gqa/core/tensor.hpp"
#include "gqa/kernel/mask_source.hpp"
#include "gqa/kernel/options.hpp"
#include "gqa/kv/view.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/score/sink_logits.hpp"

namespace gqa {

class HeadGrouping;

namespace detail {

/// Rows of a caller's tensor of any type: where they begin, and bytes between batches, tokens and heads.
struct StridedRows {
  std::byte* data = nullptr;
  Index batch_stride = 0, token_stride = 0, head_stride = 0;

  std::byte* at(Index batch, Index token, Index head) const {
    return data + batch * batch_stride + token * token_stride + head * head_stride;
  }
};
template <class View>
StridedRows strided_rows(const View& view) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view.data)>>;
  // Strides that overflow are those of sizes that do, which are refused before anything is followed.
  const auto bytes = [](Index stride) {
    return static_cast<Index>(static_cast<std::size_t>(stride) * sizeof(T));
  };
  return {reinterpret_cast<std::byte*>(const_cast<T*>(view.data)), bytes(view.batch_stride),
          bytes(view.token_stride), bytes(view.head_stride)};
}

/// The element type of a caller's rows, as far as those who read or write them need it.
template <class Acc>
struct RowType {
  const simd::ConvertKernels<Acc>& (*convert)(Isa) = nullptr;
  Index bytes = 0;  // of an element
  bool is_bf16 = false;
};
template <class Acc, Scalar T>
constexpr RowType<Acc> row_type() {
  constexpr bool same = std::is_same_v<Accumulator<T>, Acc>;
  static_assert(same, "gqa: double goes with double only: q, k, v and out are all double, or none is");
  if constexpr (same)
    return {simd::convert_kernels<T>, sizeof(T), std::is_same_v<T, bfloat16>};
  else
    return {};
}

/// A caller's tensor of any type.
template <class Acc>
struct TensorRows {
  Index batch = 0, tokens = 0, heads = 0, dim = 0;
  StridedRows rows;
  RowType<Acc> type;
};
template <class Acc, class T>
TensorRows<Acc> tensor_rows(const TensorView<T>& view) {
  return {view.batch, view.tokens,        view.heads,
          view.dim,   strided_rows(view), row_type<Acc, std::remove_const_t<T>>()};
}

/// The tokens of a call's queries: a batch of equal lengths, or packed sequences with offsets.
struct QueryBatch {
  Index batch = 0, num_tokens = 0, num_heads = 0, dim = 0;
  std::span<const Index> offsets = {};  // none: a batch

  Index num_seqs() const { return offsets.empty() ? batch : static_cast<Index>(offsets.size()) - 1; }
  Index tokens(Index seq) const { return offsets.empty() ? num_tokens : at(seq + 1) - at(seq); }
  Index batch_of(Index seq) const { return offsets.empty() ? seq : 0; }
  Index first_token(Index seq) const { return offsets.empty() ? 0 : at(seq); }

 private:
  Index at(Index seq) const { return offsets[static_cast<std::size_t>(seq)]; }
};

/// A score function behind pointers; null where there is none.
template <class Acc>
struct ScoreSource {
  const void* score = nullptr;
  void (*mod)(const void* score, std::span<Acc> scores, const ScoreRow& at) = nullptr;
  void (*check)(const void* score, const AttentionExtent& extent) = nullptr;  // null: nothing to check

  explicit operator bool() const { return mod != nullptr; }
  void operator()(std::span<Acc> scores, const ScoreRow& at) const { mod(score, scores, at); }
};
template <class Acc, ScoreMod S>
ScoreSource<Acc> score_source(const S& score) {
  ScoreSource<Acc> source{&score, [](const void* s, std::span<Acc> scores, const ScoreRow& at) {
                            static_cast<const S*>(s)->mod(scores, at);
                          }};
  if constexpr (requires(const AttentionExtent& extent) { score.check(extent); })
    source.check = [](const void* s, const AttentionExtent& extent) {
      static_cast<const S*>(s)->check(extent);
    };
  return source;
}

/// What a call is to compute. It refers to all that the caller brought.
template <class Acc>
struct Request {
  KVSource kv;
  QueryBatch batch;
  StridedRows q;
  RowType<Acc> q_type;
  Index num_q_heads = Dynamic, num_kv_heads = Dynamic;  // that q and k are to have
  MaskSource mask;
  ScoreSource<Acc> score;
  const SinkLogits* sinks = nullptr;       // none
  const HeadGrouping* grouping = nullptr;  // consecutive groups
  const AttentionOptions* options = nullptr;
  bool backward = false;
};

/// Where its results go, and what its rows begin with.
template <class Acc>
struct Results {
  TensorRows<Acc> out;
  const RowsView<Acc>* lse = nullptr;          // nowhere
  const OnlineSoftmax<Acc>* keep = nullptr;    // nowhere
  const OnlineSoftmax<Acc>* resume = nullptr;  // nothing
};

}  // namespace detail
}  // namespace gqa
