// SPDX-License-Identifier: Apache-2.0
// The definitions behind linear.hpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>

#include "gqa/core/arena.hpp"
#include "gqa/kernel/tuning.hpp"
#include "gqa/layer/linear.hpp"

namespace gqa::detail {

namespace tuning {

/// Depth that a block of tokens is multiplied for at a time: with as many tokens as below, three eighths of
/// the second-level cache, which the rows of W pass by. Sums go on exactly where they were: no bit depends on
/// it.
inline constexpr Index linear_depth = 2048;

/// Tokens multiplied at a time.
constexpr Index linear_tokens(Index depth, Index scalar_bytes) {
  const Index row = std::min(std::max<Index>(depth, 1), linear_depth) * scalar_bytes;
  return std::clamp<Index>(round_down(cache_bytes * 3 / 8 / row, 6), 48, 192);
}

/// Bytes of W of a task: so many that its beginning, which nothing has prefetched, counts for little, and few
/// enough that threads end together.
inline constexpr Index linear_task_bytes = Index{1} << 18;

}  // namespace tuning

/// Sums of one thread, and what it has to copy.
template <class Acc>
class LinearWorker {
 public:
  LinearWorker(Arena& arena, const LinearCall& call, Isa set)
      : call_(call),
        wide_(simd::kernels<Acc>(set)),
        rows_(simd::row_kernels<Acc>(set)),
        x_kernels_(call.x.format->kernels<Acc>(set)),
        weight_kernels_(call.weight.format->kernels<Acc>(set)),
        depth_(call.x.columns),
        block_(std::min(tuning::linear_tokens(depth_, sizeof(Acc)), call.x.rows)),
        copies_x_(call.x.by_columns || call.x.format->bytes != Index{sizeof(Acc)}),
        x_stride_(copies_x_ ? depth_ : call.x.stride),
        weight_depth_(std::min(depth_, tuning::linear_depth)),
        x_(arena.take<Acc>(copies_x_ ? checked_mul(block_, depth_, "workspace") : 0)),
        weight_(arena.take<Acc>(call.weight.by_columns ? simd::dot_columns * weight_depth_ : 0)),
        tile_(arena.take<Acc>(copies_x_ || call.weight.by_columns ? simd::tile_keys * simd::tile_keys : 0)),
        sums_(arena.take<Acc>(block_ * simd::dot_columns * (64 / Index{sizeof(Acc)}))),
        result_(arena.take<Acc>(block_ * simd::dot_columns)),
        bias_(arena.take<Acc>(simd::dot_columns)) {}

  Index block() const { return block_; }

  /// y for the tokens of one block and some rows of W.
  void run(Range tokens, Range rows) {
    const Acc* x = read_x(tokens);
    for (Index n = rows.begin; n < rows.end; n += simd::dot_columns) {
      const Index count = std::min(simd::dot_columns, rows.end - n);
      for (Index k = 0; k == 0 || k < depth_; k += tuning::linear_depth) {
        const Index depth = std::min(tuning::linear_depth, depth_ - k);
        simd::DotRows<Acc> dots{.a = x + k,
                                .a_stride = x_stride_,
                                .b = nullptr,
                                .b_stride = weight_depth_,
                                .a_rows = tokens.size(),
                                .b_rows = count,
                                .depth = depth,
                                .sums = sums_,
                                .accumulate = k > 0};
        if (call_.weight.by_columns) {
          transpose(call_.weight, weight_kernels_, {n, n + count}, {k, k + depth}, weight_, weight_depth_);
          dots.b = weight_;
          wide_.dot_rows(dots);
        } else {
          dots.b = call_.weight.at(n, k);
          dots.b_stride = call_.weight.stride;
          dots.b_readable = rows.end - n;
          weight_kernels_.dot_rows(dots);
        }
      }
      rows_.fold_lanes(sums_, tokens.size(), result_, simd::dot_columns);
      write(tokens, {n, n + count});
    }
  }

 private:
  /// The block's rows of x as accumulators: where they stand, or copied, unless they are already.
  const Acc* read_x(Range tokens) {
    if (!copies_x_) return reinterpret_cast<const Acc*>(call_.x.at(tokens.begin, 0));
    if (tokens == copied_) return x_;
    copied_ = tokens;
    if (call_.x.by_columns) {
      transpose(call_.x, x_kernels_, tokens, {0, depth_}, x_, depth_);
    } else {
      for (Index t = tokens.begin; t < tokens.end; ++t)
        x_kernels_.widen_row(call_.x.at(t, 0), depth_, Acc{1}, x_ + (t - tokens.begin) * depth_);
    }
    return x_;
  }

