// SPDX-License-Identifier: Apache-2.0
// The definitions behind linear.hpp.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <cstring>

#include "gqa/core/arena.hpp"
#include "gqa/kernel/tuning.hpp"
#include "gqa/layer/linear.hpp"

namespace gqa::detail {

namespace tuning {

/// Up to so many tokens, two register tiles of them, W comes from memory as fast as it can be multiplied: it
/// is read in several streams, and x where it stands.
inline constexpr Index linear_few_tokens = 12;

/// More tokens at a time: their x fills about half of the second-level cache, which the rows of W pass by.
constexpr Index linear_tokens(Index depth, Index scalar_bytes) {
  const Index row = std::max<Index>(depth, 1) * scalar_bytes;
  return std::clamp<Index>(round_down(cache_bytes / 2 / row, 6), 48, 192);
}

/// Elements between the rows of their copy: rows a power of two apart, as depths often are, would meet in the
/// same sets of the first-level cache. With 2,048 f32 elements and 64 tokens they reach 0.85 of the FMA peak,
/// where they stand 0.62.
inline constexpr Index linear_padding = simd::padding;

/// Rows of W of a task: so many bytes that its beginning, which nothing has prefetched, counts for little,
/// and a quarter of a thread's share where that is more. One thread has nobody to share with.
constexpr Index linear_task_rows(Index rows, Index row_bytes, Index num_threads) {
  if (num_threads == 1) return round_up(rows, simd::tile_keys);
  constexpr Index task_bytes = Index{1} << 18;
  const Index least = ceil_div(task_bytes, std::max<Index>(row_bytes, 1));
  return round_up(std::max(least, ceil_div(rows, 4 * num_threads)), simd::tile_keys);
}

}  // namespace tuning

/// Sums of one thread, and what it has to copy.
template <class Acc>
class LinearWorker {
 public:
  LinearWorker(Arena& arena, const LinearCall& call, Isa set)
      : call_(call),
        wide_(simd::dot_kernels<Acc>(set)),
        x_kernels_(call.x.format->kernels<Acc>(set)),
        weight_kernels_(call.weight.format->kernels<Acc>(set)),
        dots_(call.weight.format->dot_kernels<Acc>(set)),
        depth_(call.x.columns),
        few_(call.x.rows <= tuning::linear_few_tokens),
        block_(few_ ? call.x.rows : std::min(tuning::linear_tokens(depth_, sizeof(Acc)), call.x.rows)),
        dot_(call.round_to_bf16 && call.weight.format->group == 2 && !call.weight.by_columns &&
             weight_kernels_.product_dot != nullptr),
        copies_x_(!few_ || call.round_to_bf16 || call.x.by_columns ||
                  call.x.format->bytes != Index{sizeof(Acc)}),
        x_stride_(copies_x_ ? checked_add(depth_, tuning::linear_padding, "workspace") : call.x.stride),
        x_(arena.take<Acc>(copies_x_ ? checked_mul(block_, x_stride_, "workspace") : 0)),
        weight_(arena.take<Acc>(call.weight.by_columns ? checked_mul(simd::dot_columns, depth_, "workspace")
                                                       : 0)),
        tile_(arena.take<Acc>(copies_x_ || call.weight.by_columns ? simd::tile_keys * simd::tile_keys : 0)),
        sums_(arena.take<Acc>(block_ * simd::dot_columns * (64 / Index{sizeof(Acc)}))),
        result_(arena.take<Acc>(block_ * simd::dot_columns)),
        stream_(arena.take<Acc>(few_ ? block_ * simd::dot_columns * simd::dot_streams : 0)),
        bias_(arena.take<Acc>(simd::dot_columns)),
        rounded_(arena.take<bfloat16>(call.round_to_bf16 ? depth_ : 0)),
        pairs_(arena.take<bfloat16>(dot_ ? checked_mul(round_up(depth_, 2), simd::tile_keys, "workspace")
                                         : 0)) {}

  Index block() const { return block_; }

