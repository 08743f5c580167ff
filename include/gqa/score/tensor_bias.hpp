// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "gqa/score/score_mod_concept.hpp"
#include "gqa/score/score_tensor.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// A bias of its own for every score; refers to the caller's memory, which must outlive it.
template <class T>
class TensorBias {
 public:
  static constexpr ScoreStage stage = ScoreStage::bias;
  static constexpr bool additive = true;

  explicit TensorBias(const ScoreTensor<T>& tensor) : tensor_(tensor) {}

  /// Keys past the tensor's last, with which a tile may be filled up, get no bias.
  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    const Index begin = at.kv_begin, n = static_cast<Index>(scores.size());
    const Range keys = intersect({begin, begin + n}, tensor_.kv_positions());
    if (keys.empty() || !tensor_.q_positions().contains(at.q_pos)) return;
    const T* row = tensor_.row(at.seq, at.q_head, at.q_pos) + keys.begin;
    const auto biased =
        scores.subspan(static_cast<std::size_t>(keys.begin - begin), static_cast<std::size_t>(keys.size()));
    if constexpr (std::is_same_v<T, Acc>)
      simd::row_kernels<Acc>(isa()).add(biased.data(), keys.size(), row);
    else
      detail::update_row(biased, [=](Acc s, int j) { return s + static_cast<Acc>(row[j]); });
  }

  void check(const AttentionExtent& extent) const { tensor_.check(extent, "bias tensor"); }

 private:
  ScoreTensor<T> tensor_;
};

/// `score + bias[seq][q_head][query][key]`; a bias of -inf masks. See ScoreTensor for the layout,
/// broadcasting and which row is which position; attention throws std::invalid_argument for a shape that does
/// not fit.
template <class T>
TensorBias<T> tensor_bias(const ScoreTensor<T>& tensor) {
  return TensorBias<T>(tensor);
}

/// The same for an Eigen tensor or map: heads x queries x keys, or batch x heads x queries x keys.
template <TensorLike Tensor>
auto tensor_bias(const Tensor& tensor, std::optional<Index> first_q_position = {}) {
  return TensorBias(detail::as_score_tensor(tensor, first_q_position));
}

}  // namespace gqa
