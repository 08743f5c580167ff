// SPDX-License-Identifier: Apache-2.0
// Random sequences of different lengths, packed and one by one.
#pragma once

#include <vector>

#include "attention/attend.hpp"
#include "gqa/core/ragged.hpp"
#include "gqa/kernel/options.hpp"
#include "gqa/kv/kv_list.hpp"
#include "support/message_of.hpp"

namespace gqa::test {

struct Lengths {
  Index queries, keys;
};

template <Scalar T>
struct RaggedCase {
  /// `sizes` says heads and dims; its token counts do not matter.
  RaggedCase(const std::vector<Lengths>& lengths, Sizes sizes, std::uint64_t seed) : sizes_(sizes) {
    for (const Lengths& length : lengths) {
      sizes.num_q_tokens = length.queries;
      sizes.num_kv_tokens = length.keys;
      each.emplace_back(sizes, seed++);
      const auto append = [](std::vector<T>& to, const std::vector<T>& from) {
        to.insert(to.end(), from.begin(), from.end());
      };
      append(q_, each.back().q);
      append(k_, each.back().k);
      append(v_, each.back().v);
      q_offsets.push_back(q_offsets.back() + length.queries);
      kv_offsets.push_back(kv_offsets.back() + length.keys);
    }
  }

  auto q() const {
    return ragged(TensorView<const T>(q_.data(), q_offsets.back(), sizes_.num_q_heads, sizes_.head_dim),
                  q_offsets);
  }
  auto k() const {
    return ragged(TensorView<const T>(k_.data(), kv_offsets.back(), sizes_.num_kv_heads, sizes_.head_dim),
                  kv_offsets);
  }
  auto v() const {
    return ragged(TensorView<const T>(v_.data(), kv_offsets.back(), sizes_.num_kv_heads, sizes_.value_dim),
                  kv_offsets);
  }

  /// Room for the results of a call, which held something else; `call(out, lse)` makes it.
  template <class Call>
  Result<T> result_of(Call&& call) const {
    const Index tokens = q_offsets.back(), H = sizes_.num_q_heads, Dv = sizes_.value_dim;
    Result<T> result{std::vector<T>(static_cast<std::size_t>(tokens * H * Dv), T(7)),
                     std::vector<Accumulator<T>>(static_cast<std::size_t>(tokens * H), 7)};
    call(TensorView<T>(result.out.data(), tokens, H, Dv),
         LseOutput<Accumulator<T>>{{result.lse.data(), 1, tokens, H, tokens * H, H, 1}});
    return result;
  }

  /// The sequences computed by calls of their own.
  Result<T> one_by_one(const How& how) const {
    Result<T> result;
    for (const auto& c : each) result.append(run(c, how));
    return result;
  }

  /// The part of a packed result that belongs to one sequence.
  Result<T> of(const Result<T>& result, std::size_t seq) const {
    const auto cut = [&](const auto& x, Index each_token) {
      return std::remove_cvref_t<decltype(x)>(x.begin() + q_offsets[seq] * each_token,
                                              x.begin() + q_offsets[seq + 1] * each_token);
    };
    return {cut(result.out, sizes_.num_q_heads * sizes_.value_dim), cut(result.lse, sizes_.num_q_heads)};
  }

  std::vector<AttentionCase<T>> each;
  std::vector<Index> q_offsets{0}, kv_offsets{0};

 private:
  Sizes sizes_;
  std::vector<T> q_, k_, v_;
};

}  // namespace gqa::test