  /// y for the tokens of one block and some rows of W.
  void run(Range tokens, Range rows) {
    const Acc* x = read_x(tokens);
    if (dot_) return run_dot(tokens, rows);
    if (few_ && !call_.weight.by_columns) rows.begin = run_streams(x, tokens, rows);
    for (Index n = rows.begin; n < rows.end; n += simd::dot_columns) {
      const Index count = std::min(simd::dot_columns, rows.end - n);
      if (call_.weight.by_columns) {
        transpose(call_.weight, weight_kernels_, {n, n + count}, weight_, depth_);
        multiply(wide_, x, tokens, {.b = weight_, .b_stride = depth_, .b_rows = count});
      } else {
        multiply(dots_, x, tokens,
                 {.b = call_.weight.at(n, 0), .b_stride = call_.weight.stride, .b_rows = count});
      }
      write(tokens, {n, n + count}, result_);
    }
  }

 private:
  /// The rows of W of a product.
  struct RowsOfWeight {
    const void* b;
    Index b_stride, b_rows, b_stream = 0;
  };

  /// result_ = x times some rows of W.
  void multiply(const simd::DotKernels<Acc>& kernels, const Acc* x, Range tokens, const RowsOfWeight& w) {
    kernels.dot_rows({.a = x,
                      .a_stride = x_stride_,
                      .b = w.b,
                      .b_stride = w.b_stride,
                      .a_rows = tokens.size(),
                      .b_rows = w.b_rows,
                      .depth = depth_,
                      .sums = sums_,
                      .accumulate = false,
                      .b_stream = w.b_stream});
    kernels.fold_lanes(sums_, tokens.size(), result_, simd::dot_columns);
  }

  /// y for some rows of W that are read in streams, and where the first of the others is.
  Index run_streams(const Acc* x, Range tokens, Range rows) {
    constexpr Index streams = simd::dot_streams, at_once = simd::dot_columns / streams;
    const Index each = rows.size() / streams, part = tokens.size() * simd::dot_columns;
    for (Index first = 0; first < each; first += simd::dot_columns) {
      const Index end = std::min(first + simd::dot_columns, each);
      for (Index i = first; i < end; i += at_once) {
        const Index count = std::min(at_once, end - i);
        multiply(dots_, x, tokens,
                 {call_.weight.at(rows.begin + i, 0), call_.weight.stride, streams * count, each});
        for (Index j = 0; j < streams; ++j)
          for (Index t = 0; t < tokens.size(); ++t)
            for (Index c = 0; c < count; ++c)
              stream_[j * part + t * simd::dot_columns + i - first + c] =
                  result_[t * simd::dot_columns + streams * c + j];
      }
      for (Index j = 0; j < streams; ++j)
        write(tokens, {rows.begin + j * each + first, rows.begin + j * each + end}, stream_ + j * part);
    }
    return rows.begin + streams * each;
  }

  /// The block's rows of x as accumulators: where they stand, or copied, unless they are already.
  const Acc* read_x(Range tokens) {
    if (!copies_x_) return reinterpret_cast<const Acc*>(call_.x.at(tokens.begin, 0));
    if (tokens == copied_) return x_;
    copied_ = tokens;
    if (call_.x.by_columns) {
      transpose(call_.x, x_kernels_, tokens, x_, x_stride_);
    } else {
      for (Index t = 0; t < tokens.size(); ++t)
        x_kernels_.widen_row(call_.x.at(tokens.begin + t, 0), depth_, Acc{1}, x_ + t * x_stride_);
    }
    if constexpr (std::is_same_v<Acc, float>)
      if (call_.round_to_bf16) round_x(tokens.size());
    return x_;
  }

  /// As bf16 over the front of each row, an odd depth with a zero behind it, or as accumulators again.
  void round_x(Index tokens) {
    const auto& kernels = simd::convert_kernels<bfloat16>(isa());
    for (Index t = 0; t < tokens; ++t) {
      Acc* const row = x_ + t * x_stride_;
      bfloat16* const rounded = dot_ ? reinterpret_cast<bfloat16*>(row) : rounded_;
      kernels.round(row, depth_, rounded);
      if (dot_)
        rounded[depth_] = bfloat16{};
      else
        kernels.widen(rounded, depth_, 1, row);
    }
  }

