// SPDX-License-Identifier: Apache-2.0
// The probabilities of a whole causal prefill, beside what writing as many numbers takes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <gqa/attention_weights.hpp>
#include <gqa/mask/window.hpp>

#include "attention_subject.hpp"
#include "rows.hpp"

namespace bench {
namespace {

template <class T>
class Weights final : public Subject {
 public:
  explicit Weights(const Shape& shape) : shape_(shape), in_(Inputs<T>::random(shape)) {}

  void run(Eigen::ThreadPool* pool) override {
    weights_ = {};  // so that there is one at a time
    on_threads(pool, [&](auto&& executor) {
      weights_ = gqa::attention_weights(executor, sequence(in_.q, 0), sequence(in_.k, 0), sequence(in_.v, 0),
                                        gqa::WeightRows{}, gqa::causal(), options_);
    });
  }

  /// Some rows against the oracle: a score is off by |s| sqrt(D) 2^-24, |s| < 8, and its probability by the
  /// same share; exponentials, sum and quotient by some units more.
  std::string check(Eigen::ThreadPool* pool) override {
    run(pool);
    const auto dim = static_cast<std::size_t>(shape_.D);
    const double share = std::ldexp(2 * (8 * std::sqrt(static_cast<double>(shape_.D)) + 8), -24);
    for (Index h : some(shape_.H)) {
      const auto q = head_of(sequence(in_.q, 0), h),
                 k = head_of(sequence(in_.k, 0), h / (shape_.H / shape_.G));
      for (Index token : some(shape_.S)) {
        gqa::reference::Problem problem{.num_q_tokens = 1,
                                        .num_kv_tokens = shape_.S,
                                        .head_dim = shape_.D,
                                        .value_dim = shape_.D,
                                        .q = std::span(q).subspan(static_cast<std::size_t>(token) * dim, dim),
                                        .k = k,
                                        .v = k};
        problem.visible = [token](Index, Index, Index kv_pos) { return kv_pos <= token; };
        const auto exact = gqa::reference::attention(problem).probabilities;
        for (Index j = 0; j < shape_.S; ++j) {
          const double expected = exact[static_cast<std::size_t>(j)];
          if (!(std::abs(static_cast<double>(weights_(token, h, j)) - expected) <= share * expected))
            return "wrong probability: token " + std::to_string(token) + ", head " + std::to_string(h) +
                   ", key " + std::to_string(j);
        }
      }
    }
    return {};
  }

  /// Filling new memory of the result's size, as the result is: the best of a few.
  std::map<std::string, double> measure(double seconds) override {
    double best = seconds;
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      gqa::Tensor3<float> zeros(shape_.S, shape_.H, shape_.S);
      gqa::detail::wish_huge_pages(zeros.data(), static_cast<std::size_t>(zeros.size()) * sizeof(float));
      zeros.setZero();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return {{"fill_ms", 1e3 * best}};
  }

 private:
  Shape shape_;
  Inputs<T> in_;
  gqa::Workspace workspace_;
  gqa::AttentionOptions options_{.workspace = &workspace_};
  gqa::Tensor3<float> weights_;
};

Row weights_row(const Shape& shape, const Machine& machine) {
  Row row = attention_row(shape, machine);
  const double written = 4 * static_cast<double>(shape.H * shape.S * shape.S);
  row.memory_key = "weights/" + shape.memory_key();
  row.bytes = written + shape.qo_bytes() / 2 + shape.kv_bytes() / 2;  // neither output nor values
  row.flops = shape.flops() / 2;
  row.footprint = row.bytes;
  row.memory += 2 * written;  // and memory to fill
  row.make = [shape]() -> std::unique_ptr<Subject> {
    if (shape.dtype == Dtype::f16) return std::make_unique<Weights<gqa::half>>(shape);
    return std::make_unique<Weights<float>>(shape);
  };
  return row;
}

}  // namespace

std::vector<Row> weights_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (Dtype dtype : {Dtype::f32, Dtype::f16})
    for (Index D : {64, 128})
      for (Index S : {512, 2048})
        rows.push_back(
            weights_row({.kind = "weights", .dtype = dtype, .H = 8, .G = 2, .D = D, .S = S}, machine));
  return rows;
}

}  // namespace bench
