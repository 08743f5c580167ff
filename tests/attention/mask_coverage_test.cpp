// SPDX-License-Identifier: Apache-2.0
// Masks that are right but know little: whatever they answer of blocks, as long as it is not wrong, the
// result is theirs.
#include <gtest/gtest.h>

#include "attention/attend.hpp"
#include "gqa/gqa.hpp"

namespace gqa {
namespace {

using test::AttentionCase;
using test::Result;
using test::Sizes;

/// A band that hesitates: small blocks are partial whatever they hold, of large ones it may know that they
/// are none.
struct Hesitant {
  Window band;
  Index knows_from;  // the size of blocks of queries from which it answers
  bool knows_full;

  bool operator()(Index q_pos, Index kv_pos) const { return band(q_pos, kv_pos); }
  Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    const Coverage truth = band.coverage(q, kv);
    if (q.size() >= knows_from && (truth == Coverage::none || knows_full)) return truth;
    return Coverage::partial;
  }
};

/// The band, but every other tile is ruled out: known of large blocks only. The tiles between are known
/// exactly.
struct Checkered {
  Window band;
  Index knows_from;

  bool operator()(Index q_pos, Index kv_pos) const {
    return band(q_pos, kv_pos) && kv_pos / tile_keys % 2 == 1;
  }
  Coverage coverage(Range q, Range kv) const {
    if (q.empty() || kv.empty()) return Coverage::none;
    const Index first = kv.begin / tile_keys;
    if (first != (kv.end - 1) / tile_keys) return Coverage::partial;
    if (first % 2 == 1) return band.coverage(q, kv);
    return q.size() >= knows_from ? Coverage::none : Coverage::partial;
  }
};

template <class T>
class MaskCoverage : public ::testing::Test {};
using Scalars = ::testing::Types<float, bfloat16>;
TYPED_TEST_SUITE(MaskCoverage, Scalars, test::ScalarNames);

TYPED_TEST(MaskCoverage, MasksThatHesitateAreTheMasksTheyAre) {
  using T = TypeParam;
  for (const Sizes& sizes : {Sizes{1, 700, 4, 2, 16}, Sizes{400, 600, 2, 1, 16}, Sizes{300, 300, 8, 1, 16}}) {
    AttentionCase<T> c(sizes, 1);
    // NaN where no query looks.
    const auto poisoned = [&](const Window& band) {
      AttentionCase<T> p = c;
      for (Index j = 0; j < sizes.num_kv_tokens; ++j) {
        if (band.bounds({sizes.num_kv_tokens - sizes.num_q_tokens, sizes.num_kv_tokens}).contains(j))
          continue;
        for (auto* x : {&p.k, &p.v}) {
          const Index each = static_cast<Index>(x->size()) / sizes.num_kv_tokens;
          std::fill_n(x->begin() + j * each, each, std::numeric_limits<T>::quiet_NaN());
        }
      }
      return p;
    };
    for (const Window band : {causal(), sliding_window(30), window(10, 5), window(400, -1)}) {
      const auto expected = test::run(c, {.mask = band});
      for (Index knows_from : {1, 2, 100, 1000000}) {
        for (bool knows_full : {false, true}) {
          const auto p = poisoned(band);
          Result<T> result{std::vector<T>(expected.out.size(), T(7)),
                           std::vector<float>(expected.lse.size(), 7)};
          Workspace workspace;
          std::memset(workspace.reserve(1 << 24), 0xff, 1 << 24);  // what is not written must not count
          attention(p.q_view(), p.k_view(), p.v_view(),
                    TensorView<T>(result.out.data(), sizes.num_q_tokens, sizes.num_q_heads, sizes.value_dim),
                    Hesitant{band, knows_from, knows_full}, AttentionOptions{.workspace = &workspace},
                    LseOutput<float>{{result.lse.data(), 1, sizes.num_q_tokens, sizes.num_q_heads, 0,
                                      sizes.num_q_heads, 1}});
          EXPECT_TRUE(same(result, expected)) << sizes.name() << ", knows from " << knows_from << " queries";
        }
      }
    }
  }
}

TYPED_TEST(MaskCoverage, WhatIsKnownOfMoreQueriesOnlyIsNotReadForFewer) {
  // Queries are planned in hundreds and computed in tens: a tile may be known to be ruled out for the many,
  // and not be there when the few hesitate.
  using T = TypeParam;
  AttentionCase<T> c(Sizes{400, 700, 2, 1, 16}, 2);
  for (const Window band : {causal(), sliding_window(30), sliding_window(100)}) {
    auto problem = c.problem();
    const Checkered exact_mask{band, 0};
    problem.visible = [=](Index, Index q_pos, Index kv_pos) { return exact_mask(q_pos, kv_pos); };
    const auto exact = reference::attention(problem);
    for (Index knows_from : {1, 40, 97, 150, 200, 300, 1000}) {
      Workspace workspace;
      std::memset(workspace.reserve(1 << 24), 0xff, 1 << 24);
      Result<T> result{std::vector<T>(exact.out.size(), T(7)), std::vector<float>(exact.lse.size(), 7)};
      attention(c.q_view(), c.k_view(), c.v_view(), TensorView<T>(result.out.data(), 400, 2, 16),
                Checkered{band, knows_from}, AttentionOptions{.workspace = &workspace},
                LseOutput<float>{{result.lse.data(), 1, 400, 2, 0, 2, 1}});
      EXPECT_TRUE(test::within_bound(result, problem, exact, test::naive_attention<T>(problem)))
          << "knows from " << knows_from << " queries";
    }
  }
}

}  // namespace
}  // namespace gqa
