// SPDX-License-Identifier: Apache-2.0
// The gradient of a causal prefill, beside the prefill itself.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <gqa/reference/attention_backward.hpp>
#include <limits>

#include "attention_subject.hpp"
#include "rows.hpp"

namespace bench {
namespace {

constexpr double MiB = 1 << 20;

/// The queries serve as the output's gradients: numbers of the same kind, and no file more for peers.
class Backward final : public AttentionSubject<float> {
 public:
  Backward(const Shape& shape, Inputs<float> inputs)
      : AttentionSubject(shape, std::move(inputs)),
        lse_(1, shape.S, shape.H),
        dq_(1, shape.S, shape.H, shape.D),
        dk_(1, shape.S, shape.G, shape.D),
        dv_(1, shape.S, shape.G, shape.D) {
    forward(nullptr);
  }

  void run(Eigen::ThreadPool* pool) override {
    last_ = pool;
    on_threads(pool, [&](auto&& executor) {
      gqa::attention_backward(executor, in_.q, in_.k, in_.v, out_, lse_, in_.q,
                              gqa::gradients_into(dq_, dk_, dv_), gqa::causal(), options_);
    });
  }

  std::string check(Eigen::ThreadPool* pool) override {
    for (auto* x : {&dq_, &dk_, &dv_}) x->setConstant(std::numeric_limits<float>::quiet_NaN());
    run(pool);
    for (Index g : some(shape_.G))
      if (const std::string wrong = difference(g); !wrong.empty())
        return "KV head " + std::to_string(g) + ": " + wrong;
    return {};
  }

  /// Forward and backward in turns: the best of each.
  std::map<std::string, double> measure(double seconds) override {
    double forward_s = HUGE_VAL, backward_s = seconds;
    const auto time = [](double& best, auto&& f) {
      const auto start = std::chrono::steady_clock::now();
      f();
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    };
    for (int i = 0; i < 5; ++i) {
      time(forward_s, [&] { forward(last_); });
      time(backward_s, [&] { run(last_); });
    }
    return {{"forward_ms", 1e3 * forward_s},
            {"of_forward", 2.5 * forward_s / backward_s},
            {"workspace_MiB", static_cast<double>(workspace_.bytes()) / MiB},
            {"probabilities_MiB", static_cast<double>(4 * shape_.H * shape_.S * shape_.S) / MiB}};
  }

  void save_output(const std::string& file) const override {
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(dq_.data()), static_cast<std::streamsize>(dq_.size()) * 4);
  }

 private:
  void forward(Eigen::ThreadPool* pool) {
    on_threads(pool, [&](auto&& executor) {
      gqa::attention(executor, in_.q, in_.k, in_.v, out_, gqa::causal(), gqa::lse_into(lse_), options_);
    });
  }

  /// The last 64 tokens of a KV head's query heads against the oracle: their dq, and dk and dv of the last 64
  /// keys, which nobody else sees. And of all keys, that dv sums up to what d_out does: weights sum to 1.
  std::string difference(Index g) const {
    const Index S = shape_.S, D = shape_.D, group = shape_.H / shape_.G, n = std::min<Index>(64, S);
    const auto k = head_of(sequence(in_.k, 0), g), v = head_of(sequence(in_.v, 0), g);
    std::vector<double> q;
    for (Index t = S - n; t < S; ++t)
      for (Index h = g * group; h < (g + 1) * group; ++h)
        for (Index d = 0; d < D; ++d) q.push_back(static_cast<double>(in_.q(0, t, h, d)));
    gqa::reference::GradientProblem problem{.forward = {.num_q_tokens = n,
                                                        .num_kv_tokens = S,
                                                        .num_q_heads = group,
                                                        .head_dim = D,
                                                        .value_dim = D,
                                                        .q = q,
                                                        .k = k,
                                                        .v = v},
                                            .d_out = q};
    problem.forward.visible = [](Index, Index q_pos, Index kv_pos) { return kv_pos <= q_pos; };
    const auto exact = gqa::reference::attention_backward(problem);
    // A gradient sums products of numbers near 1 that are each off by some 2^-24 sqrt(D), weighed by
    // probabilities that sum to 1 over keys, and to `group` or so over the queries that share a key.
    const double tolerance =
        std::ldexp(8 * std::sqrt(static_cast<double>(D)) * static_cast<double>(group), -24);
    const auto differs = [&](float got, double expected) {
      return !(std::abs(static_cast<double>(got) - expected) <= tolerance * (1 + std::abs(expected)));
    };
    for (Index t = 0; t < n; ++t)
      for (Index d = 0; d < D; ++d) {
        const auto at = [&](Index row) { return static_cast<std::size_t>(row * D + d); };
        for (Index h = 0; h < group; ++h)
          if (differs(dq_(0, S - n + t, g * group + h, d), exact.dq[at(t * group + h)])) return "wrong dq";
        if (differs(dk_(0, S - n + t, g, d), exact.dk[at(S - n + t)])) return "wrong dk";
        if (differs(dv_(0, S - n + t, g, d), exact.dv[at(S - n + t)])) return "wrong dv";
      }
    for (Index d = 0; d < D; ++d) {
      double of_dv = 0, of_d_out = 0;
      for (Index t = 0; t < S; ++t) {
        of_dv += static_cast<double>(dv_(0, t, g, d));
        for (Index h = g * group; h < (g + 1) * group; ++h)
          of_d_out += static_cast<double>(in_.q(0, t, h, d));
      }
      if (!(std::abs(of_dv - of_d_out) <= tolerance * static_cast<double>(S))) return "dv does not sum up";
    }
    return {};
  }

  Eigen::Tensor<float, 3, Eigen::RowMajor> lse_;
  Tensor<float> dq_, dk_, dv_;
  gqa::AttentionOptions options_{.workspace = &workspace_};
  Eigen::ThreadPool* last_ = nullptr;
};

}  // namespace

std::unique_ptr<Subject> make_backward(const Shape& shape, Inputs<float> inputs) {
  return std::make_unique<Backward>(shape, std::move(inputs));
}

std::vector<Row> backward_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (Index S : {512, 2048})
    for (int threads : {1, 2}) {
      const Shape shape{.kind = "backward", .S = S, .threads = threads};
      Row row = attention_row(shape, machine);
      row.memory_key = "backward/" + shape.memory_key();
      row.bytes = 2 * row.bytes;        // gradients are as large
      row.flops = 2.5 * shape.flops();  // five products in place of two
      row.footprint *= 2;
      row.memory = 4 * row.memory;
      row.make = [shape] { return make_backward(shape, Inputs<float>::random(shape)); };
      rows.push_back(std::move(row));
    }
  return rows;
}

}  // namespace bench
