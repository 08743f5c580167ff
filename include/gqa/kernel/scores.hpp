// SPDX-License-Identifier: Apache-2.0
// Whole matrices of scores, at any step of their way to the probabilities.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "gqa/kernel/diagnosis.hpp"

namespace gqa {

/// A step of a score's way, to look at what it leaves. Each includes those before it; temperatures belong to
/// the scale.
enum class ScoresAfter { scale, soft_cap, bias, mask, softmax };

namespace detail {

/// Which scores a call is asked for, and where they go: batch x heads x queries x keys, packed.
template <class W>
struct ScoresOutput {
  ScoresAfter after;
  Index first_key = 0, num_keys = 0, num_tokens = 0;
  W* data = nullptr;

  W* row(Index seq, Index q_head, Index token, Index num_q_heads) const {
    return data + ((seq * num_q_heads + q_head) * num_tokens + token) * num_keys;
  }
};

/// Query tokens of one sequence that are multiplied with the keys of one KV head at once.
struct ScoresItem {
  Index seq, kv_head;
  Range tokens;
};

/// One thread's part: items -> tiles -> one product, then row by row.
template <class Call, class W>
class ScoresWorker {
 public:
  using T = typename Call::T;
  using Acc = typename Call::Acc;

  ScoresWorker(Arena& arena, const Call& call, const ProductKernels<T>& products,
               const ScoresOutput<W>& output, Index max_rows)
      : call_(call),
        products_(products),
        output_(output),
        q_stride_(round_up(call.head_dim(), simd::padding)),
        q_(arena.take<Acc>(checked_mul(max_rows, q_stride_, "workspace"))),
        tile_(arena.take<Acc>(checked_mul(max_rows, tile_stride, "workspace"))),
        rows_(arena.take<Acc>(checked_mul(max_rows, output.num_keys, "workspace"))),
        mask_memory_(arena.take<std::byte>(GroupMask<typename Call::MaskType>::bytes(call.heads.group_size))),
        chunk_(arena, call.head_dim(), call.view.value_dim(), call.view.scratch_bytes()) {}

  void run(const ScoresItem& item) {
    const auto queries = call_.queries(item.seq);
    const Index group = call_.heads.size(item.kv_head), num_rows = item.tokens.size() * group;
    if (group == 0) return;
    const GroupMask<typename Call::MaskType> mask(call_.mask, call_.heads, item.seq, item.kv_head,
                                                  queries.first_position, queries.position_shift,
                                                  mask_memory_);
    const Range retained = call_.view.retained(item.seq);
    pack_queries(queries, item, group);
    std::fill(rows_, rows_ + num_rows * output_.num_keys, -std::numeric_limits<Acc>::infinity());
    for (Index begin = round_down(retained.begin, tile_keys); begin < retained.end; begin += tile_keys) {
      const Range keys = intersect({begin, begin + tile_keys}, retained);
      multiply(item, keys, num_rows);
      for (Index row = 0; row < num_rows; ++row) {
        const Index q_pos = queries.first_position + item.tokens.begin + row / group;
        Acc* scores = tile_ + row * tile_stride;
        modify({scores, static_cast<std::size_t>(keys.size())},
               {item.seq, call_.heads.q_head(item.kv_head, row % group), q_pos, keys.begin,
                queries.first_position});
        std::uint64_t bits = ~std::uint64_t{0};
        if (output_.after >= ScoresAfter::mask)
          bits = mask.bits(mask.by_head() ? row % group : 0, q_pos, keys.begin, keys.size());
        Acc* to = rows_ + row * output_.num_keys + keys.begin - output_.first_key;
        for (Index j = 0; j < keys.size(); ++j)
          if ((bits >> j & 1) != 0) to[j] = scores[j];
      }
    }
    for (Index row = 0; row < num_rows; ++row)
      write(item.seq, call_.heads.q_head(item.kv_head, row % group), item.tokens.begin + row / group,
            rows_ + row * output_.num_keys);
  }

 private:
  // The last product of a tile may write a vector past its last key.
  static constexpr Index tile_stride = tile_keys + simd::padding;