  /// The same by bf16 dot products: rows of W are keys, a tile of them at a time.
  void run_dot(Range tokens, Range rows) {
    for (Index n = rows.begin; n < rows.end; n += simd::tile_keys) {
      const Index count = std::min(simd::tile_keys, rows.end - n);
      weight_kernels_.transpose_stored(call_.weight.at(n, 0), call_.weight.stride, count, depth_,
                                       simd::tile_keys, pairs_);
      weight_kernels_.product_dot({x_, 2 * x_stride_, pairs_, 2 * simd::tile_keys, sums_, simd::tile_keys,
                                   tokens.size(), depth_, simd::tile_keys, false});
      for (Index j = 0; j < count; j += simd::dot_columns) {
        for (Index t = 0; t < tokens.size(); ++t)
          std::copy_n(sums_ + t * simd::tile_keys + j, simd::dot_columns, result_ + t * simd::dot_columns);
        write(tokens, {n + j, n + std::min(j + simd::dot_columns, count)}, result_);
      }
    }
  }

  /// Rows of a matrix that stands by columns: a tile of as many columns at a time is what transpose_keys
  /// takes for the keys.
  void transpose(const MatrixView& from, const simd::Kernels<Acc>& kernels, Range rows, Acc* to,
                 Index stride) {
    for (Index r = rows.begin; r < rows.end; r += simd::tile_keys) {
      const Index num_rows = std::min(simd::tile_keys, rows.end - r);
      for (Index c = 0; c < depth_; c += simd::tile_keys) {
        const Index count = std::min(simd::tile_keys, depth_ - c);
        kernels.transpose_keys(from.at(r, c), from.stride, count, num_rows, simd::tile_keys, tile_);
        for (Index i = 0; i < num_rows; ++i)
          std::memcpy(to + (r - rows.begin + i) * stride + c, tile_ + i * simd::tile_keys,
                      static_cast<std::size_t>(count) * sizeof(Acc));
      }
    }
  }

  /// Writes `result`, rows of dot_columns, to some columns of y.
  void write(Range tokens, Range columns, Acc* result) {
    const Index count = columns.size();
    if (call_.bias.size() != 0) {
      const MatrixView& bias = call_.bias.row;
      bias.format->kernels<Acc>(isa()).widen_row(bias.at(0, columns.begin), count, Acc{1}, bias_);
      for (Index t = 0; t < tokens.size(); ++t)
        for (Index j = 0; j < count; ++j) result[t * simd::dot_columns + j] += bias_[j];
    }
    for (Index t = 0; t < tokens.size(); ++t) {
      std::byte* to = call_.y.row(tokens.begin + t) + columns.begin * call_.y.view.format->bytes;
      const Acc* from = result + t * simd::dot_columns;
      if constexpr (std::is_same_v<Acc, double>)
        call_.y.round_double(from, count, to);
      else
        call_.y.round_float(from, count, to);
    }
  }

  const LinearCall& call_;
  const simd::DotKernels<Acc>& wide_;
  const simd::Kernels<Acc>& x_kernels_;
  const simd::Kernels<Acc>& weight_kernels_;
  const simd::DotKernels<Acc>& dots_;
  Index depth_;
  bool few_;
  Index block_;
  bool dot_, copies_x_;
  Index x_stride_;
  Acc* x_;
  Acc* weight_;
  Acc* tile_;
  Acc* sums_;
  Acc* result_;
  Acc* stream_;  // of those, what each stream gives
  Acc* bias_;
  bfloat16* rounded_;
  bfloat16* pairs_;
  Range copied_ = {-1, -1};
};

template <class Acc>
void run_linear(const ExecutorRef& executor, const LinearCall& call, Workspace& workspace) {
  const Index tokens = call.x.rows, rows = call.weight.rows, depth = call.x.columns;
  if (tokens == 0 || rows == 0) return;
  const Isa set = isa();
  Arena measure;
  const Index block = LinearWorker<Acc>(measure, call, set).block();
  const double elements = static_cast<double>(rows) * static_cast<double>(depth);
  const bool worth_it = tuning::estimate_ns(elements, static_cast<double>(call.weight.format->bytes),
                                            static_cast<double>(tokens)) >= tuning::min_parallel_ns;
  const Index num_threads = worth_it ? std::clamp<Index>(executor.num_threads, 1, tuning::most_threads) : 1;
  const Index task_rows = tuning::linear_task_rows(rows, depth * call.weight.format->bytes, num_threads);
  const Index tasks_a_block = ceil_div(rows, task_rows), num_tasks = tasks_a_block * ceil_div(tokens, block);
  const Index num_workers = std::min(num_threads, num_tasks);
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
