// SPDX-License-Identifier: Apache-2.0
// A million tokens through a layer that sees a window of 4,096: what the last of them cost, beside the first.
#include <algorithm>
#include <chrono>
#include <gqa/gqa.hpp>
#include <limits>

#include "rows.hpp"
#include "timing.hpp"
#include "verify.hpp"

namespace bench {
namespace {

/// Decodes into two rings, one that has just filled its window and one that has seen a million tokens.
class MillionTokens final : public Subject {
  using T = gqa::bfloat16;

 public:
  MillionTokens(const Shape& s, Index tokens)
      : shape_(s),
        q_(random_tensor<T>(1, 1, s.H, s.D, 1)),
        k_(random_tensor<T>(1, period, s.G, s.D, 2)),
        v_(random_tensor<T>(1, period, s.G, s.D, 3)),
        out_(q_.dimensions()),
        first_(config(s)),
        last_(config(s)) {
    while (first_.size() < 2 * s.window) append(first_);
    bytes_at_first_ = first_.allocated_bytes();
    while (last_.size() < tokens) {  // a token at a time, as they are decoded
      append(last_);
      most_bytes_ = std::max(most_bytes_, last_.allocated_bytes());
    }
  }

  void run(Eigen::ThreadPool*) override { decode(last_); }

  std::string check(Eigen::ThreadPool*) override {
    if (most_bytes_ != bytes_at_first_)
      return "memory grew from " + std::to_string(bytes_at_first_) + " to " + std::to_string(most_bytes_);
    for (Ring* ring : {&first_, &last_}) {
      out_.setConstant(std::numeric_limits<T>::quiet_NaN());
      decode(*ring);
      const Index W = shape_.window, end = ring->size();
      Tensor<T> k(1, W, shape_.G, shape_.D), v(k.dimensions());
      for (Index i = 0; i < W; ++i) {
        k.chip<1>(i) = k_.chip<1>((end - W + i) % period);
        v.chip<1>(i) = v_.chip<1>((end - W + i) % period);
      }
      const auto wrong =
          difference(Sequence<T>{sequence(q_, 0), sequence(k, 0), sequence(v, 0), sequence(out_, 0)});
      if (!wrong.empty()) return "at " + std::to_string(end) + " tokens: " + wrong;
    }
    return {};
  }

  /// Both by turns: a token appended and attended from.
  std::map<std::string, double> measure(double) override {
    std::vector<double> first, last, append_first, append_last;
    for (int i = 0; i < 65; ++i) {
      first.push_back(ns_a_run(4, [&] { decode(first_); }));
      last.push_back(ns_a_run(4, [&] { decode(last_); }));
      append_first.push_back(ns_a_run(64, [&] { append(first_); }));
      append_last.push_back(ns_a_run(64, [&] { append(last_); }));
    }
    return {{"first", median(first)},
            {"last", median(last)},
            {"append_first", median(append_first)},
            {"append_last", median(append_last)},
            {"allocated_bytes", static_cast<double>(most_bytes_)},
            {"contiguous_bytes", static_cast<double>(last_.size() * last_.bytes_per_token())}};
  }

 private:
  using Ring = gqa::RingCache<T>;
  static constexpr Index period = 4099;  ///< token i has the keys and values i % period, a prime number

  static Ring::Config config(const Shape& s) {
    return {.window = s.window, .num_kv_heads = s.G, .head_dim = s.D};
  }

  template <class F>
  static double ns_a_run(int runs, F&& f) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < runs; ++i) f();
    const std::chrono::duration<double, std::nano> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count() / runs;
  }

  void append(Ring& ring) {
    const Index i = ring.size() % period;
    ring.append(gqa::TensorView<const T>(&k_(0, i, 0, 0), 1, shape_.G, shape_.D),
                gqa::TensorView<const T>(&v_(0, i, 0, 0), 1, shape_.G, shape_.D));
  }

  void decode(Ring& ring) {
    append(ring);
    gqa::attention(q_, ring.layer(0), out_, gqa::sliding_window(shape_.window),
                   gqa::AttentionOptions{.workspace = &workspace_});
  }

  Shape shape_;
  Tensor<T> q_, k_, v_, out_;
  Ring first_, last_;
  Index bytes_at_first_ = 0, most_bytes_ = 0;
  gqa::Workspace workspace_;
};

}  // namespace

std::vector<Row> ring_rows() {
  const Shape shape{.kind = "ring_million", .dtype = Dtype::bf16, .window = 4096, .ctx = 1000000};
  Row row{.name = shape.name(), .memory_key = shape.name(), .dtype = shape.dtype};
  row.bytes = shape.bytes();
  row.flops = shape.flops();
  row.footprint = row.bytes;
  row.memory = 3 * row.bytes;
  row.make = [=] { return std::make_unique<MillionTokens>(shape, shape.ctx); };
  return {row};
}

}  // namespace bench
