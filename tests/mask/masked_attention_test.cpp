// SPDX-License-Identifier: Apache-2.0
// Every mask through attention: prefill, decode, MHA, GQA, MQA, every dtype, tensors and cache, NaN where
// none looks.
#include <gtest/gtest.h>

#include <memory>

#include "score/attention_law.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Sizes;
using Visible = std::function<bool(Index q_head, Index q_pos, Index kv_pos)>;

struct NamedMask {
  const char* name;
  AnyMask mask;
  Visible visible;
};

/// Each mask beside its formula, for positions up to 301.
const std::vector<NamedMask>& masks() {
  static const std::vector<NamedMask> list = [] {
    std::vector<Index> ids;
    for (Index p = 0; p < 301; ++p) ids.push_back(p / 37);
    const Index tree_first = 127;
    std::vector<Index> parents;
    for (Index node = 0; node < 301 - tree_first; ++node)
      parents.push_back(node % 3 == 2 ? node - 2 : node - 1);
    const auto sparse = [](Index i, Index j) { return (i * 3 + j * 5) % 4 == 0; };
    return std::vector<NamedMask>{
        {"no_mask", no_mask(), [](Index, Index, Index) { return true; }},
        {"causal", causal(), [](Index, Index q, Index kv) { return kv <= q; }},
        {"sliding_window", sliding_window(65),
         [](Index, Index q, Index kv) { return kv <= q && q - kv < 65; }},
        {"window", window(20, 9), [](Index, Index q, Index kv) { return q - kv <= 20 && kv - q <= 9; }},
        {"chunked", chunked(50),
         [](Index, Index q, Index kv) { return q >= 0 && kv <= q && kv / 50 == q / 50; }},
        {"prefix", prefix(100), [](Index, Index q, Index kv) { return kv <= q || kv < 100; }},
        {"sinks | sliding_window", sinks(4) | sliding_window(30),
         [](Index, Index q, Index kv) { return kv <= q && (kv < 4 || q - kv < 30); }},
        {"document", document(ids), [](Index, Index q, Index kv) { return q >= 0 && q / 37 == kv / 37; }},
        {"causal & document", causal() & document(ids),
         [](Index, Index q, Index kv) { return kv <= q && q / 37 == kv / 37; }},
        {"dilated", sliding_window(90) & dilated(7),
         [](Index, Index q, Index kv) { return kv <= q && q - kv < 90 && (q - kv) % 7 == 0; }},
        {"tree", tree(parents, tree_first),
         [=](Index, Index q, Index kv) {
           if (q < tree_first || kv < tree_first) return kv <= q;
           for (Index node = q - tree_first; node >= 0; node = parents[static_cast<std::size_t>(node)]) {
             if (node == kv - tree_first) return true;
           }
           return false;
         }},
        {"blocks", blocks(BlockMask::from_predicate({20, 30, 16, 11}, sparse)),
         [=](Index, Index q, Index kv) { return q >= 0 && sparse(q / 16, kv / 11); }},
        {"lambda", [](Index q, Index kv) { return (q * 7 + kv * 3) % 11 < 2; },
         [](Index, Index q, Index kv) { return (q * 7 + kv * 3) % 11 < 2; }},
        {"!sliding_window", causal() & !sliding_window(40),
         [](Index, Index q, Index kv) { return q - kv >= 40; }},
        {"nothing", !no_mask(), [](Index, Index, Index) { return false; }}};
  }();
  return list;
}

template <class T>
class MaskedAttention : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(MaskedAttention, Scalars);

TYPED_TEST(MaskedAttention, IsTheOracles) {
  for (const NamedMask& m : masks()) {
    std::uint64_t seed = 1;
    for (const Sizes& sizes : test::attention_shapes()) {
      SCOPED_TRACE(m.name);
      auto c = test::poisoned_case<TypeParam>(sizes, seed++, m.visible);
      auto problem = c.problem();
      problem.visible = m.visible;
      test::expect_attention_is(c, problem, true, m.mask);
    }
  }
}

TYPED_TEST(MaskedAttention, PerHeadWithoutSplittingTheCall) {
  for (const Sizes& sizes : test::attention_shapes()) {
    const Visible visible = [](Index h, Index q, Index kv) {
      return h % 3 == 0 ? kv <= q : h % 3 == 1 ? kv <= q && q - kv < 17 : kv <= q && (q + kv) % 2 == 0;
    };
    std::vector<AnyMask> list;
    for (Index h = 0; h < sizes.num_q_heads; ++h) {
      if (h % 3 == 0) list.emplace_back(causal());
      if (h % 3 == 1) list.emplace_back(sliding_window(17));
      if (h % 3 == 2) list.emplace_back(causal() & [](Index q, Index kv) { return (q + kv) % 2 == 0; });
    }
    auto c = test::poisoned_case<TypeParam>(sizes, 3, visible);
    auto problem = c.problem();
    problem.visible = visible;
    test::expect_attention_is(c, problem, true, per_head(list));
  }
}

