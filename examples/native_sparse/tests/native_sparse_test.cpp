// SPDX-License-Identifier: Apache-2.0
// The three branches against their definitions in double, which share nothing with the library.
#include "native_sparse.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>

#include "gqa/attention.hpp"
#include "gqa/mask/window.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"

namespace native_sparse {
namespace {

using gqa::test::message_of;
using gqa::test::random_values;
using Vector = std::vector<double>;

constexpr Config small{.num_q_heads = 6,
                       .num_kv_heads = 2,
                       .head_dim = 12,
                       .value_dim = 8,
                       .block = 12,
                       .stride = 4,
                       .page = 16,
                       .pages = 4,
                       .window = 21,
                       .max_tokens = 150,
                       .max_span = 64,
                       .scale = 0.4};

/// Tokens of a sequence, with keys and values of their own for each branch.
struct Sequence {
  explicit Sequence(const Config& config) : c(config) {}

  const Config& c;
  Index n = c.max_tokens;
  std::vector<float> q = random_values<float>(1, n* c.num_q_heads* c.head_dim);
  std::vector<float> k[3] = {keys(2), keys(3), keys(4)}, v[3] = {values(5), values(6), values(7)};
  std::vector<float> gates = random_values<float>(8, n* c.num_q_heads * 3);

  std::vector<float> keys(unsigned seed) const {
    return random_values<float>(seed, n * c.num_kv_heads * c.head_dim);
  }
  std::vector<float> values(unsigned seed) const {
    return random_values<float>(seed, n * c.num_kv_heads * c.value_dim);
  }

  /// Fed in pieces, to a layer of its own unless one is given.
  std::vector<float> run(NativeSparse& layer, Index piece, KeysRead* read = nullptr) const {
    Eigen::ThreadPool pool(2);
    std::vector<float> out(static_cast<std::size_t>(n * c.num_q_heads * c.value_dim), -1);
    for (Index begin = 0; begin < n; begin += piece) {
      const Index count = std::min(piece, n - begin);
      const auto part = [&](const std::vector<float>& x, Index heads, Index dim) {
        return Tokens(x.data() + begin * heads * dim, count, heads, dim);
      };
      const auto branch = [&](int i) {
        return KeysValues{part(k[i], c.num_kv_heads, c.head_dim), part(v[i], c.num_kv_heads, c.value_dim)};
      };
      const KeysRead more =
          layer.forward(gqa::PoolExecutor(pool), part(q, c.num_q_heads, c.head_dim),
                        {branch(0), branch(1), branch(2)}, part(gates, c.num_q_heads, 3),
                        gqa::TensorView<float>(out.data() + begin * c.num_q_heads * c.value_dim, count,
                                               c.num_q_heads, c.value_dim));
      if (read != nullptr)
        *read = {read->compressed + more.compressed, read->selected + more.selected,
                 read->window + more.window, read->all + more.all};
    }
    return out;
  }
};

/// One query head's softmax over some keys, and its output.
struct Softmax {
  Vector p, out;

  Softmax(const float* q, const std::vector<Vector>& keys, const std::vector<Vector>& values, double scale,
          Index value_dim)
      : out(static_cast<std::size_t>(value_dim)) {
    double sum = 0;
    for (const Vector& key : keys) {
      double s = 0;
      for (std::size_t d = 0; d < key.size(); ++d) s += static_cast<double>(q[d]) * key[d];
      p.push_back(std::exp(s * scale));
      sum += p.back();
    }
    for (std::size_t j = 0; j < p.size(); ++j) {
      p[j] /= sum;
      for (std::size_t d = 0; d < out.size(); ++d) out[d] += p[j] * values[j][d];
    }
  }
};

/// One token by the definition, and the pages that each KV head selects.
struct Naive {
  const Sequence& s;
  const Config& c = s.c;
  /// Compresses a block's tokens, one vector each.
  std::function<Vector(const std::vector<Vector>&)> compress_keys, compress_values;

  Vector row(const std::vector<float>& x, Index t, Index g, Index dim) const {
    const float* from = x.data() + (t * c.num_kv_heads + g) * dim;
    return {from, from + dim};
  }
  std::vector<Vector> rows(const std::vector<float>& x, const std::set<Index>& tokens, Index g,
                           Index dim) const {
    std::vector<Vector> all;
    for (const Index t : tokens) all.push_back(row(x, t, g, dim));
    return all;
  }

