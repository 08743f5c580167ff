// SPDX-License-Identifier: Apache-2.0
// No mask, score function or sink the library has allocates during a call, nor what they compose to.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"
#include "laws/allocations.hpp"

namespace gqa {
namespace {

/// A prefill large enough for several threads.
class AllocationsWith : public Allocations {
 protected:
  template <class... X>
  void expect(const std::string& what, const X&... extras) {
    Workspace workspace;
    const TensorView<float> out_view(out.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.value_dim);
    expect_none(what, [&] {
      attention(pool, c.q_view(), cache, out_view, extras..., AttentionOptions{.workspace = &workspace});
    });
  }

 private:
  const Expectation expect_none{"3 threads"};
  const test::Sizes sizes{70, 1100, 4, 2, 24};
  const test::AttentionCase<float> c{sizes, 5};
  const KVCache<float> cache = test::cache_of(c);
  Eigen::ThreadPool pool{3};
  std::vector<float> out = std::vector<float>(70 * 4 * 24);
};

TEST_F(AllocationsWith, EveryMask) {
  const std::vector<int> ids = [] {
    std::vector<int> all;
    for (int i = 0; i < 1100; ++i) all.push_back(i / 300);
    return all;
  }();
  const std::vector<Index> parents(70, -1);
  Eigen::Tensor<bool, 2, Eigen::RowMajor> table(70, 1100);
  table.setConstant(true);
  for (Index i = 0; i < 70; ++i) table(i, 7 * i) = false;
  const Eigen::TensorMap<Eigen::Tensor<bool, 4, Eigen::RowMajor>> seen(table.data(), 1, 1, 70, 1100);
  const auto by_tensor = tensor_mask(seen);
  const auto lambda = [](Index q, Index kv) { return (q + kv) % 3 != 0; };
  const auto squares = [](Index i, Index j) { return (i + j) % 2 == 0; };
  const AnyMask any = sinks(4) | sliding_window(70);

  expect("no_mask", no_mask());
  expect("window", window(20, 9));
  expect("sliding_window", sliding_window(101));
  expect("chunked", chunked(50));
  expect("prefix", prefix(100));
  expect("sinks", sinks(4));
  expect("document", document(ids));
  expect("tree", tree(parents, 1030));
  expect("dilated", dilated(7));
  expect("blocks", blocks(BlockMask::from_predicate({100, 100, 16, 16}, squares)));
  expect("tensor_mask", by_tensor);
  expect("per_head of a list", per_head({causal(), any, sliding_window(9), no_mask()}));
  expect("per_head of a function", per_head([](Index h) { return sliding_window(3 + 20 * h); }));
  expect("mask_fn", mask_fn(lambda));
  expect("lambda", lambda);
  expect("LayerPattern", LayerPattern(5, 1).mask(4, 33));
  expect("AnyMask", any);
  expect("&", causal() & document(ids) & lambda);
  expect("|", sinks(4) | sliding_window(30));
  expect("!", causal() & !sliding_window(40));
  expect("per_head & document", per_head({causal(), any, any, any}) & document(ids) & by_tensor);
}

TEST_F(AllocationsWith, EveryScoreFunction) {
  Eigen::Tensor<float, 4, Eigen::RowMajor> biases(1, 4, 70, 1100);
  biases.setConstant(0.5f);
  const auto cap = soft_cap(20);
  const auto slopes = alibi(4);
  const auto t5 = relative_bias({.num_buckets = 32, .max_distance = 128}, std::vector<float>(128, 0.25f), 4);
  const auto heat = temperature([](Index q) { return 1 + 0.001 * static_cast<double>(q); });
  const auto own = [](double s, Index h, Index q, Index kv) {
    return s + 0.01 * static_cast<double>(h + q - kv);
  };
  expect("soft_cap", causal(), cap);
  expect("alibi", causal(), slopes);
  expect("relative_bias", causal(), t5);
  expect("tensor_bias", causal(), tensor_bias(biases));
  expect("temperature", causal(), heat);
  expect("llama4_temperature", causal(), llama4_temperature(0.4, 50));
  expect("score_fn", causal(), score_fn(own));
  expect("lambda of scores", causal(), own);
  expect("AnyScoreMod", causal(), AnyScoreMod(slopes | cap));
  expect("chain", causal(), slopes | cap | heat | own);
  expect("SinkLogits", causal(), cap, SinkLogits(std::vector<float>(4, 1.f)));
}

}  // namespace
}  // namespace gqa
