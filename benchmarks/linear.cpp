// SPDX-License-Identifier: Apache-2.0
// The linear layer: one and a few tokens, which the weights' way from memory takes longest for, and a prompt,
// which the products do.
#include <cmath>
#include <gqa/layer/linear.hpp>
#include <set>

#include "rows.hpp"

namespace bench {
namespace {

struct LinearShape {
  Dtype dtype;
  Index rows, depth, tokens;

  double weights() const { return static_cast<double>(rows) * static_cast<double>(depth); }
  double bytes() const { return weights() * size_of(dtype); }
};

template <class T>
class Linear final : public Subject {
 public:
  Linear(const LinearShape& s, Index layers)
      : s_(s),
        weights_(random_tensor<T>(layers, s.rows, 1, s.depth, 1)),
        x_(random_tensor<float>(1, s.tokens, 1, s.depth, 2)),
        y_(1, s.tokens, 1, s.rows) {}

  void run(Eigen::ThreadPool* pool) override {
    layer_ = (layer_ + 1) % weights_.dimension(0);
    const gqa::MatrixView x(x_.data(), s_.tokens, s_.depth), w(weight(layer_), s_.rows, s_.depth);
    const gqa::MatrixOut y(y_.data(), s_.tokens, s_.rows, s_.rows);
    if (pool != nullptr)
      gqa::linear(*pool, x, w, y, {.workspace = &workspace_});
    else
      gqa::linear(x, w, y, {.workspace = &workspace_});
  }

  std::string check(Eigen::ThreadPool* pool) override {
    run(pool);
    for (Index t : some(s_.tokens))
      for (Index n : some(s_.rows)) {
        double exact = 0, magnitude = 0;
        for (Index k = 0; k < s_.depth; ++k) {
          const double term = static_cast<double>(x_.data()[t * s_.depth + k]) *
                              static_cast<double>(weight(layer_)[n * s_.depth + k]);
          exact += term;
          magnitude += std::abs(term);
        }
        // A term goes through depth / 16 + 5 roundings of half an epsilon.
        const double tolerance = magnitude * static_cast<double>(s_.depth / 16 + 5) * std::ldexp(1.0, -24);
        const auto got = static_cast<double>(y_.data()[t * s_.rows + n]);
        if (!(std::abs(got - exact) <= tolerance))
          return "wrong output: token " + std::to_string(t) + ", row " + std::to_string(n) + " is " +
                 std::to_string(got) + ", expected " + std::to_string(exact);
      }
    return {};
  }

 private:
  static std::set<Index> some(Index n) { return {0, n / 2, n - 1}; }
  const T* weight(Index layer) const { return weights_.data() + layer * s_.rows * s_.depth; }

  LinearShape s_;
  Tensor<T> weights_;
  Tensor<float> x_, y_;
  Index layer_ = 0;
  gqa::Workspace workspace_;
};

Row linear_row(const LinearShape& s, int threads, const Machine& machine) {
  const Index layers = layers_to_cycle(s.bytes(), machine);
  const std::string of = std::string(name(s.dtype)) + "/N:" + std::to_string(s.rows) +
                         "/K:" + std::to_string(s.depth) + "/S:" + std::to_string(s.tokens);
  const double all = s.bytes() * static_cast<double>(layers);
  // Everything is multiplied in f32, so that is the peak it is held to.
  Row row{.name = (s.tokens < 16 ? "linear_decode/" : "linear_prefill/") + of +
                  "/threads:" + std::to_string(threads),
          .memory_key = "linear/" + of,
          .threads = threads,
          .bytes = s.bytes(),
          .flops = 2 * s.weights() * static_cast<double>(s.tokens),
          .footprint = all,
          .memory = all,
          .dtype = Dtype::f32};
  row.make = [s, layers]() -> std::unique_ptr<Subject> {
    if (s.dtype == Dtype::f16) return std::make_unique<Linear<gqa::half>>(s, layers);
    if (s.dtype == Dtype::bf16) return std::make_unique<Linear<gqa::bfloat16>>(s, layers);
    return std::make_unique<Linear<float>>(s, layers);
  };
  return row;
}

}  // namespace

std::vector<Row> linear_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (Index tokens : {1, 4, 512})
      for (int threads : {1, 2}) rows.push_back(linear_row({dtype, 4096, 4096, tokens}, threads, machine));
    for (Index depth : {576, 14336}) rows.push_back(linear_row({dtype, 1536, depth, 1}, 1, machine));
  }
  return rows;
}

}  // namespace bench