  template <class Queries>
  void pack_queries(const Queries& queries, const ScoresItem& item, Index group) {
    using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q)>>;
    const auto convert = simd::convert_kernels<TQ>(isa());
    for (Index row = 0; row < item.tokens.size() * group; ++row)
      convert.widen(queries.q + (item.tokens.begin + row / group) * queries.q_token_stride +
                        call_.heads.q_head(item.kv_head, row % group) * queries.q_head_stride,
                    call_.head_dim(), Acc{1}, q_ + row * q_stride_);
  }

  void multiply(const ScoresItem& item, Range keys, Index num_rows) {
    chunk_.begin(keys.begin / chunk_keys);
    chunk_.read(call_.view, products_, item.seq, item.kv_head, keys, num_rows);
    const Index first_column = keys.begin % chunk_keys;
    for (auto* piece = chunk_.pieces_begin(); piece != chunk_.pieces_end(); ++piece)
      piece->k.product({q_, q_stride_, piece->k.at(0, 0), piece->k.stride,
                        tile_ + piece->column - first_column, tile_stride, num_rows, call_.head_dim(),
                        piece->size, false});
  }

  /// scale -> soft-cap -> bias, as far as is asked for.
  void modify(std::span<Acc> scores, const ScoreRow& at) const {
    for (Acc& s : scores) s *= call_.scale;
    const ScoreStage last = output_.after == ScoresAfter::scale      ? ScoreStage::scale
                            : output_.after == ScoresAfter::soft_cap ? ScoreStage::soft_cap
                                                                     : ScoreStage::bias;
    mod_until(call_.score, last, scores, at);
  }

  /// A finished row, after its softmax where that is asked for: in double, as looking is not for speed.
  void write(Index seq, Index q_head, Index token, const Acc* row) {
    W* to = output_.row(seq, q_head, token, call_.heads.num_q_heads);
    const Index n = output_.num_keys;
    if (output_.after != ScoresAfter::softmax) {
      for (Index j = 0; j < n; ++j) to[j] = static_cast<W>(row[j]);
      return;
    }
    constexpr double nothing = -std::numeric_limits<double>::infinity();
    const double sink = call_.sinks == nullptr ? nothing : (*call_.sinks)(q_head);
    double max = sink;
    for (Index j = 0; j < n; ++j) max = std::max(max, static_cast<double>(row[j]));
    if (max == nothing) max = 0;
    double sum = std::exp(sink - max);
    for (Index j = 0; j < n; ++j) sum += std::exp(static_cast<double>(row[j]) - max);
    for (Index j = 0; j < n; ++j) {
      const double p = std::exp(static_cast<double>(row[j]) - max);
      to[j] = static_cast<W>(p == 0 ? 0 : p / sum);  // a sum of NaN makes NaN of what is seen alone
    }
  }

