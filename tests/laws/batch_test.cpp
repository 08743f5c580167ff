// SPDX-License-Identifier: Apache-2.0
// A batch cache is a KVCache for each sequence: the same tokens and the same bits of attention, after any
// operations.
#include "gqa/kv/batch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/attention.hpp"
#include "gqa/kv/cache.hpp"
#include "gqa/kv/kv_list.hpp"
#include "gqa/mask.hpp"
#include "support/attention_case.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::random_values;

constexpr Index L = 2, G = 2, H = 6, D = 20, Dv = 17, B = 4, max_tokens = 700;

template <class T>
std::vector<T> joined(const std::vector<std::vector<T>>& each) {
  std::vector<T> all;
  for (const auto& x : each) all.insert(all.end(), x.begin(), x.end());
  return all;
}

/// The same operations on a batch cache and on caches apart, with a different writing each time.
template <class T>
class Twins {
 public:
  Twins()
      : batch_({.num_seqs = B,
                .max_tokens = max_tokens,
                .num_layers = L,
                .num_kv_heads = G,
                .head_dim = D,
                .value_dim = Dv}) {
    for (Index seq = 0; seq < B; ++seq)
      apart_.emplace_back(typename KVCache<T>::Config{
          .max_tokens = max_tokens, .num_layers = L, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
  }

  Index size(Index seq) const { return apart_[static_cast<std::size_t>(seq)].size(); }

  /// `alike`: by extend(n) of all. Then rank 4, ragged, or padded by turns.
  void add(const std::vector<Index>& n, bool alike) {
    const std::vector<Span> spans = alike ? batch_.extend(n[0]) : batch_.extend(n);
    std::vector<Span> own;
    for (std::size_t seq = 0; seq < n.size(); ++seq) {
      own.push_back(apart_[seq].extend(n[seq]));
      ASSERT_EQ(spans[seq].positions, own[seq].positions);
    }
    const Index longest = std::ranges::max(n);
    const bool packed = ++turn_ % 2 == 0;
    for (Index layer = 0; layer < L; ++layer) {
      std::vector<std::vector<float>> k, v;
      std::vector<Index> offsets = {0};
      for (std::size_t seq = 0; seq < n.size(); ++seq) {
        const Index rows = packed ? n[seq] : longest;
        k.push_back(random_values<float>(++seed_, rows * G * D));
        v.push_back(random_values<float>(++seed_, rows * G * Dv));
        offsets.push_back(offsets.back() + rows);
        apart_[seq].write(layer, own[seq], TensorView<const float>(k.back().data(), n[seq], G, D),
                          TensorView<const float>(v.back().data(), n[seq], G, Dv));
      }
      const auto all_k = joined(k), all_v = joined(v);
      if (packed) {
        const TensorView<const float> tk(all_k.data(), offsets.back(), G, D),
            tv(all_v.data(), offsets.back(), G, Dv);
        batch_.write(layer, spans, ragged(tk, offsets), ragged(tv, offsets));
      } else {
        batch_.write(layer, spans, TensorView<const float>(all_k.data(), B, longest, G, D),
                     TensorView<const float>(all_v.data(), B, longest, G, Dv));
      }
    }
  }

  void truncate(Index seq, Index n) {
    batch_.truncate(seq, n);
    apart_[static_cast<std::size_t>(seq)].truncate(n);
  }
  void truncate(Index n) {
    batch_.truncate(n);
    for (auto& each : apart_) each.truncate(n);
  }
  void clear(Index seq) {
    batch_.clear(seq);
    apart_[static_cast<std::size_t>(seq)].clear();
  }
  void reorder(const std::vector<Index>& parents) {
    batch_.reorder(parents);
    std::vector<KVCache<T>> next;
    for (const Index parent : parents) next.push_back(apart_[static_cast<std::size_t>(parent)].clone());
    apart_ = std::move(next);
  }
  void replace_by_clone() { batch_ = batch_.clone(); }

  void expect_same() {
    Index bytes = 0;
    for (Index layer = 0; layer < L; ++layer) {
      std::vector<typename KVCache<T>::View> views;
      for (Index seq = 0; seq < B; ++seq) {
        const auto& one = apart_[static_cast<std::size_t>(seq)];
        const Index n = one.size();
        ASSERT_EQ(batch_.size(seq), n);
        std::vector<T> k(static_cast<std::size_t>(n * G * D)), v(static_cast<std::size_t>(n * G * Dv)),
            k1 = k, v1 = v;
        batch_.read(layer, seq, {0, n}, TensorView<T>(k.data(), n, G, D), TensorView<T>(v.data(), n, G, Dv));
        one.read(layer, {0, n}, TensorView<T>(k1.data(), n, G, D), TensorView<T>(v1.data(), n, G, Dv));
        ASSERT_TRUE(same_bits(k, k1)) << "k of " << seq;
        ASSERT_TRUE(same_bits(v, v1)) << "v of " << seq;
        views.push_back(one.layer(layer));
        bytes += layer == 0 ? one.bytes() : 0;
      }
      const KVList list(std::move(views));
      const auto view = batch_.layer(layer);
      // A decode step of all at once, and a prefill of another number of queries each.
      const auto q1 = random_values<T>(++seed_, B * H * D);
      const TensorView<const T> one_each(q1.data(), B, 1, H, D);
      expect_same_bits(attention(one_each, view, causal()), attention(one_each, list, causal()));
      const std::vector<Index> offsets = {0, 3, 3, 70, 71};
      const auto q = random_values<T>(++seed_, 71 * H * D);
      const TensorView<const T> packed(q.data(), 71, H, D);
      const auto queries = ragged(packed, offsets);
      expect_same_bits(attention(queries, view, causal()), attention(queries, list, causal()));
    }
    EXPECT_EQ(batch_.bytes(), bytes);
  }

 private:
  static bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return std::ranges::equal(std::as_bytes(std::span(a)), std::as_bytes(std::span(b)));
  }
  template <class X>
  static void expect_same_bits(const X& a, const X& b) {
    ASSERT_EQ(a.size(), b.size());
    ASSERT_EQ(std::memcmp(static_cast<const void*>(a.data()), static_cast<const void*>(b.data()),
                          static_cast<std::size_t>(a.size()) * sizeof(T)),
              0);
  }

  BatchCache<T> batch_;
  std::vector<KVCache<T>> apart_;
  std::uint64_t seed_ = 0;
  int turn_ = 0;
};

template <class T>
class BatchLaw : public ::testing::Test {};
TYPED_TEST_SUITE(BatchLaw, test::AllScalars);

TYPED_TEST(BatchLaw, GrowsAsCachesApart) {
  Twins<TypeParam> twins;
  for (const std::vector<Index>& n : std::vector<std::vector<Index>>{{65, 65, 65, 65},
                                                                     {1, 1, 1, 1},
                                                                     {1, 0, 3, 2},
                                                                     {0, 130, 0, 7},
                                                                     {1, 1, 1, 1},
                                                                     {500, 1, 0, 64},
                                                                     {0, 0, 0, 0}}) {
    twins.add(n, std::ranges::count(n, n[0]) == B);
    twins.expect_same();
  }
}

TYPED_TEST(BatchLaw, BeamsChangePlaces) {
  Twins<TypeParam> twins;
  twins.add({600, 3, 65, 130}, false);
  for (const std::vector<Index>& parents : std::vector<std::vector<Index>>{{0, 1, 2, 3},
                                                                           {1, 0, 3, 2},
                                                                           {2, 2, 2, 2},
                                                                           {0, 0, 1, 3},
                                                                           {3, 1, 1, 0},
                                                                           {1, 2, 3, 0},
                                                                           {3, 3, 0, 0}}) {
    twins.reorder(parents);
    twins.expect_same();
    twins.add({1, 1, 1, 1}, true);
    twins.add({0, 2, 31, 1}, false);
    twins.expect_same();
  }
}

TYPED_TEST(BatchLaw, AnyOperationsInAnyOrder) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    test::Random random(seed);
    const auto below = [&](Index n) { return random.integer(0, n - 1); };
    Twins<TypeParam> twins;
    for (int step = 0; step < 60; ++step) {
      const Index seq = below(B);
      switch (below(8)) {
        case 0:
          twins.truncate(seq, below(twins.size(seq) + 1));
          break;
        case 1:
          twins.clear(seq);
          break;
        case 2: {
          std::vector<Index> parents;
          for (Index i = 0; i < B; ++i) parents.push_back(below(B));
          twins.reorder(parents);
          break;
        }
        case 3: {
          Index least = max_tokens;
          for (Index i = 0; i < B; ++i) least = std::min(least, twins.size(i));
          twins.truncate(below(least + 1));
          break;
        }
        case 4:
          twins.replace_by_clone();
          break;
        default: {
          const bool alike = below(2) == 0;
          Index room = 70;
          for (Index i = 0; i < B; ++i) room = std::min(room, max_tokens - twins.size(i));
          std::vector<Index> n;
          for (Index i = 0; i < B; ++i) n.push_back(alike && i > 0 ? n[0] : below(room + 1));
          twins.add(n, alike);
        }
      }
      if (step % 4 == 3) twins.expect_same();
      if (this->HasFatalFailure()) FAIL() << "seed " << seed << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace gqa
