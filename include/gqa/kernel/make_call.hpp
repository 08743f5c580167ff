// SPDX-License-Identifier: Apache-2.0
// From tensors and arguments to a checked call.
#pragma once

#include <cmath>
#include <limits>
#include <optional>

#include "gqa/core/parallel.hpp"
#include "gqa/core/ragged.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/extras.hpp"
#include "gqa/kv/cache_concept.hpp"
#include "gqa/kv/contiguous.hpp"
#include "gqa/kv/kv_list.hpp"
#include "gqa/kv/padded.hpp"

namespace gqa::detail {

template <class X>
inline constexpr bool is_ragged_of_scalars = false;
template <class T>
inline constexpr bool is_ragged_of_scalars<Ragged<T>> = Scalar<std::remove_const_t<T>>;
template <class X>
concept RaggedOfScalars = is_ragged_of_scalars<std::remove_cvref_t<X>>;

/// What q may be, and what k and v may be.
template <class X>
concept RowsLike = ScalarTensor<X> || RaggedOfScalars<X>;

template <RowsLike X>
decltype(auto) packed(const X& x) {
  if constexpr (RaggedLike<X>)
    return (x.tensor);
  else
    return (x);
}
template <class X>
using RowsScalar = std::remove_const_t<TensorScalar<decltype(packed(std::declval<const X&>()))>>;

template <class T>
TensorView<const T> read_only(const TensorView<T>& view) {
  return view;
}
template <class T>
TensorView<const T> read_only(const TensorView<const T>& view) {
  return view;
}

/// Keys and values as a view: of tensors, or of packed sequences.
template <class K, class V>
auto as_kv(const K& k, const V& v) {
  static_assert(RaggedLike<K> == RaggedLike<V>, "gqa: k and v are both ragged, or neither");
  using T = TensorScalar<decltype(packed(k))>;
  constexpr bool same_type = std::is_same_v<T, TensorScalar<decltype(packed(v))>>;
  static_assert(same_type, "gqa: k and v hold the same type");
  if constexpr (RaggedLike<K> != RaggedLike<V> || !same_type) {
    return as_kv(k, k);  // the compiler has said enough
  } else if constexpr (RaggedLike<K>) {
    return ContiguousKV<T>(Ragged<const T>{read_only(k.tensor), k.offsets},
                           Ragged<const T>{read_only(v.tensor), v.offsets});
  } else {
    return ContiguousKV<T>(read_only(as_view(k)), read_only(as_view(v)));
  }
}

/// The static sizes that both sides give must agree; the compiler prints both with the failing assertion.
template <Index Given, Index OfTheView>
constexpr void check_static_kv_heads() {
  static_assert(
      Given == Dynamic || OfTheView == Dynamic || Given == OfTheView,
      "gqa: num_kv_heads of attention differs from num_kv_heads of the cache (see Given and OfTheView)");
}
template <Index G, KVView View>
constexpr void check_static_sizes() {
  if constexpr (requires { View::static_num_kv_heads; })
    check_static_kv_heads<G, View::static_num_kv_heads>();
}

/// The head map: the caller's grouping, or consecutive groups where that is null.
inline HeadTable grouped_heads(Index num_q_heads, Index num_kv_heads, const HeadGrouping& grouping, Index H,
                               Index G) {
  GQA_CHECK(H == Dynamic || num_q_heads == H, std::invalid_argument,
            "q: heads is " << num_q_heads << ", expected " << H);
  GQA_CHECK(G == Dynamic || num_kv_heads == G, std::invalid_argument,
            "k: heads is " << num_kv_heads << ", expected " << G);
  GQA_CHECK(grouping.num_q_heads() == num_q_heads, std::invalid_argument,
            "HeadGrouping: query heads is " << grouping.num_q_heads() << ", expected " << num_q_heads
                                            << " as in q");
  GQA_CHECK(
      grouping.num_kv_heads() == num_kv_heads, std::invalid_argument,
      "HeadGrouping: KV heads is " << grouping.num_kv_heads() << ", expected " << num_kv_heads << " as in k");
  return grouping.table();
}
template <Index H, Index G>
HeadTable head_table(Index num_q_heads, Index num_kv_heads, const HeadGrouping* grouping) {
  if (grouping != nullptr) return grouped_heads(num_q_heads, num_kv_heads, *grouping, H, G);
  const Heads<H, G> heads(num_q_heads, num_kv_heads);
  return {heads.num_q_heads, heads.num_kv_heads, heads.group_size()};
}

/// The scale in the type that multiplies by it.
template <class Acc>
ScoreScale<Acc> checked_scale(const AttentionOptions& options, Index head_dim) {
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim)));
  GQA_CHECK(std::abs(scale) <= static_cast<double>(std::numeric_limits<Acc>::max()), std::invalid_argument,
            "scale is " << scale << ", expected a finite number"
                        << (std::is_same_v<Acc, float> ? " as float" : ""));
  return ScoreScale<Acc>(static_cast<Acc>(scale));
}