  const Call& call_;
  const ProductKernels<T>& products_;
  const ScoresOutput<W>& output_;
  Index q_stride_;
  Acc* q_;
  Acc* tile_;
  Acc* rows_;
  std::byte* mask_memory_;
  Chunk<T> chunk_;
};

/// Runs the items on the executor: so many query rows at once as two register tiles have.
template <class E, class Call, class W>
void compute_scores(E& executor, const Call& call, const ScoresOutput<W>& output, Workspace& workspace) {
  const Index block_tokens = std::max<Index>(1, masked_run_rows / call.heads.group_size);
  const Index max_rows = block_tokens * call.heads.group_size;
  const Index blocks = ceil_div(output.num_tokens, block_tokens);
  const Index num_items =
      checked_mul(checked_mul(call.num_seqs, call.heads.num_kv_heads, "scores"), blocks, "scores");
  const Index num_workers =
      std::clamp<Index>(executor.num_threads(), 1, std::clamp<Index>(num_items, 1, most_threads));
  const ProductKernels<typename Call::T> products(isa(), false);
  Arena measure;
  ScoresWorker<Call, W>(measure, call, products, output, max_rows);
  std::byte* memory = workspace.reserve(checked_mul(measure.used(), num_workers, "workspace"));
  std::atomic<Index> next{0};
  const auto work = [&](Index index) {
    Arena own(memory + index * measure.used());
    ScoresWorker<Call, W> worker(own, call, products, output, max_rows);
    for (Index i = next++; i < num_items; i = next++) {
      const Index seq = i / (blocks * call.heads.num_kv_heads), block = i % blocks;
      const Index tokens = call.queries(seq).tokens;
      const Range mine = intersect({block * block_tokens, (block + 1) * block_tokens}, {0, tokens});
      if (!mine.empty()) worker.run({seq, i / blocks % call.heads.num_kv_heads, mine});
    }
  };
  if (num_workers == 1)
    work(0);
  else
    executor.parallel_for(num_workers, work);
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// The scores of a whole call after a step of their way, batch x heads x queries x keys (`qk_matmul_output`
/// of ONNX Attention): scale * <q, k>, then soft-capped, then biased, then -inf where the mask hides a key,
/// then the probabilities. A matrix as large as it sounds: attention_weights() looks at chosen rows. W is
/// float or double.
///
/// Arguments and conventions are those of attention(), without out and lse. Keys count from the first
/// position that any sequence retains, in padded batches from the tensors' first; rows and columns that a
/// shorter sequence lacks are -inf, and 0 after the softmax. What stands at a masked key before the mask is
/// computed like any other. Throws as attention() does.
template <class W = float, Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q,
          KVLike KV, detail::Extras... X>
Tensor4<W> attention_scores(E&& executor, const Q& q, const KV& kv, ScoresAfter after,
                            const X&... arguments) {
  static_assert(std::is_same_v<W, float> || std::is_same_v<W, double>, "gqa: scores are float or double");
  const auto extras = detail::extras_of(arguments...);
  static_assert(!std::remove_cvref_t<decltype(extras)>::has_lse,
                "gqa: attention_scores has no lse_into: attention() and attention_weights() write it");
  decltype(auto) view = as_kv_view(kv);
  using Acc = Accumulator<typename std::remove_cvref_t<decltype(view)>::Scalar>;
  const auto queries = detail::as_queries(q);
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q.data)>>;
  const TensorView<TQ> out(nullptr, queries.q.batch, queries.q.tokens, queries.q.heads, view.value_dim());
  const auto compute = [&](const auto& call) {
    detail::ScoresOutput<W> output{after};
    Range keys = {max_position, 0};
    for (Index seq = 0; seq < call.num_seqs; ++seq) {
      const Range r = call.view.retained(seq);
      output.num_tokens = std::max(output.num_tokens, queries.tokens(seq));
      if (!r.empty()) keys = {std::min(keys.begin, r.begin), std::max(keys.end, r.end)};
    }
    if constexpr (requires { call.view.padded_tokens(); }) keys = {0, call.view.padded_tokens()};
    output.first_key = keys.empty() ? 0 : keys.begin;
    output.num_keys = keys.size();
    const Index rows = checked_mul(checked_mul(call.num_seqs, call.heads.num_q_heads, "scores"),
                                   output.num_tokens, "scores");
    checked_mul(checked_mul(rows, output.num_keys, "scores"), sizeof(W), "scores");
    Tensor4<W> scores(call.num_seqs, call.heads.num_q_heads, output.num_tokens, output.num_keys);
    scores.setConstant(after == ScoresAfter::softmax ? W{0} : -std::numeric_limits<W>::infinity());
    output.data = scores.data();
    Workspace own;
    decltype(auto) runner = as_executor(executor);
    detail::compute_scores(runner, call, output,
                           extras.options.workspace == nullptr ? own : *extras.options.workspace);
    return scores;
  };
  return detail::with_call<H, G>(queries, view, out, std::optional<RowsView<Acc>>{}, extras, compute);
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RowsLike Q,
          detail::RowsLike K, detail::RowsLike V, detail::Extras... X>
auto attention_scores(E&& executor, const Q& q, const K& k, const V& v, ScoresAfter after,
                      const X&... arguments) {
  return attention_scores<W, H, G>(executor, q, detail::as_kv(k, v), after, arguments...);
}

/// The same on the calling thread.
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, KVLike KV,
          detail::Extras... X>
auto attention_scores(const Q& q, const KV& kv, ScoresAfter after, const X&... arguments) {
  return attention_scores<W, H, G>(Serial{}, q, kv, after, arguments...);
}
template <class W = float, Index H = Dynamic, Index G = Dynamic, detail::RowsLike Q, detail::RowsLike K,
          detail::RowsLike V, detail::Extras... X>
auto attention_scores(const Q& q, const K& k, const V& v, ScoresAfter after, const X&... arguments) {
  return attention_scores<W, H, G>(Serial{}, q, detail::as_kv(k, v), after, arguments...);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