  Vector token(Index t, std::vector<std::set<Index>>* selected = nullptr) const {
    Vector out;
    const Index group = c.num_q_heads / c.num_kv_heads;
    for (Index g = 0; g < c.num_kv_heads; ++g) {
      std::vector<Vector> block_k, block_v;
      for (Index begin = 0; begin + c.block <= t + 1; begin += c.stride) {
        std::set<Index> block;
        for (Index j = begin; j < begin + c.block; ++j) block.insert(j);
        block_k.push_back(compress_keys(rows(s.k[0], block, g, c.head_dim)));
        block_v.push_back(compress_values(rows(s.v[0], block, g, c.value_dim)));
      }
      std::vector<Softmax> compressed;
      Vector worth(static_cast<std::size_t>(t / c.page + 1));
      for (Index h = g * group; h < (g + 1) * group; ++h) {
        compressed.emplace_back(query(t, h), block_k, block_v, c.scale, c.value_dim);
        // For every stride that a block covers, its probability to the page that the stride is in.
        for (std::size_t i = 0; i < block_k.size(); ++i) {
          const Index begin = static_cast<Index>(i) * c.stride;
          for (Index j = begin; j < begin + c.block; j += c.stride)
            if (j / c.page < std::ssize(worth))
              worth[static_cast<std::size_t>(j / c.page)] += compressed.back().p[i];
        }
      }
      const Index pages = std::ssize(worth);
      std::set<Index> chosen = {0, pages - 1, std::max<Index>(pages - 2, 0)};
      while (std::ssize(chosen) < std::min(c.pages, pages)) {
        Index best = -1;
        for (Index p = 0; p < pages; ++p)
          if (chosen.count(p) == 0 &&
              (best < 0 || worth[static_cast<std::size_t>(p)] > worth[static_cast<std::size_t>(best)]))
            best = p;
        chosen.insert(best);
      }
      if (selected != nullptr) selected->push_back(chosen);
      std::set<Index> in_pages, in_window;
      for (Index j = 0; j <= t; ++j) {
        if (chosen.count(j / c.page) > 0) in_pages.insert(j);
        if (t - j < c.window) in_window.insert(j);
      }
      for (Index h = g * group; h < (g + 1) * group; ++h) {
        const float* gate = s.gates.data() + (t * c.num_q_heads + h) * 3;
        const Softmax slc(query(t, h), rows(s.k[1], in_pages, g, c.head_dim),
                          rows(s.v[1], in_pages, g, c.value_dim), c.scale, c.value_dim);
        const Softmax win(query(t, h), rows(s.k[2], in_window, g, c.head_dim),
                          rows(s.v[2], in_window, g, c.value_dim), c.scale, c.value_dim);
        const Softmax& cmp = compressed[static_cast<std::size_t>(h - g * group)];
        for (std::size_t d = 0; d < win.out.size(); ++d)
          out.push_back(gate[0] * cmp.out[d] + gate[1] * slc.out[d] + gate[2] * win.out[d]);
      }
    }
    return out;
  }

