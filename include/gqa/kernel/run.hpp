// SPDX-License-Identifier: Apache-2.0
// From tensors and arguments to a checked call.
#pragma once

#include <cmath>

#include "gqa/core/ragged.hpp"
#include "gqa/kernel/arguments.hpp"
#include "gqa/kernel/attend.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/contiguous.hpp"
#include "gqa/kv/padded.hpp"
#include "gqa/kv/ragged.hpp"

namespace gqa::detail {

/// The static sizes that both sides give must agree; the compiler prints both with the failing assertion.
template <Index Given, Index OfTheView>
constexpr void check_static_kv_heads() {
  static_assert(
      Given == Dynamic || OfTheView == Dynamic || Given == OfTheView,
      "gqa: num_kv_heads of attention differs from num_kv_heads of the cache (see Given and OfTheView)");
}

template <class T>
TensorView<const T> read_only(const TensorView<T>& view) {
  return view;
}
template <class T>
TensorView<const T> read_only(const TensorView<const T>& view) {
  return view;
}

/// The queries of a call: a batch of equal lengths, or packed sequences with offsets.
template <class TQ>
struct QueryBatch {
  TensorView<const TQ> q;
  std::span<const Index> offsets = {};  // none: a batch

  Index num_seqs() const { return offsets.empty() ? q.batch : static_cast<Index>(offsets.size()) - 1; }
  Index tokens(Index seq) const { return offsets.empty() ? q.tokens : at(seq + 1) - at(seq); }
  Index batch(Index seq) const { return offsets.empty() ? seq : 0; }
  Index token(Index seq) const { return offsets.empty() ? 0 : at(seq); }

 private:
  Index at(Index seq) const { return offsets[static_cast<std::size_t>(seq)]; }
};

template <class X>
auto as_queries(const X& x) {
  if constexpr (RaggedLike<X>) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(x.tensor.data)>>;
    return QueryBatch<T>{read_only(x.tensor), x.offsets};
  } else {
    return QueryBatch<TensorScalar<const X>>{read_only(as_view(x))};
  }
}

/// Where the results of a call go, and the sequences of `q` in it.
template <class TQ, class TO, class Acc>
struct Rows {
  QueryBatch<TQ> q;
  TensorView<TO> out;
  RowsView<Acc> lse;

  SequenceQueries<TQ, TO, Acc> sequence(Index seq, Index first_position) const {
    return sequences(seq, q.tokens(seq), first_position);
  }
  /// `tokens` of them from the first of a sequence on, also those of the sequences behind it.
  SequenceQueries<TQ, TO, Acc> sequences(Index seq, Index tokens, Index first_position) const {
    const Index batch = q.batch(seq), token = q.token(seq);
    SequenceQueries<TQ, TO, Acc> s;
    s.tokens = tokens;
    s.first_position = first_position;
    s.first_row = batch * q.q.tokens + token;
    if (tokens == 0) return s;  // there may be no memory to point to
    s.q = q.q.at(batch, token, 0);
    s.q_token_stride = q.q.token_stride;
    s.q_head_stride = q.q.head_stride;
    if (out.data != nullptr) s.out = out.at(batch, token, 0);
    s.out_token_stride = out.token_stride;
    s.out_head_stride = out.head_stride;
    if (lse.data != nullptr) s.lse = lse.data + batch * lse.batch_stride + token * lse.token_stride;
    s.lse_token_stride = lse.token_stride;
    s.lse_head_stride = lse.head_stride;
    return s;
  }
};

/// Checks the rows that lse_into names.
template <class Acc>
void check_lse(const RowsView<Acc>& lse, Index batch, Index tokens, Index heads) {
  GQA_CHECK(lse.batch == batch && lse.tokens == tokens && lse.heads == heads, std::invalid_argument,
            "lse: sizes are " << lse.batch << " x " << lse.tokens << " x " << lse.heads << ", expected "
                              << batch << " x " << tokens << " x " << heads);
}

