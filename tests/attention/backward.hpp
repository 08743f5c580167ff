// SPDX-License-Identifier: Apache-2.0
// The gradient of attention behind plain functions, compiled once in backward.cpp.
#pragma once

#include <optional>

#include "attention/attend.hpp"
#include "gqa/core/head_grouping.hpp"
#include "gqa/mask.hpp"
#include "gqa/score.hpp"
#include "gqa/score/sink_logits.hpp"
#include "support/naive_backward.hpp"

namespace gqa::test {

/// What is asked of backward beside its tensors.
struct BackwardHow {
  AnyMask mask = no_mask();
  std::optional<AnyScoreMod> score = {};
  const SinkLogits* sinks = nullptr;
  const HeadGrouping* grouping = nullptr;
  std::optional<double> scale = {};
  std::optional<Index> q_offset = {};
  Workspace* workspace = nullptr;
  Threads* threads = nullptr;  ///< serial where there are none
  std::vector<double>* score_gradient = nullptr;
  std::vector<double>* sink_gradient = nullptr;
};

/// Tensors of a call, in any strides; gradients in DT.
template <Scalar T, Scalar DT>
struct BackwardTensors {
  TensorView<const T> q;
  TensorView<T> out;
  RowsView<Accumulator<T>> lse;
  TensorView<const T> d_out;
  TensorView<DT> dq, dk, dv;
};

/// attention() and then attention_backward().
template <Scalar T, Scalar DT>
void differentiate(const BackwardHow& how, const BackwardTensors<T, DT>& tensors, TensorView<const T> k,
                   TensorView<const T> v);
template <Scalar T, Scalar DT>
void differentiate(const BackwardHow& how, const BackwardTensors<T, DT>& tensors, const FunctionKV<T>& view);

/// Random q, k, v and d_out of one sequence, and the gradients of a call.
template <Scalar T, Scalar DT = Accumulator<T>>
struct GradientCase : AttentionCase<T> {
  GradientCase(const Sizes& s, std::uint64_t seed)
      : AttentionCase<T>(s, seed),
        d_out(random_values<T>(1000 + seed, s.num_q_tokens * s.num_q_heads * s.value_dim)) {}

  void run(const BackwardHow& how = {}) {
    prepare();
    differentiate<T, DT>(how, tensors(), this->k_view(), this->v_view());
  }
  void run(const BackwardHow& how, const FunctionKV<T>& view) {
    prepare();
    differentiate<T, DT>(how, tensors(), view);
  }

  reference::GradientProblem gradient_problem() {
    d64_ = to_double<T>(d_out);
    return {.forward = this->problem(), .d_out = d64_};
  }

  /// Whether the gradients are those of a problem.
  void expect(const reference::GradientProblem& problem, const std::string& what) const {
    const auto exact = reference::attention_backward(problem);
    const auto naive = naive_backward<T>(problem);
    // dp - delta: two dots of d_out, with a value and with the output, which is a mean of values. Of one key
    // they are the same, and all that each row adds is how they were rounded.
    const Sizes& s = this->sizes;
    const Index rows = s.num_kv_tokens == 1 ? s.num_q_tokens * s.num_q_heads / s.num_kv_heads : 1;
    const double terms = 2 * std::sqrt(static_cast<double>(s.value_dim * rows));
    const auto judge = [&](const char* name, const std::vector<DT>& x, const std::vector<double>& e,
                           const std::vector<double>& n) {
      EXPECT_TRUE((gradient_within_naive_error<T, DT>(name, x, e, n, terms)))
          << what << ", " << this->sizes.name() << ", " << scalar_name<T>();
    };
    judge("dq", dq, exact.dq, naive.dq);
    judge("dk", dk, exact.dk, naive.dk);
    judge("dv", dv, exact.dv, naive.dv);
  }

  bool same_gradients(const GradientCase& other) const {
    const auto same = [](const std::vector<DT>& a, const std::vector<DT>& b) {
      return a.size() == b.size() &&
             (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(DT)) == 0);
    };
    return same(dq, other.dq) && same(dk, other.dk) && same(dv, other.dv);
  }

  std::vector<T> d_out, out;
  std::vector<Accumulator<T>> lse;
  std::vector<DT> dq, dk, dv;

  /// Memory that held something else.
  void prepare() {
    const auto q_rows = static_cast<std::size_t>(this->sizes.num_q_tokens * this->sizes.num_q_heads);
    out.assign(q_rows * static_cast<std::size_t>(this->sizes.value_dim), T(7));
    lse.assign(q_rows, 7);
    dq.assign(this->q.size(), DT(7));
    dk.assign(this->k.size(), DT(7));
    dv.assign(this->v.size(), DT(7));
  }
  BackwardTensors<T, DT> tensors() {
    const Sizes& s = this->sizes;
    return {.q = this->q_view(),
            .out = {out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim},
            .lse = {lse.data(), 1, s.num_q_tokens, s.num_q_heads, s.num_q_tokens * s.num_q_heads,
                    s.num_q_heads, 1},
            .d_out = {d_out.data(), s.num_q_tokens, s.num_q_heads, s.value_dim},
            .dq = {dq.data(), s.num_q_tokens, s.num_q_heads, s.head_dim},
            .dk = {dk.data(), s.num_kv_tokens, s.num_kv_heads, s.head_dim},
            .dv = {dv.data(), s.num_kv_tokens, s.num_kv_heads, s.value_dim}};
  }

 private:
  std::vector<double> d64_;
};

/// A position mask in the oracle's words.
template <class M>
auto visible_by(M mask) {
  return [mask](Index, Index q_pos, Index kv_pos) { return mask(q_pos, kv_pos); };
}

}  // namespace gqa::test