  const float* query(Index t, Index h) const { return s.q.data() + (t * c.num_q_heads + h) * c.head_dim; }
};

Vector mean_of(const std::vector<Vector>& block) {
  Vector sum(block[0].size());
  for (const Vector& x : block)
    for (std::size_t d = 0; d < sum.size(); ++d) sum[d] += x[d] / static_cast<double>(block.size());
  return sum;
}

/// Scores of a dozen products below 1, softmax and a sum of means: a few dozen half epsilons of float.
void expect_definition(const Naive& naive, const std::vector<float>& out) {
  std::size_t at = 0;
  for (Index t = 0; t < naive.s.n; ++t)
    for (const double x : naive.token(t)) {
      ASSERT_NEAR(static_cast<double>(out[at]), x, 1e-5) << "token " << t;
      ++at;
    }
}

TEST(NativeSparse, IsItsDefinitionInPrefillChunksAndDecode) {
  const Sequence s(small);
  NativeSparse layer(small);
  const std::vector<float> out = s.run(layer, 150);
  const Naive naive{.s = s, .compress_keys = mean_of, .compress_values = mean_of};
  expect_definition(naive, out);

  std::vector<std::set<Index>> chosen;
  naive.token(149, &chosen);
  EXPECT_NE(chosen[0], chosen[1]) << "heads that choose alike would hide a mistake";
  for (Index g = 0; g < 2; ++g)
    for (Index page = 0; page < 10; ++page)
      EXPECT_EQ(layer.last_selection()->contains(g, page),
                chosen[static_cast<std::size_t>(g)].count(page) > 0);

  for (const Index piece : {1, 7, 64}) {
    NativeSparse other(small);
    EXPECT_EQ(s.run(other, piece), out) << piece;
  }
}

TEST(NativeSparse, LearnsHowToCompress) {
  Config c = small;
  c.block = c.stride = c.page = 8;  // none overlap
  c.max_tokens = 90;
  const Sequence s(c);
  const auto matrix = [&](unsigned seed, Index dim) {
    std::vector<float> w = random_values<float>(seed, dim * 8 * dim);
    for (float& x : w) x /= 8;
    return w;
  };
  const auto wk = matrix(11, 12), bk = random_values<float>(12, 12), wv = matrix(13, 8),
             bv = random_values<float>(14, 8);
  const auto naive_linear = [](const std::vector<float>& w, const std::vector<float>& b) {
    return [&w, &b](const std::vector<Vector>& block) {
      Vector y(b.begin(), b.end());
      for (std::size_t i = 0; i < y.size(); ++i)
        for (std::size_t j = 0; j < block.size(); ++j)
          for (std::size_t d = 0; d < y.size(); ++d)
            y[i] += static_cast<double>(w[(i * block.size() + j) * y.size() + d]) * block[j][d];
      return y;
    };
  };
  NativeSparse layer(c, LinearCompression(8, 12, wk, bk), LinearCompression(8, 8, wv, bv));
  const std::vector<float> out = s.run(layer, 13);
  EXPECT_EQ(layer.num_blocks(), 11);
  expect_definition({.s = s, .compress_keys = naive_linear(wk, bk), .compress_values = naive_linear(wv, bv)},
                    out);
}

TEST(NativeSparse, EverythingSelectedIsAttentionToTheBit) {
  Config c = small;
  c.pages = 10;
  Sequence s(c);
  for (std::size_t i = 0; i < s.gates.size(); ++i) s.gates[i] = i % 3 == 1 ? 1.0F : 0.0F;
  NativeSparse layer(c);
  KeysRead read;
  const std::vector<float> out = s.run(layer, 9, &read);
  std::vector<float> expected(out.size());
  gqa::attention(Tokens(s.q.data(), 150, 6, 12), Tokens(s.k[1].data(), 150, 2, 12),
                 Tokens(s.v[1].data(), 150, 2, 8), gqa::TensorView<float>(expected.data(), 150, 6, 8),
                 gqa::causal(), gqa::AttentionOptions{.scale = c.scale});
  EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0);
  EXPECT_EQ(read.selected, 150 * 151 / 2);
  EXPECT_EQ(read.all, 150 * 151 / 2);
  EXPECT_EQ(read.compressed + read.window, 0);
}

TEST(NativeSparse, CountsWhatItReads) {
  const Sequence s(small);
  NativeSparse layer(small);
  KeysRead read;
  s.run(layer, 50, &read);
  double compressed = 0, selected = 0, window = 0;
  for (Index t = 0; t < 150; ++t) {
    for (Index begin = 0; begin + 12 <= t + 1; begin += 4) ++compressed;
    const double pages = static_cast<double>(std::min<Index>(4, t / 16 + 1));
    selected += 16 * pages - static_cast<double>(15 - t % 16);
    window += static_cast<double>(std::min<Index>(21, t + 1));
  }
  EXPECT_EQ(read.compressed, compressed);
  EXPECT_EQ(read.selected, selected);
  EXPECT_EQ(read.window, window);
  EXPECT_EQ(layer.num_blocks(), 35);
  EXPECT_EQ(layer.size(), 150);
}

TEST(NativeSparse, DoesNotReadABranchThatIsShut) {
  Sequence s(small);
  for (std::size_t i = 0; i < s.gates.size(); ++i) s.gates[i] = i % 3 == 2 ? 0.5F : 0.0F;
  NativeSparse clean(small), dirty(small);
  const std::vector<float> out = s.run(clean, 40);
  for (int i : {0, 1}) {
    std::ranges::fill(s.k[i], std::numeric_limits<float>::quiet_NaN());
    std::ranges::fill(s.v[i], std::numeric_limits<float>::quiet_NaN());
  }
  EXPECT_EQ(s.run(dirty, 40), out);
}

TEST(NativeSparse, MergesSelectedAndWindowExactly) {
  const Sequence s(small);
  NativeSparse layer(small);
  s.run(layer, 150);
  std::vector<float> merged(6 * 8);
  Eigen::ThreadPool pool(1);
  attend_to_both(gqa::PoolExecutor(pool), Tokens(s.q.data() + 149 * 6 * 12, 1, 6, 12), layer.keys(),
                 *layer.last_selection(), small.window, small.scale,
                 gqa::TensorView<float>(merged.data(), 1, 6, 8));
  const Naive naive{.s = s, .compress_keys = mean_of, .compress_values = mean_of};
  std::vector<std::set<Index>> chosen;
  naive.token(149, &chosen);
  for (Index h = 0; h < 6; ++h) {
    std::set<Index> both;
    for (Index j = 0; j < 150; ++j)
      if (149 - j < 21 || chosen[static_cast<std::size_t>(h / 3)].count(j / 16) > 0) both.insert(j);
    const Softmax softmax(naive.query(149, h), naive.rows(s.k[1], both, h / 3, 12),
                          naive.rows(s.v[1], both, h / 3, 8), small.scale, 8);
    for (std::size_t d = 0; d < 8; ++d)
      EXPECT_NEAR(static_cast<double>(merged[static_cast<std::size_t>(h) * 8 + d]), softmax.out[d], 1e-5);
  }
}

TEST(NativeSparse, RefusesWhatDoesNotBelongTogether) {
  const auto said = [](auto change) {
    Config c = small;
    change(c);
    return message_of([&] { NativeSparse{c}; });
  };
  EXPECT_EQ(said([](Config& c) { c.num_q_heads = 5; }),
            "num_q_heads is 5, expected a multiple of the 2 of num_kv_heads");
  EXPECT_EQ(said([](Config& c) { c.block = 10; }), "block is 10, expected a multiple of the stride of 4");
  EXPECT_EQ(said([](Config& c) { c.page = 0; }), "page is 0, expected a multiple of the stride of 4");
  EXPECT_EQ(said([](Config& c) { c.stride = 0; }), "stride is 0, expected at least 1");
  EXPECT_EQ(said([](Config& c) { c.pages = 2; }),
            "pages is 2, expected at least 3: the first and the two newest");
  EXPECT_EQ(said([](Config& c) { c.window = 0; }), "window is 0, expected at least 1");
  EXPECT_EQ(message_of([] { LinearCompression(3, 2, std::vector<float>(11), std::vector<float>(2)); }),
            "weight: size is 11, expected 2 x 6");
  EXPECT_EQ(message_of([] {
              NativeSparse(small,
                           LinearCompression(8, 12, std::vector<float>(8 * 144), std::vector<float>(12)));
            }),
            "block: size is 12 x 12, expected 8 x 12");

  const Sequence s(small);
  NativeSparse layer(small);
  Eigen::ThreadPool pool(1);
  const KeysValues kv{Tokens(s.k[0].data(), 5, 2, 12), Tokens(s.v[0].data(), 5, 2, 8)};
  std::vector<float> out(150 * 6 * 8);
  const auto forward = [&](Index n, const KeysValues& window) {
    return message_of([&] {
      layer.forward(gqa::PoolExecutor(pool), Tokens(s.q.data(), n, 6, 12), {kv, kv, window},
                    Tokens(s.gates.data(), n, 6, 3), gqa::TensorView<float>(out.data(), n, 6, 8));
    });
  };
  EXPECT_EQ(forward(4, kv), "k: size is 5 x 2 x 12, expected 4 x 2 x 12");
  EXPECT_EQ(forward(5, {kv.v, kv.v}), "k: size is 5 x 2 x 8, expected 5 x 2 x 12");
  EXPECT_EQ(layer.size(), 0);
  s.run(layer, 150);
  EXPECT_THROW(forward(5, kv), std::length_error);
  EXPECT_EQ(layer.size(), 150);
}

}  // namespace
}  // namespace native_sparse