/// Checks the sizes of q, the output and lse against each other and a view's.
template <class View, class TQ, class TO, class Acc = Accumulator<typename View::Scalar>>
Rows<TQ, TO, Acc> check_rows(const QueryBatch<TQ>& queries, const View& view, const TensorView<TO>& out,
                             const std::optional<RowsView<Acc>>& lse) {
  const auto& q = queries.q;
  GQA_CHECK(q.dim == view.head_dim(), std::invalid_argument,
            "q: head_dim is " << q.dim << ", expected " << view.head_dim() << " as in k");
  GQA_CHECK(q.dim > 0, std::invalid_argument, "q: head_dim is 0, expected at least 1");
  GQA_CHECK(
      out.batch == q.batch && out.tokens == q.tokens && out.heads == q.heads && out.dim == view.value_dim(),
      std::invalid_argument,
      "out: sizes are " << out.batch << " x " << out.tokens << " x " << out.heads << " x " << out.dim
                        << ", expected " << q.batch << " x " << q.tokens << " x " << q.heads << " x "
                        << view.value_dim());
  if (lse) check_lse(*lse, q.batch, q.tokens, q.heads);
  return {queries, out, lse.value_or(RowsView<Acc>{})};
}

/// The head map: the caller's grouping, or consecutive groups where that is null.
template <Index H, Index G>
HeadTable head_table(Index num_q_heads, Index num_kv_heads, const HeadGrouping* grouping) {
  if (grouping == nullptr) {
    const Heads<H, G> heads(num_q_heads, num_kv_heads);
    return {heads.num_q_heads, heads.num_kv_heads, heads.group_size()};
  }
  GQA_CHECK(H == Dynamic || num_q_heads == H, std::invalid_argument,
            "q: heads is " << num_q_heads << ", expected " << H);
  GQA_CHECK(G == Dynamic || num_kv_heads == G, std::invalid_argument,
            "k: heads is " << num_kv_heads << ", expected " << G);
  GQA_CHECK(grouping->num_q_heads() == num_q_heads, std::invalid_argument,
            "HeadGrouping: query heads is " << grouping->num_q_heads() << ", expected " << num_q_heads
                                            << " as in q");
  GQA_CHECK(grouping->num_kv_heads() == num_kv_heads, std::invalid_argument,
            "HeadGrouping: KV heads is " << grouping->num_kv_heads() << ", expected " << num_kv_heads
                                         << " as in k");
  return grouping->table();
}

/// The scale in the type that multiplies by it.
template <class Acc>
Acc checked_scale(const AttentionOptions& options, Index head_dim) {
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim)));
  GQA_CHECK(std::abs(scale) <= static_cast<double>(std::numeric_limits<Acc>::max()), std::invalid_argument,
            "scale is " << scale << ", expected a finite number"
                        << (std::is_same_v<Acc, float> ? " as float" : ""));
  return static_cast<Acc>(scale);
}

/// The position of a sequence's first query: its q_offset, or what puts the last query on the last key.
inline Index first_position(const AttentionOptions& options, Index seq, Index tokens, Index kv_end) {
  if (!options.q_offset && options.q_offsets.empty()) return kv_end - tokens;
  const Index offset =
      options.q_offset ? *options.q_offset : options.q_offsets[static_cast<std::size_t>(seq)];
  GQA_CHECK(-max_position <= offset && offset <= max_position - tokens, std::invalid_argument,
            "q_offset is " << offset << ", expected " << -max_position << " to " << max_position - tokens);
  return offset;
}
inline void check_offsets_of(const AttentionOptions& options, Index num_seqs) {
  GQA_CHECK(!options.q_offset || options.q_offsets.empty(), std::invalid_argument,
            "q_offset and q_offsets: both given, expected one of them");
  GQA_CHECK(options.q_offsets.empty() || std::ssize(options.q_offsets) == num_seqs, std::invalid_argument,
            "q_offsets: size is " << options.q_offsets.size() << ", expected one for each of the " << num_seqs
                                  << " sequences");
}

/// Checks a call and passes it to `use`.
template <Index H, Index G, class TQ, KVView View, class TO, class Use, class E,
          class Acc = Accumulator<typename View::Scalar>>