/// How the work is cut, if that is said.
inline const Tuning& checked_tuning(const AttentionOptions& options) {
  const Tuning& given = options.tuning;
  const auto check = [](const char* name, Index value) {
    GQA_CHECK(value >= 0 && value <= tuning::most_tuning, std::invalid_argument,
              "tuning: " << name << " is " << value << ", expected 0 to " << tuning::most_tuning);
  };
  check("threads", given.threads);
  check("block_rows", given.block_rows);
  check("task_rows", given.task_rows);
  check("tasks_per_thread", given.tasks_per_thread);
  return given;
}
/// Of calls that cut their work otherwise.
inline void refuse_tuning(const AttentionOptions& options, const char* call) {
  GQA_CHECK(options.tuning == Tuning{}, std::invalid_argument,
            "tuning: given, expected none: " << call << " cuts its work in its own way");
}

/// Where the queries of each sequence begin, if that is said.
inline std::span<const Index> checked_q_offsets(const AttentionOptions& options, const QueryBatch& batch) {
  GQA_CHECK(!options.q_offset || options.q_offsets.empty(), std::invalid_argument,
            "q_offset and q_offsets: both given, expected one of them");
  GQA_CHECK(options.q_offsets.empty() || std::ssize(options.q_offsets) == batch.num_seqs(),
            std::invalid_argument,
            "q_offsets: size is " << options.q_offsets.size() << ", expected one for each of the "
                                  << batch.num_seqs() << " sequences");
  if (!options.q_offset && options.q_offsets.empty()) return {};
  for (Index seq = 0; seq < batch.num_seqs(); ++seq) {
    const Index tokens = batch.tokens(seq);
    const Index offset =
        options.q_offset ? *options.q_offset : options.q_offsets[static_cast<std::size_t>(seq)];
    GQA_CHECK(-max_position <= offset && offset <= max_position - tokens, std::invalid_argument,
              "q_offset is " << offset << ", expected " << -max_position << " to " << max_position - tokens);
  }
  return options.q_offset ? std::span<const Index>(&*options.q_offset, 1) : options.q_offsets;
}

template <RowsLike Q>
QueryBatch query_batch(const Q& q) {
  const auto view = as_view(packed(q));
  QueryBatch batch{view.batch, view.tokens, view.heads, view.dim};
  if constexpr (RaggedLike<Q>) batch.offsets = q.offsets;
  return batch;
}

/// Checks the sizes of q against those of a view.
inline void check_head_dim(const QueryBatch& q, const KVSource& kv) {
  GQA_CHECK(q.dim == kv.head_dim, std::invalid_argument,
            "q: head_dim is " << q.dim << ", expected " << kv.head_dim << " as in k");
  GQA_CHECK(q.dim > 0, std::invalid_argument, "q: head_dim is 0, expected at least 1");
}
inline void check_batch(const QueryBatch& q, const KVSource& kv) {
  GQA_CHECK(q.num_seqs() == kv.num_seqs, std::invalid_argument,
            "q: batch is " << q.num_seqs() << ", expected " << kv.num_seqs << " as in k");
}

