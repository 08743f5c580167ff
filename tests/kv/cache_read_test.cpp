// SPDX-License-Identifier: Apache-2.0
// What was written to a cache can be had back, to the bit or to the nearest value.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "kv/cache_reader.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using test::message_of;
using test::random_values;

/// As wide as a T.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

/// The bits, all NaNs alike where a conversion makes them.
template <class T>
auto bits(T x, bool converted) {
  if (converted && std::isnan(static_cast<double>(x))) x = std::numeric_limits<T>::quiet_NaN();
  return std::bit_cast<Bits<T>>(x);
}

/// Values of all kinds: random, huge and tiny, zeros of both signs, infinities, NaNs with a payload.
template <class T>
std::vector<T> some_values(std::uint64_t seed, Index n) {
  auto values = random_values<T>(seed, n);
  for (std::size_t i = 0; i < values.size(); i += 7) {
    const double x = static_cast<double>(values[i]);
    switch (i / 7 % 8) {
      case 0:
        values[i] = static_cast<T>(-0.0);
        break;
      case 1:
        values[i] = std::numeric_limits<T>::infinity();
        break;
      case 2:
        std::memset(static_cast<void*>(&values[i]), 0xff, sizeof(T));
        break;
      case 3:
        values[i] = static_cast<T>(x * 1e-5);
        break;
      case 4:
        values[i] = static_cast<T>(x * 1e-40);
        break;
      case 5:
        values[i] = static_cast<T>(x * 1e5);
        break;
      case 6:
        values[i] = static_cast<T>(x * 1e38);
        break;
      default:
        values[i] = static_cast<T>(-1e-300);
    }
  }
  return values;
}

template <class Pair>
class CacheRead : public ::testing::Test {};
using Pairs =
    ::testing::Types<std::tuple<float, float>, std::tuple<float, double>, std::tuple<float, half>,
                     std::tuple<float, bfloat16>, std::tuple<double, float>, std::tuple<double, double>,
                     std::tuple<double, half>, std::tuple<double, bfloat16>, std::tuple<half, float>,
                     std::tuple<half, double>, std::tuple<half, half>, std::tuple<half, bfloat16>,
                     std::tuple<bfloat16, float>, std::tuple<bfloat16, double>, std::tuple<bfloat16, half>,
                     std::tuple<bfloat16, bfloat16>>;
struct PairNames {
  template <class Pair>
  static std::string GetName(int) {
    return std::string(scalar_name<std::tuple_element_t<0, Pair>>()) + "_to_" +
           scalar_name<std::tuple_element_t<1, Pair>>();
  }
};
TYPED_TEST_SUITE(CacheRead, Pairs, PairNames);

struct Shape {
  Index head_dim, value_dim;
};