auto with_call(const QueryBatch<TQ>& q, const View& view, const TensorView<TO>& out,
               const std::optional<RowsView<Acc>>& lse, const E& extras, Use&& use) {
  constexpr bool mixed = !std::is_same_v<Accumulator<TQ>, Acc> || !std::is_same_v<Accumulator<TO>, Acc>;
  static_assert(!mixed, "gqa: double goes with double only: q, k, v and out are all double, or none is");
  if constexpr (requires { View::static_num_kv_heads; })
    check_static_kv_heads<G, View::static_num_kv_heads>();
  if constexpr (!mixed) {
    const HeadTable heads = head_table<H, G>(q.q.heads, view.num_kv_heads(), extras.grouping);
    const auto rows = check_rows(q, view, out, lse);
    GQA_CHECK(q.num_seqs() == view.num_seqs(), std::invalid_argument,
              "q: batch is " << q.num_seqs() << ", expected " << view.num_seqs() << " as in k");

    const AttentionOptions& options = extras.options;
    check_offsets_of(options, q.num_seqs());
    const auto queries = [&](Index seq) {
      return rows.sequence(seq, first_position(options, seq, q.tokens(seq), view.retained(seq).end));
    };
    Attention<View, std::remove_cvref_t<decltype(extras.mask)>, std::remove_cvref_t<decltype(extras.score)>,
              decltype(queries)>
        call{view,
             queries,
             q.num_seqs(),
             heads,
             extras.mask,
             extras.score,
             checked_scale<Acc>(options, q.q.dim)};
    call.sinks = extras.sinks;
    check_extents(call);
    return use(call);
  }
}

template <Index H, Index G, ExecutorLike E, class TQ, KVView View, class TO, class... X>
void run_attention(E& executor, const QueryBatch<TQ>& q, const View& view, const TensorView<TO>& out,
                   const X&... arguments) {
  const auto extras = extras_of(arguments...);
  const auto lse = lse_rows<Accumulator<typename View::Scalar>>(extras);
  with_call<H, G>(q, view, out, lse, extras, [&](const auto& call) {
    Workspace own;
    decltype(auto) runner = as_executor(executor);
    attend(runner, call, extras.options.workspace == nullptr ? own : *extras.options.workspace);
  });
}

template <Index H, Index G, class E, class Q, KVView View, class... X>
Index needed_bytes(E& executor, const Q& q, const View& view, const X&... arguments) {
  const auto extras = extras_of(arguments...);
  static_assert(!decltype(extras)::has_lse,
                "gqa: workspace_bytes writes no lse, which lies in memory of yours: leave lse_into out");
  const auto queries = as_queries(q);
  // Only the sizes of the output count; nothing is written.
  const TensorView<std::remove_const_t<std::remove_pointer_t<decltype(queries.q.data)>>> out(
      nullptr, queries.q.batch, queries.q.tokens, queries.q.heads, view.value_dim());
  const std::optional<RowsView<Accumulator<typename View::Scalar>>> no_lse;
  return with_call<H, G>(queries, view, out, no_lse, extras, [&](const auto& call) {
    decltype(auto) runner = as_executor(executor);
    Workspace own;
    return call_bytes(call, runner.num_threads(),
                      extras.options.workspace == nullptr ? own : *extras.options.workspace);
  });
}

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
    return RaggedKV<T>(Ragged<const T>{read_only(k.tensor), k.offsets},
                       Ragged<const T>{read_only(v.tensor), v.offsets});
  } else {
    return ContiguousKV<T>(read_only(as_view(k)), read_only(as_view(v)));
  }
}

inline namespace GQA_EIGEN_MEMORY {

/// A new tensor of q's element type for the result: packed like a ragged q, else of q's rank and layout.
template <RowsLike Q>
auto make_result(const Q& q, Index value_dim) {
  using T = TensorScalar<decltype(packed(q))>;
  if constexpr (RaggedLike<Q>)
    return Tensor3<T>(q.tensor.tokens, q.tensor.heads, value_dim);
  else
    return make_output<T>(q, value_dim);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa::detail
