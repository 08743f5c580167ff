// SPDX-License-Identifier: Apache-2.0
// One thread's part of a call of backward: slices of queries -> steps of keys -> blocks of rows -> five
// products.
#pragma once

#include <algorithm>
#include <cmath>

#include "gqa/core/rounded.hpp"
#include "gqa/kernel/backward_block.hpp"

namespace gqa::detail {

/// Gradients of the keys of one sequence and head, summed up by one slice of queries: a step after the other
/// from `first` on, dk then dv, where the slice has seen something of it.
template <class Acc>
struct KeyGradients {
  Acc* steps = nullptr;
  bool* seen = nullptr;
  Index first = 0, step_size = 0;

  Acc* dk(Index step) const { return steps + (step - first) * step_size; }
};

/// What an item is to do besides writing dq: keep the gradients of its keys, or write them where it has all
/// their queries; and sum up those of parameters, which may be nowhere.
template <class Acc>
struct BackwardTarget {
  KeyGradients<Acc> keep;
  ParameterSums score_sums;
  double* sink_sums = nullptr;
};

/// Writes rows of dk and dv of one sequence and KV head, in ascending order and zeros between them.
template <class Acc>
class KeyGradientWriter {
 public:
  KeyGradientWriter(const BackwardCall<Acc>& call, Index seq, Index kv_head)
      : call_(call), seq_(seq), kv_head_(kv_head), first_(call.first_kv_position(seq)) {}

  /// A step from position `begin` on, as far as there are rows for it.
  void write(Index begin, const PackedRows<Acc>& dk, const PackedRows<Acc>& dv) {
    const Index from = std::max(begin, first_);
    const Index end = std::min(begin + tuning::backward_keys, first_ + call_.kv_rows(seq_));
    clear_until(from - first_);
    for (Index j = from - begin; j < end - begin; ++j, ++next_) {
      narrow(call_.dk_format, call_.dk, dk.row(j), call_.forward.kv.head_dim, call_.forward.scale.size);
      narrow(call_.dv_format, call_.dv, dv.row(j), call_.forward.kv.value_dim, 1);
    }
  }
  void finish() { clear_until(call_.kv_rows(seq_)); }

 private:
  void clear_until(Index row) {
    for (; next_ < row; ++next_) {
      clear(call_.dk_format, call_.dk, call_.forward.kv.head_dim);
      clear(call_.dv_format, call_.dv, call_.forward.kv.value_dim);
    }
  }
  void narrow(const RowFormat<Acc>& format, const StridedRows& to, const Acc* row, Index dim,
              Acc factor) const {
    format.convert->narrow(row, dim, factor, call_.kv_row(to, seq_, kv_head_, next_));
  }
  void clear(const RowFormat<Acc>& format, const StridedRows& to, Index dim) const {
    std::byte* row = call_.kv_row(to, seq_, kv_head_, next_);
    std::fill(row, row + dim * format.bytes, std::byte{});
  }

  const BackwardCall<Acc>& call_;
  Index seq_, kv_head_, first_;
  Index next_ = 0;  // the first row that is not written
};

template <class Acc>
class BackwardWorker {
 public:
  BackwardWorker(Arena& arena, const BackwardCall<Acc>& call, const CallKernels<Acc>& kernels, Index max_rows)
      : call_(call),
        kernels_(kernels),
        gradients_(simd::gradient_kernels<Acc>(kernels.set)),
        block_rows_(std::min(
            std::max(tuning::backward_rows(call.forward.kv.head_dim, call.forward.kv.value_dim, sizeof(Acc)),
                     call.forward.heads.group_size),
            max_rows)),
        rows_{.q = {arena, max_rows, call.forward.kv.head_dim},
              .d_out = {arena, max_rows, call.forward.kv.value_dim},
              .dq = {arena, max_rows, call.forward.kv.head_dim}},
        lse_(arena.take<Acc>(max_rows)),
        delta_(arena.take<Acc>(max_rows)),
        finite_(arena.take<bool>(max_rows)),
        out_(arena, 1, call.forward.kv.value_dim),
        dk_(arena, tuning::backward_keys, call.forward.kv.head_dim),
        dv_(arena, tuning::backward_keys, call.forward.kv.value_dim),
        mask_memory_(arena.take<std::byte>(call.forward.mask.bytes(call.forward.heads.group_size))),
        keys_(arena, call.forward.kv, kernels),
        block_(arena, call, kernels, block_rows_) {
    rows_.lse = lse_;
    rows_.delta = delta_;
  }

  void run(const WorkItem& work, const BackwardTarget<Acc>& target) {
    KeyGradientWriter<Acc> writer(call_, work.seq, work.kv_head);
    if (call_.forward.heads.size(work.kv_head) == 0) return writer.finish();
    const Item<Acc> item(call_.forward, work, mask_memory_);
    for_blocks(item, [&](const Block& block) { pack(item, block, target.sink_sums); });
    for (Index begin = next_step(item, work.kv.begin); begin < work.kv.end;
         begin = next_step(item, begin + tuning::backward_keys)) {
      const bool any = step(item, begin, target);
      if (target.keep.steps == nullptr) {
        if (any) writer.write(begin, dk_, dv_);
        continue;
      }
      const Index number = begin / tuning::backward_keys;
      target.keep.seen[number - target.keep.first] = any;
      if (!any) continue;
      Acc* kept = target.keep.dk(number);
      std::copy_n(dk_.data, tuning::backward_keys * dk_.stride, kept);
      std::copy_n(dv_.data, tuning::backward_keys * dv_.stride, kept + tuning::backward_keys * dk_.stride);
    }
    if (target.keep.steps == nullptr) writer.finish();
    for_blocks(item, [&](const Block& block) { write_queries(item, block); });
  }

