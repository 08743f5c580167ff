// SPDX-License-Identifier: Apache-2.0
// One batch of sequences through everything that holds keys and values: tensors and caches one by one, packed
// tensors and a list of caches in one call.
#pragma once

#include "attention/ragged_case.hpp"
#include "gqa/gqa.hpp"
#include "score/cases.hpp"

namespace gqa::test {

/// A prefill, a chunk of one, a token and a few of decode (one past a chunk of keys), more queries than keys,
/// and nothing to see. The chunk begins two keys before a tile of keys does.
inline const std::vector<Lengths> placed_lengths{{100, 100}, {40, 166}, {1, 530}, {3, 130}, {9, 3}, {2, 0}};

/// MHA, GQA and MQA.
inline std::vector<Sizes> placed_heads() {
  return {Sizes{0, 0, 3, 3, 16, 20}, Sizes{0, 0, 6, 2, 24}, Sizes{0, 0, 7, 1, 8, 12}};
}

inline CaseExtent extent_of(const Sizes& sizes) {
  return {static_cast<Index>(placed_lengths.size()), sizes.num_q_heads, -6, 530};
}

template <Scalar T>
class Placements {
 public:
  Placements(const Sizes& sizes, std::uint64_t seed) : sizes_(sizes), batch_(placed_lengths, sizes, seed) {
    for (const auto& one : batch_.each) {
      caches_.push_back(std::make_unique<KVCache<T>>(cache_of(one)));
      views_.push_back(caches_.back()->layer(0));
    }
  }

  /// All placements give the same bits, and the packed call is as close to the oracle as a naive run may be.
  /// `extras_of(seq)` are the extras of one sequence's own call, those of the batch for none;
  /// `tell(problem, seq)` tells the oracle the same.
  template <class ExtrasOf, class Tell>
  void expect_oracle(const ExtrasOf& extras_of, const Tell& tell) {
    Threads threads(2);
    const auto call = [&](const auto& extras, const auto&... arguments) {
      std::apply([&](const auto&... x) { attention(threads, arguments..., x...); }, extras);
    };
    const auto packed = batch_.result_of(
        [&](auto out, auto lse) { call(extras_of({}), batch_.q(), batch_.k(), batch_.v(), out, lse); });
    const auto listed = batch_.result_of(
        [&](auto out, auto lse) { call(extras_of({}), batch_.q(), KVList<View>(views_), out, lse); });
    EXPECT_TRUE(same(listed, packed)) << "a list of caches, " << sizes_.name();
    for (std::size_t i = 0; i < batch_.each.size(); ++i) {
      SCOPED_TRACE("sequence " + std::to_string(i) + ": " + batch_.each[i].sizes.name());
      AttentionCase<T>& c = batch_.each[i];
      const auto seq = static_cast<Index>(i);
      const auto alone = batch_.of(packed, i);
      RaggedCase<T> one({placed_lengths[i]}, sizes_, 0);  // for its room
      const auto tensors = one.result_of(
          [&](auto out, auto lse) { call(extras_of(seq), c.q_view(), c.k_view(), c.v_view(), out, lse); });
      const auto cached =
          one.result_of([&](auto out, auto lse) { call(extras_of(seq), c.q_view(), views_[i], out, lse); });
      EXPECT_TRUE(same(tensors, alone)) << "tensors";
      EXPECT_TRUE(same(cached, alone)) << "cache";
      auto problem = c.problem();
      tell(problem, seq);
      EXPECT_TRUE(within_bound(alone, problem, reference::attention(problem), naive_attention<T>(problem)));
    }
  }

 private:
  using View = typename KVCache<T>::View;

  Sizes sizes_;
  RaggedCase<T> batch_;
  std::vector<std::unique_ptr<KVCache<T>>> caches_;
  std::vector<View> views_;
};

}  // namespace gqa::test