/// Checks the rows that lse_into names.
template <class Acc>
StridedRows checked_lse(const RowsView<Acc>& lse, Index batch, Index tokens, Index heads) {
  GQA_CHECK(lse.batch == batch && lse.tokens == tokens && lse.heads == heads, std::invalid_argument,
            "lse: sizes are " << lse.batch << " x " << lse.tokens << " x " << lse.heads << ", expected "
                              << batch << " x " << tokens << " x " << heads);
  return strided_rows(lse);
}

template <class Acc>
RowState<Acc> checked_state(const OnlineSoftmax<Acc>* state, const char* name, const Call<Acc>& call) {
  if (state == nullptr) return {};
  const Index rows =
      checked_mul(checked_mul(call.batch.batch, call.batch.num_tokens, name), call.batch.num_heads, name);
  GQA_CHECK(state->rows() == rows && state->dim() == call.kv.value_dim, std::invalid_argument,
            name << ": the state is " << state->rows() << " x " << state->dim() << ", expected " << rows
                 << " x " << call.kv.value_dim);
  return state->state();
}

/// The output of a call, checked.
template <class Acc, class TO>
void set_output(Call<Acc>& call, const TensorView<TO>& out) {
  static_assert(std::is_same_v<Accumulator<TO>, Acc>,
                "gqa: double goes with double only: q, k, v and out are all double, or none is");
  const QueryBatch& q = call.batch;
  GQA_CHECK(out.batch == q.batch && out.tokens == q.num_tokens && out.heads == q.num_heads &&
                out.dim == call.kv.value_dim,
            std::invalid_argument,
            "out: sizes are " << out.batch << " x " << out.tokens << " x " << out.heads << " x " << out.dim
                              << ", expected " << q.batch << " x " << q.num_tokens << " x " << q.num_heads
                              << " x " << call.kv.value_dim);
  call.out = strided_rows(out);
  if constexpr (std::is_same_v<Accumulator<TO>, Acc>) call.out_format = row_format<TO, Acc>();
}

/// A call of queries `q` on `view` as far as tensors and extras say it, checked but for its output, lse and
/// extents. It refers to all of them.
template <Index H, Index G, bool Backward = false, RowsLike Q, KVView View, class E>
auto begin_call(const Q& q, const View& view, const E& extras) {
  static_assert(Backward || !E::has_gradients,
                "gqa: sink_gradient_into and score_gradient_into belong to attention_backward");
  using Acc = Accumulator<typename View::Scalar>;
  using TQ = RowsScalar<Q>;
  constexpr bool mixed = !std::is_same_v<Accumulator<TQ>, Acc>;
  static_assert(!mixed, "gqa: double goes with double only: q, k, v and out are all double, or none is");
  check_static_sizes<G, View>();
  Call<Acc> call;
  call.kv = source_of(view);
  call.batch = query_batch(q);
  call.num_seqs = call.batch.num_seqs();
  call.heads = head_table<H, G>(call.batch.num_heads, call.kv.num_kv_heads, extras.grouping);
  call.mask = source_of(extras.mask);
  using Score = std::remove_cvref_t<decltype(extras.score)>;
  if constexpr (!std::is_same_v<Score, ScoreChain<>>)
    call.score = {&extras.score, [](const void* score, std::span<Acc> scores, const ScoreRow& at) {
                    static_cast<const Score*>(score)->mod(scores, at);
                  }};
  check_head_dim(call.batch, call.kv);
  call.scale = checked_scale<Acc>(extras.options, call.batch.dim);
  if (Backward)
    refuse_tuning(extras.options, "attention_backward");
  else
    call.tuning = checked_tuning(extras.options);
  call.sinks = extras.sinks;
  call.q = strided_rows(as_view(packed(q)));
  if constexpr (!mixed) call.q_format = row_format<TQ, Acc>();
  return call;
}