 private:
  template <class F>
  void for_blocks(const Item<Acc>& item, F&& f) const {
    item.for_blocks(block_rows_, f);
  }

  /// The first step from position `from` on of which a query of the item may see something; the end of the
  /// keys where there is none.
  Index next_step(const Item<Acc>& item, Index from) const {
    const Index seen = item.next_seen(from);
    return seen == item.nothing_seen ? item.kv.end : round_down(seen, tuning::backward_keys);
  }

  /// One step of keys against all blocks of the item: its dk_ and dv_, and what it adds to dq. False where
  /// nobody sees anything.
  bool step(const Item<Acc>& item, Index begin, const BackwardTarget<Acc>& target) {
    const Ranges retained = intersect(item.retained, {begin, begin + tuning::backward_keys});
    const Range q = item.positions();
    bool any = false;
    for (Index t = 0; t < tuning::backward_tiles; ++t) {
      const Index first = begin + t * tile_keys;
      const Range keys = intersect(retained, {first, first + tile_keys}).hull();
      if (keys.empty() || item.mask.coverage(q, keys) == Coverage::none) continue;
      keys_.read(item.seq, item.kv_head, t, first, retained);
      any = true;
    }
    if (!any) return false;
    any = false;
    for_blocks(item, [&](const Block& block) {
      if (!block_.look(item, block, begin, retained)) return;
      if (!any) {
        std::fill_n(dk_.data, tuning::backward_keys * dk_.stride, Acc{0});
        std::fill_n(dv_.data, tuning::backward_keys * dv_.stride, Acc{0});
      }
      any = true;
      BackwardRows<Acc> rows = rows_.from(block.first_row);
      rows.finite = finite_[block.first_row];
      block_.add(item, block, rows, keys_, dk_, dv_, target.score_sums);
    });
    return any;
  }

  /// The rows of a block as the products read them, with the sign of the scale in q; and what each row's
  /// gradients have in common, delta = sum_j p_j dp_j = <d_out, out>.
  void pack(const Item<Acc>& item, const Block& block, double* sink_sums) {
    const Call<Acc>& call = call_.forward;
    const Index head_dim = call.kv.head_dim, value_dim = call.kv.value_dim;
    const auto widen = [](const RowFormat<Acc>& format, const std::byte* from, Index dim, Acc factor, Acc* to,
                          Index stride) {
      format.convert->widen(from, dim, factor, to);
      std::fill(to + dim, to + stride, Acc{0});
    };
    for (Index row = block.first_row; row < block.first_row + block.rows; ++row) {
      const Index token = item.token(row), q_head = item.q_head(row);
      widen(call.q_format, item.queries.q.at(0, token, q_head), head_dim, call.scale.sign, rows_.q.row(row),
            rows_.q.stride);
      widen(call_.d_out_format, d_out(item).at(0, token, q_head), value_dim, 1, rows_.d_out.row(row),
            rows_.d_out.stride);
      widen(call.out_format, item.queries.out.at(0, token, q_head), value_dim, 1, out_.row(0), out_.stride);
      lse_[row] = *reinterpret_cast<const Acc*>(item.queries.lse.at(0, token, q_head));
      delta_[row] = gradients_.dot(rows_.d_out.row(row), out_.row(0), value_dim);
      if (sink_sums != nullptr) add_sink(row, q_head, sink_sums);
    }
    Acc* dq = rows_.dq.row(block.first_row);
    std::fill_n(dq, block.rows * rows_.dq.stride, Acc{0});
    const auto all_finite = [&](const PackedRows<Acc>& rows) {
      return kernels_.wide.all_finite(rows.row(block.first_row), rows.stride, block.rows, rows.stride);
    };
    finite_[block.first_row] = all_finite(rows_.q) && all_finite(rows_.d_out);
  }

  /// d_sink = p_sink (0 - delta): a sink is a key whose value is 0. A row that sees nothing else has no loss,
  /// whatever its d_out.
  void add_sink(Index row, Index q_head, double* sums) const {
    const double sink = (*call_.forward.sinks)(q_head);
    if (std::isinf(sink) || gradients_.dot(out_.row(0), out_.row(0), out_.stride) == Acc{0}) return;
    sums[q_head] -=
        rounded(std::exp(sink - static_cast<double>(lse_[row])) * static_cast<double>(delta_[row]));
  }

  void write_queries(const Item<Acc>& item, const Block& block) const {
    const ScoreScale<Acc>& scale = call_.forward.scale;
    const StridedRows to = of_sequence(call_.dq, item.seq);
    for (Index row = block.first_row; row < block.first_row + block.rows; ++row)
      call_.dq_format.convert->narrow(rows_.dq.row(row), call_.forward.kv.head_dim, scale.sign * scale.size,
                                      to.at(0, item.token(row), item.q_head(row)));
  }

  StridedRows d_out(const Item<Acc>& item) const { return of_sequence(call_.d_out, item.seq); }
  /// Rows of the queries of one sequence, which has some.
  StridedRows of_sequence(StridedRows rows, Index seq) const {
    const QueryBatch& batch = call_.forward.batch;
    rows.data = rows.at(batch.batch_of(seq), batch.first_token(seq), 0);
    return rows;
  }

  const BackwardCall<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  const simd::GradientKernels<Acc>& gradients_;
  Index block_rows_;
  BackwardRows<Acc> rows_;
  Acc* lse_;
  Acc* delta_;
  bool* finite_;  // of a block, at its first row
  PackedRows<Acc> out_;
  PackedRows<Acc> dk_, dv_;  // of the step's keys
  std::byte* mask_memory_;
  BackwardKeys<Acc> keys_;
  BackwardBlock<Acc> block_;
};

}  // namespace gqa::detail