  /// Rows of a matrix that stands by columns: a tile of as many columns at a time is what transpose_keys
  /// takes for the keys.
  void transpose(const MatrixView& from, const simd::Kernels<Acc>& kernels, Range rows, Range columns,
                 Acc* to, Index stride) {
    for (Index r = rows.begin; r < rows.end; r += simd::tile_keys) {
      const Index num_rows = std::min(simd::tile_keys, rows.end - r);
      for (Index c = columns.begin; c < columns.end; c += simd::tile_keys) {
        const Index count = std::min(simd::tile_keys, columns.end - c);
        kernels.transpose_keys(from.at(r, c), from.stride, count, num_rows, simd::tile_keys, tile_);
        for (Index i = 0; i < num_rows; ++i)
          std::memcpy(to + (r - rows.begin + i) * stride + (c - columns.begin), tile_ + i * simd::tile_keys,
                      static_cast<std::size_t>(count) * sizeof(Acc));
      }
    }
  }

  void write(Range tokens, Range columns) {
    const Index count = columns.size();
    if (call_.bias.size() != 0) {
      const MatrixView& bias = call_.bias.row;
      bias.format->kernels<Acc>(isa()).widen_row(bias.at(0, columns.begin), count, Acc{1}, bias_);
      for (Index t = 0; t < tokens.size(); ++t)
        for (Index j = 0; j < count; ++j) result_[t * simd::dot_columns + j] += bias_[j];
    }
    for (Index t = 0; t < tokens.size(); ++t) {
      std::byte* to = call_.y.row(tokens.begin + t) + columns.begin * call_.y.view.format->bytes;
      const Acc* from = result_ + t * simd::dot_columns;
      if constexpr (std::is_same_v<Acc, double>)
        call_.y.round_double(from, count, to);
      else
        call_.y.round_float(from, count, to);
    }
  }

  const LinearCall& call_;
  const simd::Kernels<Acc>& wide_;
  const simd::RowKernels<Acc>& rows_;
  const simd::Kernels<Acc>& x_kernels_;
  const simd::Kernels<Acc>& weight_kernels_;
  Index depth_, block_;
  bool copies_x_;
  Index x_stride_, weight_depth_;
  Acc* x_;
  Acc* weight_;
  Acc* tile_;
  Acc* sums_;
  Acc* result_;
  Acc* bias_;
  Range copied_ = {-1, -1};
};

template <class Acc>
void run_linear(const ExecutorRef& executor, const LinearCall& call, Workspace& workspace) {
  const Index tokens = call.x.rows, rows = call.weight.rows, depth = call.x.columns;
  if (tokens == 0 || rows == 0) return;
  const Isa set = isa();
  Arena measure;
  const Index block = LinearWorker<Acc>(measure, call, set).block();
  const Index row_bytes = std::max<Index>(depth * call.weight.format->bytes, 1);
  const Index task_rows = std::max(
      round_up(ceil_div(tuning::linear_task_bytes, row_bytes), simd::dot_columns), simd::dot_columns);
  const Index tasks_a_block = ceil_div(rows, task_rows), num_tasks = tasks_a_block * ceil_div(tokens, block);
  const double elements = static_cast<double>(rows) * static_cast<double>(depth);
  const bool worth_it = tuning::estimate_ns(elements, static_cast<double>(call.weight.format->bytes),
                                            static_cast<double>(tokens)) >= tuning::min_parallel_ns;
  const Index num_workers =
      worth_it ? std::clamp<Index>(executor.num_threads, 1, std::min(num_tasks, tuning::most_threads)) : 1;
  std::byte* memory = workspace.reserve(checked_mul(measure.used(), num_workers, "workspace"));
  std::atomic<Index> next{0};
  const auto work = [&](Index index) {
    Arena own(memory + index * measure.used());
    LinearWorker<Acc> worker(own, call, set);
    for (Index i = next++; i < num_tasks; i = next++) {
      const Index t = i / tasks_a_block * block, n = i % tasks_a_block * task_rows;
      worker.run({t, std::min(t + block, tokens)}, {n, std::min(n + task_rows, rows)});
    }
  };
  if (num_workers == 1)
    work(0);
  else
    executor.parallel_for(num_workers, work);
}

}  // namespace gqa::detail
