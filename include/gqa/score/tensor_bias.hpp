// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "gqa/mask/score_tensor.hpp"
#include "gqa/score/score_mod_concept.hpp"
#include "gqa/simd/kernels.hpp"

namespace gqa {

/// A bias of its own for every score; refers to the caller's memory, which must outlive it.
template <class T>
class TensorBias {
  static_assert(!std::is_same_v<T, bool>,
                "gqa: a bias tensor holds numbers to add; booleans, true attends, are a tensor_mask");

 public:
  static constexpr ScoreStage stage = ScoreStage::bias;
  static constexpr bool additive = true;

  explicit TensorBias(const ScoreTensor<T>& tensor) : tensor_(tensor) {}

  /// Keys past the tensor's last, with which a tile may be filled up, get no bias.
  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    const Index begin = at.kv_begin, n = static_cast<Index>(scores.size());
    const Range keys = intersect({begin, begin + n}, tensor_.kv_positions());
    if (keys.empty() || !tensor_.q_positions(at.first_query).contains(at.q_pos)) return;
    const T* row = detail::ScorePlane<T>(tensor_, at.seq, at.q_head, at.first_query).row(at.q_pos);
    const auto biased =
        scores.subspan(static_cast<std::size_t>(keys.begin - begin), static_cast<std::size_t>(keys.size()));
    if (tensor_.broadcasts_keys())
      detail::update_row(biased, [b = static_cast<Acc>(*row)](Acc s, int) { return s + b; });
    else if constexpr (std::is_same_v<T, Acc>)
      simd::score_kernels<Acc>(isa()).add(biased.data(), keys.size(), row + keys.begin);
    else
      detail::update_row(biased,
                         [from = row + keys.begin](Acc s, int j) { return s + static_cast<Acc>(from[j]); });
  }

  /// The tensor's elements, packed. Their sums take as much memory as the tensor, and for each KV head or
  /// sequence that shares it once more: linear in length only where queries or keys are 1.
  Index num_parameters(const AttentionExtent&) const {
    const auto& s = tensor_.sizes();
    return checked_mul(checked_mul(s.batch, s.heads, "bias tensor"),
                       checked_mul(s.q_tokens, s.kv_tokens, "bias tensor"), "bias tensor");
  }
  ParametersApart parameters_apart() const {
    const auto& s = tensor_.sizes();
    return {.by_seq = s.batch > 1, .by_kv_head = s.heads > 1, .by_query = s.q_tokens > 1};
  }
  template <class Acc>
  void accumulate(std::span<const Acc> d_scores, std::span<const Acc>, const ScoreRow& at,
                  std::span<double> gradient) const {
    const auto& s = tensor_.sizes();
    const Range rows = tensor_.q_positions(at.first_query);
    if (!rows.contains(at.q_pos)) return;
    const Index plane = (s.batch > 1 ? at.seq : 0) * s.heads + (s.heads > 1 ? at.q_head : 0);
    const Index row = plane * s.q_tokens + (s.q_tokens > 1 ? at.q_pos - rows.begin : 0);
    double* to = gradient.data() + row * s.kv_tokens;
    const bool one_key = tensor_.broadcasts_keys();
    for (std::size_t j = 0; j < d_scores.size(); ++j) {
      const Index key = at.kv_begin + static_cast<Index>(j);
      if (tensor_.kv_positions().contains(key)) to[one_key ? 0 : key] += static_cast<double>(d_scores[j]);
    }
  }

  void check(const AttentionExtent& extent) const { tensor_.check(extent, "bias tensor"); }

 private:
  ScoreTensor<T> tensor_;
};

/// `score + bias[seq][q_head][query][key]`: arithmetic, as in PyTorch. A bias of -inf gives a finite score
/// the weight 0, but a score of NaN stays NaN, and a value of NaN or infinity makes NaN of its 0; tensor_mask
/// never looks at either. See ScoreTensor for the layout, broadcasting and which row is which position;
/// attention throws std::invalid_argument for a shape that does not fit.
template <class T>
TensorBias<T> tensor_bias(const ScoreTensor<T>& tensor) {
  return TensorBias<T>(tensor);
}

/// The same for an Eigen tensor or map, which must outlive the bias: keys, queries x keys, heads x queries x
/// keys, or batch x heads x queries x keys (column-major ones in reverse), any of them 1 for all.
template <TensorLike Tensor>
auto tensor_bias(const Tensor& tensor, std::optional<Index> first_q_position = {}) {
  return TensorBias(detail::as_score_tensor(tensor, first_q_position));
}

/// A temporary's memory would be gone before it is read: keep the tensor in a variable.
template <detail::TemporaryTensor Tensor>
auto tensor_bias(const Tensor&& temporary, std::optional<Index> first_q_position = {}) = delete;

}  // namespace gqa
