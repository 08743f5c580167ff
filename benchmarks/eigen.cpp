// SPDX-License-Identifier: Apache-2.0
// The baseline: attention as one writes it with Eigen in an afternoon. Keys and values are kept a head at a
// time (tokens x dim), which suits Eigen's products; 16-bit ones are converted to float, as Eigen has no fast
// products of them. The query heads of a group each do their own product, as the formula says.
#include <Eigen/Dense>
#include <cmath>
#include <vector>

#include "attention_subject.hpp"

namespace bench {
namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
class EigenAttention final : public AttentionSubject<T> {
  using AttentionSubject<T>::shape_, AttentionSubject<T>::in_, AttentionSubject<T>::out_;

 public:
  EigenAttention(const Shape& shape, Index layers, Inputs<T> inputs)
      : AttentionSubject<T>(shape, std::move(inputs)) {
    for (Index layer = 0; layer < layers; ++layer) {
      for (Index g = 0; g < shape.G; ++g) {
        k_.push_back(head(in_.k, g));
        v_.push_back(head(in_.v, g));
      }
    }
    layers_ = layers;
  }

  void run(Eigen::ThreadPool* pool) override {
    const Index layer = next_++ % layers_;
    if (pool == nullptr) {
      for (Index h = 0; h < shape_.H; ++h) one_head(layer, h);
      return;
    }
    Eigen::Barrier done(static_cast<unsigned>(shape_.H));
    for (Index h = 0; h < shape_.H; ++h) {
      pool->Schedule([this, &done, layer, h] {
        one_head(layer, h);
        done.Notify();
      });
    }
    done.Wait();
  }

 private:
  Matrix<T> head(const Tensor<T>& x, Index g) const {
    return Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>(
        x.data() + g * shape_.D, shape_.tokens(), shape_.D, Eigen::OuterStride<>(shape_.G * shape_.D));
  }

  void one_head(Index layer, Index h) {
    const Index n = shape_.queries(), past = shape_.tokens() - n, stride = shape_.H * shape_.D;
    const auto kv = static_cast<std::size_t>(layer * shape_.G + h / (shape_.H / shape_.G));
    const Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>> q(in_.q.data() + h * shape_.D, n, shape_.D,
                                                                 stride);
    Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>> out(out_.data() + h * shape_.D, n, shape_.D, stride);

    Matrix<float> scores = q.template cast<float>() * k_[kv].template cast<float>().transpose();
    scores *= 1 / std::sqrt(static_cast<float>(shape_.D));
    for (Index i = 0; i < n; ++i) {
      auto seen = scores.row(i).head(past + i + 1);
      seen = (seen.array() - seen.maxCoeff()).exp();
      seen /= seen.sum();
      scores.row(i).tail(n - i - 1).setZero();
    }
    out = (scores * v_[kv].template cast<float>()).template cast<T>();
  }

  std::vector<Matrix<T>> k_, v_;  ///< layer by layer, head by head
  Index layers_, next_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Subject> make_eigen(const Shape& shape, Index layers, Inputs<T> inputs) {
  return std::make_unique<EigenAttention<T>>(shape, layers, std::move(inputs));
}

template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<float>);
template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<gqa::half>);
template std::unique_ptr<Subject> make_eigen(const Shape&, Index, Inputs<gqa::bfloat16>);

}  // namespace bench