/// Lets the mask, the score function and the sinks refuse sequences they have no answer for, or parameters
/// that the type of the scores does not hold. `keys(seq)` is where the keys of a sequence are, `queries(seq,
/// end)` where its queries, of keys that end there.
template <class Acc, class E>
void check_extents(const Call<Acc>& call, const E& extras, FunctionRef<Range(Index)> keys,
                   FunctionRef<Range(Index, Index)> queries) {
  AttentionExtent extent{.num_seqs = call.num_seqs,
                         .num_q_heads = call.heads.num_q_heads,
                         .in_double = std::is_same_v<Acc, double>,
                         .most_kv_tokens = call.kv.padded_tokens};
  for (Index seq = 0; seq < call.num_seqs; ++seq) {
    extent.most_kv_tokens = std::max(extent.most_kv_tokens, keys(seq).end);
    extent.most_q_tokens = std::max(extent.most_q_tokens, call.batch.tokens(seq));
  }
  for (Index seq = 0; seq < call.num_seqs; ++seq) {
    extent.kv = keys(seq);
    extent.q = queries(seq, extent.kv.end);
    check_mask(extras.mask, extent);
    if constexpr (requires { extras.score.check(extent); }) extras.score.check(extent);
    if (extras.sinks != nullptr) extras.sinks->check(extent);
  }
}
template <class Acc, class E>
void check_extents(const Call<Acc>& call, const E& extras) {
  check_extents(
      call, extras, [&](Index seq) { return call.kv.retained(seq).hull(); },
      [&](Index seq, Index end) { return call.queries(seq, end).positions(); });
}

/// The same for queries at the end of each sequence, or where options say; without an output.
template <Index H, Index G, RowsLike Q, KVView View, class E>
auto make_call(const Q& q, const View& view, const E& extras) {
  auto call = begin_call<H, G>(q, view, extras);
  check_batch(call.batch, call.kv);
  call.q_offsets = checked_q_offsets(extras.options, call.batch);
  check_extents(call, extras);
  return call;
}

/// With one.
template <Index H, Index G, RowsLike Q, KVView View, class TO, class E>
auto make_call(const Q& q, const View& view, const TensorView<TO>& out, const E& extras) {
  using Acc = Accumulator<typename View::Scalar>;
  auto call = begin_call<H, G>(q, view, extras);
  check_batch(call.batch, call.kv);
  set_output(call, out);
  if (const auto lse = lse_rows<Acc>(extras))
    call.lse = checked_lse(*lse, call.batch.batch, call.batch.num_tokens, call.batch.num_heads);
  call.keep = checked_state<Acc>(given_state<Acc>(extras.state), "state_into", call);
  call.resume = checked_state<Acc>(given_state<Acc>(extras.resumed), "resume", call);
  call.q_offsets = checked_q_offsets(extras.options, call.batch);
  check_extents(call, extras);
  return call;
}

/// Calls `use(workspace)` with the one that options name, or one of its own.
template <class Use>
decltype(auto) with_workspace(const AttentionOptions& options, Use&& use) {
  if (options.workspace != nullptr) return use(*options.workspace);
  Workspace own;
  return use(own);
}

inline namespace GQA_EIGEN_MEMORY {

/// A new tensor of q's element type for the result: packed like a ragged q, else of q's rank and layout.
template <RowsLike Q>
auto make_result(const Q& q, Index value_dim) {
  using T = RowsScalar<Q>;
  if constexpr (RaggedLike<Q>)
    return Tensor3<T>(q.tensor.tokens, q.tensor.heads, value_dim);
  else
    return make_output<T>(q, value_dim);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa::detail
