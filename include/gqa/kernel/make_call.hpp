// SPDX-License-Identifier: Apache-2.0
// From what a caller asks for to a checked call.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gqa/kernel/attend.hpp"
#include "gqa/kernel/call.hpp"
#include "gqa/kernel/make_request.hpp"

namespace gqa::detail {

/// Of calls that cut their work otherwise.
inline void refuse_tuning(const AttentionOptions& options, const char* call) {
  GQA_CHECK(options.tuning == Tuning{}, std::invalid_argument,
            "tuning: given, expected none: " << call << " cuts its work in its own way");
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

/// The head map: the caller's grouping, or consecutive groups where that is null. H and G are what q and k
/// are to have.
inline HeadTable head_table(Index num_q_heads, Index num_kv_heads, const HeadGrouping* grouping, Index H,
                            Index G) {
  GQA_CHECK(H == Dynamic || num_q_heads == H, std::invalid_argument,
            "q: heads is " << num_q_heads << ", expected " << H);
  GQA_CHECK(G == Dynamic || num_kv_heads == G, std::invalid_argument,
            "k: heads is " << num_kv_heads << ", expected " << G);
  if (grouping == nullptr) {
    const Heads<> heads(num_q_heads, num_kv_heads);
    return {heads.num_q_heads, heads.num_kv_heads, heads.group_size()};
  }
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
ScoreScale<Acc> checked_scale(const AttentionOptions& options, Index head_dim) {
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(head_dim)));
  GQA_CHECK(std::abs(scale) <= static_cast<double>(std::numeric_limits<Acc>::max()), std::invalid_argument,
            "scale is " << scale << ", expected a finite number"
                        << (std::is_same_v<Acc, float> ? " as float" : ""));
  return ScoreScale<Acc>(static_cast<Acc>(scale));
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
template <class Acc>
void set_output(Call<Acc>& call, const TensorRows<Acc>& out) {
  const QueryBatch& q = call.batch;
  GQA_CHECK(out.batch == q.batch && out.tokens == q.num_tokens && out.heads == q.num_heads &&
                out.dim == call.kv.value_dim,
            std::invalid_argument,
            "out: sizes are " << out.batch << " x " << out.tokens << " x " << out.heads << " x " << out.dim
                              << ", expected " << q.batch << " x " << q.num_tokens << " x " << q.num_heads
                              << " x " << call.kv.value_dim);
  call.out = out.rows;
  call.out_format = row_format(out.type);
}

/// A call as far as tensors and extras say it, checked but for its output, lse and extents.
template <class Acc>
Call<Acc> begin_call(const Request<Acc>& request) {
  Call<Acc> call;
  call.kv = request.kv;
  call.batch = request.batch;
  call.num_seqs = call.batch.num_seqs();
  call.heads = head_table(call.batch.num_heads, call.kv.num_kv_heads, request.grouping, request.num_q_heads,
                          request.num_kv_heads);
  call.mask = request.mask;
  call.score = request.score;
  check_head_dim(call.batch, call.kv);
  call.scale = checked_scale<Acc>(*request.options, call.batch.dim);
  if (request.backward)
    refuse_tuning(*request.options, "attention_backward");
  else
    call.tuning = checked_tuning(*request.options);
  call.sinks = request.sinks;
  call.q = request.q;
  call.q_format = row_format(request.q_type);
  return call;
}

/// Lets the mask, the score function and the sinks refuse sequences they have no answer for, or parameters
/// that the type of the scores does not hold. `keys(seq)` is where the keys of a sequence are, `queries(seq,
/// end)` where its queries, of keys that end there.
template <class Acc>
void check_extents(const Call<Acc>& call, FunctionRef<Range(Index)> keys,
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
    if (call.mask.calls->check != nullptr) call.mask.calls->check(call.mask.mask, extent);
    if (call.score.check != nullptr) call.score.check(call.score.score, extent);
    if (call.sinks != nullptr) call.sinks->check(extent);
  }
}
template <class Acc>
void check_extents(const Call<Acc>& call) {
  check_extents<Acc>(
      call, [&](Index seq) { return call.kv.retained(seq).hull(); },
      [&](Index seq, Index end) { return call.queries(seq, end).positions(); });
}

/// A call without an output: queries at the end of each sequence, or where options say.
template <class Acc>
Call<Acc> checked_call(const Request<Acc>& request) {
  Call<Acc> call = begin_call(request);
  check_batch(call.batch, call.kv);
  call.q_offsets = checked_q_offsets(*request.options, call.batch);
  check_extents(call);
  return call;
}

/// With one.
template <class Acc>
Call<Acc> checked_call(const Request<Acc>& request, const Results<Acc>& results) {
  Call<Acc> call = begin_call(request);
  check_batch(call.batch, call.kv);
  set_output(call, results.out);
  if (results.lse != nullptr)
    call.lse = checked_lse(*results.lse, call.batch.batch, call.batch.num_tokens, call.batch.num_heads);
  call.keep = checked_state(results.keep, "state_into", call);
  call.resume = checked_state(results.resume, "resume", call);
  call.q_offsets = checked_q_offsets(*request.options, call.batch);
  check_extents(call);
  return call;
}

/// A call without an output of queries `q` on `view`.
template <Index H, Index G, RowsLike Q, KVView View, class E>
auto make_call(const Q& q, const View& view, const E& extras) {
  return checked_call(request_of<H, G>(q, view, extras));
}

/// Calls `use(workspace)` with the one that options name, or one of its own.
template <class Use>
decltype(auto) with_workspace(const AttentionOptions& options, Use&& use) {
  if (options.workspace != nullptr) return use(*options.workspace);
  Workspace own;
  return use(own);
}

}  // namespace gqa::detail