TYPED_TEST(CacheRead, GivesBackWhatWasWritten) {
  using T = std::tuple_element_t<0, TypeParam>;
  using To = std::tuple_element_t<1, TypeParam>;
  constexpr bool converted = !std::is_same_v<T, To>;
  const Index N = 600, G = 2, L = 2;
  for (const Shape shape : {Shape{1, 1}, Shape{2, 7}, Shape{33, 40}, Shape{64, 16}, Shape{80, 129}}) {
    KVCache<T> cache({.max_tokens = N,
                      .num_layers = L,
                      .num_kv_heads = G,
                      .head_dim = shape.head_dim,
                      .value_dim = shape.value_dim});
    std::vector<std::vector<T>> k, v;
    const Span all = cache.extend(N);
    for (Index layer = 0; layer < L; ++layer) {
      k.push_back(some_values<T>(static_cast<std::uint64_t>(layer + 1), N * G * shape.head_dim));
      v.push_back(some_values<T>(static_cast<std::uint64_t>(layer + 9), N * G * shape.value_dim));
      cache.write(layer, all, TensorView<const T>(k.back().data(), N, G, shape.head_dim),
                  TensorView<const T>(v.back().data(), N, G, shape.value_dim));
    }
    for (const Range range :
         {Range{0, 600}, Range{0, 1}, Range{1, 2}, Range{63, 65}, Range{3, 511}, Range{511, 513},
          Range{599, 600}, Range{100, 100}, Range{600, 600}, Range{64, 128}}) {
      const Index n = range.size(), D = shape.head_dim, Dv = shape.value_dim;
      const To guard = static_cast<To>(77);
      // Rows further apart than they are long: what is between them is left alone.
      std::vector<To> keys(static_cast<std::size_t>(n * G * (D + 3)), guard),
          values(static_cast<std::size_t>(n * G * (Dv + 1)), guard);
      const TensorView<To> to_k(keys.data(), {1, n, G, D}, {0, G * (D + 3), D + 3}),
          to_v(values.data(), {1, n, G, Dv}, {0, Dv + 1, n * (Dv + 1)});
      for (Index layer = 0; layer < L; ++layer) {
        cache.read(layer, range, to_k, to_v);
        const TensorView<const T> from_k(k[static_cast<std::size_t>(layer)].data(), N, G, D),
            from_v(v[static_cast<std::size_t>(layer)].data(), N, G, Dv);
        for (Index t = 0; t < n; ++t) {
          for (Index g = 0; g < G; ++g) {
            for (Index d = 0; d < D; ++d)
              ASSERT_EQ(bits(to_k.at(0, t, g)[d], converted),
                        bits(rounded_to<To>(from_k.at(0, range.begin + t, g)[d]), converted))
                  << "k of token " << range.begin + t << ", head " << g << ", dim " << d << " of " << D;
            for (Index c = 0; c < Dv; ++c)
              ASSERT_EQ(bits(to_v.at(0, t, g)[c], converted),
                        bits(rounded_to<To>(from_v.at(0, range.begin + t, g)[c]), converted))
                  << "v of token " << range.begin + t << ", head " << g << ", dim " << c << " of " << Dv;
            for (Index i = D; i < D + 3; ++i) ASSERT_EQ(to_k.at(0, t, g)[i], guard);
            ASSERT_EQ(to_v.at(0, t, g)[Dv], guard);
          }
        }
      }
    }
  }
}

TEST(CacheReadTensors, RowAndColumnMajorAndMaps) {
  const Index N = 70, G = 2, D = 5;
  Eigen::Tensor<float, 3, Eigen::RowMajor> k(N, G, D), rows(3, G, D);
  Eigen::Tensor<float, 3> columns(D, G, 3);
  k.setRandom();
  KVCache<float, 2, 5> cache({.max_tokens = N});
  cache.append(k, k);
  cache.read(0, {62, 65}, rows, columns);
  std::vector<float> memory(static_cast<std::size_t>(3 * G * D));
  const Eigen::TensorMap<Eigen::Tensor<float, 3, Eigen::RowMajor>> map(memory.data(), 3, G, D);
  cache.read(0, {62, 65}, Eigen::TensorMap<Eigen::Tensor<float, 3>>(columns.data(), D, G, 3), map);
  for (Index t = 0; t < 3; ++t) {
    for (Index g = 0; g < G; ++g) {
      for (Index d = 0; d < D; ++d) {
        EXPECT_EQ(rows(t, g, d), k(62 + t, g, d));
        EXPECT_EQ(columns(d, g, t), k(62 + t, g, d));
        EXPECT_EQ(map(t, g, d), k(62 + t, g, d));
      }
    }
  }
}

TEST(CacheReadTensors, OtherTypesForKeysAndValues) {
  Tensor3<bfloat16> in(9, 1, 4);
  for (Index i = 0; i < in.size(); ++i) in.data()[i] = static_cast<bfloat16>(static_cast<float>(i));
  KVCache<bfloat16> cache({.max_tokens = 9, .num_kv_heads = 1, .head_dim = 4});
  cache.append(in, in);
  Tensor3<double> k(9, 1, 4);
  Tensor3<bfloat16> v(9, 1, 4);
  cache.read(0, {0, 9}, k, v);
  for (Index i = 0; i < in.size(); ++i) {
    EXPECT_EQ(k.data()[i], static_cast<double>(i));
    EXPECT_EQ(v.data()[i], in.data()[i]);
  }
}

