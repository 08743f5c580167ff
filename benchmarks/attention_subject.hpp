// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gqa/gqa.hpp>
#include <limits>

#include "subject.hpp"
#include "verify.hpp"

namespace bench {

/// `f(executor)`: the pool, or without one the calling thread.
template <class F>
void on_threads(Eigen::ThreadPool* pool, F&& f) {
  if (pool == nullptr)
    f(gqa::Serial{});
  else
    f(*pool);
}

/// A case as the library's planners see it.
inline gqa::CallShape call_shape(const Shape& s) {
  return {.num_q_heads = s.H,
          .num_kv_heads = s.G,
          .head_dim = s.D,
          .q_tokens = s.queries(),
          .kv_tokens = s.tokens(),
          .num_seqs = s.sequences(),
          .window = s.window};
}

/// What cases of attention over Inputs have in common: all but how it is computed.
template <class T>
class AttentionSubject : public Subject {
 public:
  AttentionSubject(const Shape& shape, Inputs<T> inputs, Rules rules = {})
      : shape_(shape),
        in_(std::move(inputs)),
        out_(shape.sequences(), shape.queries(), shape.H, shape.D),
        rules_(std::move(rules)) {}

  std::string check(Eigen::ThreadPool* pool) override {
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    const auto of = [&](Index b) -> Sequence<T> {
      return {sequence(in_.q, b), sequence(in_.k, b), sequence(in_.v, b), sequence(out_, b)};
    };
    return difference_in_batch(shape_.sequences(), of, rules_);
  }

 protected:
  Shape shape_;
  Inputs<T> in_;
  Tensor<T> out_;
  Rules rules_;
  gqa::Workspace workspace_;
};

}  // namespace bench