TEST(MaskedAttention, ATensorPerHeadAndSequence) {
  const Index B = 2, H = 4, G = 2, Sq = 20, Sk = 75, D = 8;
  Eigen::Tensor<bool, 4, Eigen::RowMajor> mask(B, H, Sq, Sk);
  test::Random random(1);
  for (Index i = 0; i < mask.size(); ++i) mask.data()[i] = random.flip(0.4);
  Eigen::Tensor<float, 4, Eigen::RowMajor> q(B, Sq, H, D), k(B, Sk, G, D), v(B, Sk, G, D);
  std::vector<AttentionCase<float>> cases;
  for (Index b = 0; b < B; ++b) {
    cases.emplace_back(Sizes{Sq, Sk, H, G, D}, static_cast<std::uint64_t>(b + 5));
    std::copy(cases.back().q.begin(), cases.back().q.end(), &q(b, 0, 0, 0));
    std::copy(cases.back().k.begin(), cases.back().k.end(), &k(b, 0, 0, 0));
    std::copy(cases.back().v.begin(), cases.back().v.end(), &v(b, 0, 0, 0));
  }
  const auto out = attention(q, k, v, tensor_mask(mask) & causal());
  for (Index b = 0; b < B; ++b) {
    auto problem = cases[static_cast<std::size_t>(b)].problem();
    problem.visible = [&](Index h, Index q_pos, Index kv) {
      return kv <= q_pos && mask(b, h, q_pos - (Sk - Sq), kv);
    };
    const auto exact = reference::attention(problem);
    EXPECT_TRUE(test::out_within_naive_error<float>(
        std::span<const float>(&out(b, 0, 0, 0), exact.out.size()), problem, exact))
        << "sequence " << b;
  }
}

TEST(MaskedAttention, WrongShapesAreRefusedBeforeAnythingIsWritten) {
  AttentionCase<float> c(
      {.num_q_tokens = 2, .num_kv_tokens = 6, .num_q_heads = 2, .num_kv_heads = 1, .head_dim = 4}, 1);
  std::vector<float> out(16, 7);
  const TensorView<float> view(out.data(), 2, 2, 4);
  const bool values[64] = {};
  const auto run = [&](const auto& mask) { attention(c.q_view(), c.k_view(), c.v_view(), view, mask); };
  EXPECT_THROW(run(tensor_mask(ScoreTensor<bool>(values, {1, 3, 2, 6}))), std::invalid_argument);
  EXPECT_THROW(run(tensor_mask(ScoreTensor<bool>(values, {2, 1, 2, 6}))), std::invalid_argument);
  EXPECT_THROW(run(tensor_mask(ScoreTensor<bool>(values, {1, 1, 2, 7}))), std::invalid_argument);
  EXPECT_THROW(run(document({0, 0, 0})), std::invalid_argument);
  EXPECT_THROW(run(per_head({causal()})), std::invalid_argument);
  EXPECT_EQ(out, std::vector<float>(16, 7));
}

/// A view that notes which keys are asked for.
struct CountingView {
  using Scalar = float;
  ContiguousKV<float> inner;
  std::vector<int>* asked;

  Index num_seqs() const { return inner.num_seqs(); }
  Index num_kv_heads() const { return inner.num_kv_heads(); }
  Index head_dim() const { return inner.head_dim(); }
  Index value_dim() const { return inner.value_dim(); }
  Index scratch_bytes() const { return inner.scratch_bytes(); }
  Range retained(Index seq) const { return inner.retained(seq); }
  KVTile tile(Index seq, Index kv_head, Range want, void* scratch) const {
    const auto t = inner.tile(seq, kv_head, want, scratch);
    for (Index j = want.begin; j < want.begin + t.size; ++j) ++(*asked)[static_cast<std::size_t>(j)];
    return t;
  }
};

TEST(MaskedAttention, RuledOutTilesAreNeverRead) {
  const Index Sk = 2000;
  for (const Index Sq : {Index{1}, Index{40}}) {
    AttentionCase<float> c(
        {.num_q_tokens = Sq, .num_kv_tokens = Sk, .num_q_heads = 3, .num_kv_heads = 1, .head_dim = 8}, 1);
    std::vector<float> out(static_cast<std::size_t>(Sq * 3 * 8));
    const auto run = [&](const auto& mask) {
      std::vector<int> asked(static_cast<std::size_t>(Sk));
      const CountingView view{ContiguousKV<float>(c.k_view(), c.v_view()), &asked};
      attention(c.q_view(), view, TensorView<float>(out.data(), Sq, 3, 8), mask);
      for (Index tile = 0; tile * 64 < Sk; ++tile) {
        const Range keys = {tile * 64, std::min(Sk, tile * 64 + 64)};
        bool seen = false;
        for (Index h = 0; h < 3; ++h)
          seen |= mask_for(mask, 0, h).coverage({Sk - Sq, Sk}, keys) != Coverage::none;
        for (Index j = keys.begin; j < keys.end; ++j) {
          ASSERT_EQ(asked[static_cast<std::size_t>(j)] > 0, seen) << "key " << j << ", " << Sq << " queries";
        }
      }
    };
    run(causal());
    run(sliding_window(100));
    run(sinks(4) | sliding_window(300));
    run(chunked(512));
    run(causal() & !sliding_window(600));
    run(blocks(
        BlockMask::from_predicate({32, 32, 64, 64}, [](Index i, Index j) { return (i + j) % 5 == 0; })));
    run(per_head({sliding_window(10), sinks(70), causal() & dilated(500)}));
  }
}

}  // namespace
}  // namespace gqa