TEST(CacheReadRefuses, WhatIsNotThere) {
  KVCache<float> cache({.max_tokens = 9, .num_layers = 2, .num_kv_heads = 2, .head_dim = 3, .value_dim = 4});
  const std::vector<float> memory(200, 1.f);
  std::vector<float> out(200, 7.f);
  const auto k = [&](Index n, Index heads = 2, Index dim = 3) {
    return TensorView<float>(out.data(), n, heads, dim);
  };
  const auto v = [&](Index n, Index heads = 2, Index dim = 4) {
    return TensorView<float>(out.data() + 100, n, heads, dim);
  };
  const Span span = cache.extend(6);
  cache.write(1, Span{{0, 5}, span.epoch}, TensorView<const float>(memory.data(), 5, 2, 3),
              TensorView<const float>(memory.data(), 5, 2, 4));
  const auto refusal = [&](Index layer, Range range, auto to_k, auto to_v) {
    return message_of<std::invalid_argument>([&] { cache.read(layer, range, to_k, to_v); });
  };
  constexpr Index most = std::numeric_limits<Index>::max(), least = std::numeric_limits<Index>::min();
  EXPECT_EQ(refusal(1, {3, 6}, k(3), v(3)), "read: tokens 3 to 6 are not among the 5 written in layer 1");
  EXPECT_EQ(refusal(0, {0, 1}, k(1), v(1)), "read: tokens 0 to 1 are not among the 0 written in layer 0");
  EXPECT_EQ(refusal(1, {-1, 2}, k(3), v(3)), "read: tokens -1 to 2 are not among the 5 written in layer 1");
  EXPECT_EQ(refusal(1, {3, 2}, k(0), v(0)), "read: tokens 3 to 2 are not among the 5 written in layer 1");
  EXPECT_EQ(refusal(1, {6, 6}, k(0), v(0)), "read: tokens 6 to 6 are not among the 5 written in layer 1");
  EXPECT_NE(refusal(1, {least, most}, k(0), v(0)), "nothing thrown");
  EXPECT_EQ(refusal(1, {1, 3}, k(3), v(2)), "k: tokens is 3, expected 2");
  EXPECT_EQ(refusal(1, {1, 3}, k(2), v(1)), "v: tokens is 1, expected 2");
  EXPECT_EQ(refusal(1, {1, 3}, k(2, 1), v(2)), "k: heads is 1, expected 2");
  EXPECT_EQ(refusal(1, {1, 3}, k(2), v(2, 2, 3)), "v: dim is 3, expected 4");
  EXPECT_EQ(refusal(1, {1, 3}, TensorView<float>(out.data(), 2, 2, 2, 3), v(2)), "k: batch is 2, expected 1");
  EXPECT_EQ(message_of<std::out_of_range>([&] {
              cache.read(2, {0, 1}, k(1), v(1));
            }),
            "layer is 2, expected less than 2");
  EXPECT_THROW(cache.read(-1, {0, 1}, k(1), v(1)), std::out_of_range);
  for (const float x : out) ASSERT_EQ(x, 7.f);
  cache.read(1, {5, 5}, k(0), v(0));
  cache.truncate(2);
  EXPECT_EQ(refusal(1, {1, 3}, k(2), v(2)), "read: tokens 1 to 3 are not among the 2 written in layer 1");
  cache.read(1, {1, 2}, k(1), v(1));
  EXPECT_EQ(out[5], 1.f);
  EXPECT_EQ(out[6], 7.f);
}

}  // namespace
}  // namespace gqa
