// SPDX-License-Identifier: Apache-2.0
// What a cache converts on the way in has the bits of rounded_to, however the tokens were cut into spans.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "gqa/kv/cache.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t,
                                std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

/// Of a NaN that was rounded or widened, the sign alone is kept.
template <class T>
Bits<T> bits(T x) {
  const Bits<T> raw = std::bit_cast<Bits<T>>(x);
  if (!std::isnan(static_cast<double>(x))) return raw;
  const auto nan = std::bit_cast<Bits<T>>(std::numeric_limits<T>::quiet_NaN());
  const Bits<T> sign = Bits<T>{1} << (8 * sizeof(T) - 1);
  return static_cast<Bits<T>>((raw & sign) | (nan & static_cast<Bits<T>>(~sign)));
}

/// Every kind of value that a conversion could get wrong: all of 16 bits as far as From holds them, their
/// neighbours and the ties between them, what overflows and vanishes, zeros, NaNs of both signs.
template <class From, class To>
std::vector<From> critical_values() {
  std::vector<From> x;
  const auto add = [&](double value) {
    for (double sign : {1.0, -1.0}) x.push_back(rounded_to<From>(sign * value));
  };
  const auto add_around = [&](double value) {
    const From at = rounded_to<From>(value);
    const Bits<From> raw = std::bit_cast<Bits<From>>(at);
    for (int step : {-1, 0, 1})
      x.push_back(std::bit_cast<From>(static_cast<Bits<From>>(raw + static_cast<Bits<From>>(step))));
  };
  for (std::uint32_t i = 0; i < 0x10000; i += sizeof(From) == 2 ? 1 : 7) {
    const auto half_bits = static_cast<std::uint16_t>(i);
    if constexpr (sizeof(From) == 2) {
      x.push_back(std::bit_cast<From>(half_bits));
    } else if constexpr (sizeof(To) == 2) {
      const double a = static_cast<double>(std::bit_cast<To>(half_bits));
      const double b = static_cast<double>(std::bit_cast<To>(static_cast<std::uint16_t>(i + 1)));
      add_around(a);
      add_around((a + b) / 2);
    }
  }
  for (double value : {0.0,
                       0x1p-14,
                       0x1p-24,
                       0x1p-25,
                       0x1.000002p-25,
                       0x1.fffffep-26,
                       65504.0,
                       65519.996,
                       65520.0,
                       0x1p-126,
                       0x1p-133,
                       0x1p-134,
                       0x1.8p-134,
                       0x1p-149,
                       0x1p-150,
                       0x1.fffffep127,
                       0x1.fep127,
                       0x1.ffp127,
                       0x1p128,
                       1e-300,
                       1e300,
                       1 + 0x1p-11 + 0x1p-40,
                       1 + 0x1p-8 + 0x1p-40,
                       1 + 0x1p-24 + 0x1p-50,
                       std::numeric_limits<double>::infinity(),
                       std::numeric_limits<double>::quiet_NaN()})
    add(value);
  Bits<From> loud = std::bit_cast<Bits<From>>(std::numeric_limits<From>::infinity());
  x.push_back(std::bit_cast<From>(++loud));  // a NaN that signals, of the smallest payload
  return x;
}

template <class Pair>
class Conversion : public ::testing::Test {};
using Pairs =
    ::testing::Types<std::tuple<float, half>, std::tuple<float, bfloat16>, std::tuple<float, double>,
                     std::tuple<double, float>, std::tuple<double, half>, std::tuple<double, bfloat16>,
                     std::tuple<half, float>, std::tuple<half, double>, std::tuple<half, bfloat16>,
                     std::tuple<bfloat16, float>, std::tuple<bfloat16, double>, std::tuple<bfloat16, half>>;
struct PairNames {
  template <class Pair>
  static std::string GetName(int) {
    return std::string(scalar_name<std::tuple_element_t<0, Pair>>()) + "_to_" +
           scalar_name<std::tuple_element_t<1, Pair>>();
  }
};
TYPED_TEST_SUITE(Conversion, Pairs, PairNames);

/// Writes spans of n tokens in turn, of the caller's rows.
template <class T, class From>
void fill(KVCache<T>& cache, const TensorView<const From>& k, const TensorView<const From>& v,
          std::vector<Index> cuts) {
  Index done = 0;
  for (std::size_t i = 0; done < k.tokens; ++i) {
    const Index n = std::min(cuts[i % cuts.size()], k.tokens - done);
    const Span span = cache.extend(n);
    cache.write(
        0, span,
        TensorView<const From>(k.at(0, done, 0), {1, n, k.heads, k.dim}, {0, k.token_stride, k.head_stride}),
        TensorView<const From>(v.at(0, done, 0), {1, n, v.heads, v.dim}, {0, v.token_stride, v.head_stride}));
    done += n;
  }
}

TYPED_TEST(Conversion, HasTheBitsOfRoundedTo) {
  using From = std::tuple_element_t<0, TypeParam>;
  using T = std::tuple_element_t<1, TypeParam>;
  const auto x = critical_values<From, T>();
  // A slice of the scratch is 128 elements of 16 bits, 64 floats: dims that are one, more, and no multiple.
  const Index G = 3, D = 129, Dv = 67;
  const Index N = ceil_div(std::ssize(x), G * D) + 70;
  std::vector<From> k, v;
  for (Index i = 0; i < N * G * D; ++i) k.push_back(x[static_cast<std::size_t>(i) % x.size()]);
  for (Index i = 0; i < N * G * Dv; ++i)
    v.push_back(x[(x.size() - 1) - static_cast<std::size_t>(i) % x.size()]);
  const TensorView<const From> from_k(k.data(), N, G, D), from_v(v.data(), N, G, Dv);
  for (const std::vector<Index>& cuts :
       std::vector<std::vector<Index>>{{N}, {1}, {5, 1, 2, 3, 4, 63, 7}, {64, 65}}) {
    KVCache<T> cache({.max_tokens = N, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
    fill(cache, from_k, from_v, cuts);
    std::vector<T> got_k(k.size()), got_v(v.size());
    cache.read(0, {0, N}, TensorView<T>(got_k.data(), N, G, D), TensorView<T>(got_v.data(), N, G, Dv));
    for (std::size_t i = 0; i < k.size(); ++i)
      ASSERT_EQ(bits(got_k[i]), bits(rounded_to<T>(k[i]))) << "k " << i << ", spans of " << cuts[0];
    for (std::size_t i = 0; i < v.size(); ++i)
      ASSERT_EQ(bits(got_v[i]), bits(rounded_to<T>(v[i]))) << "v " << i << ", spans of " << cuts[0];
  }
}

template <class T>
class Conversion16 : public ::testing::Test {};
using Scalars16 = ::testing::Types<half, bfloat16>;
TYPED_TEST_SUITE(Conversion16, Scalars16);

TYPED_TEST(Conversion16, ANaNIsTheQuietOneOfItsSign) {
  using T = TypeParam;
  const std::uint16_t quiet = std::is_same_v<T, half> ? 0x7e00 : 0x7fc0;
  std::vector<float> x;
  for (std::uint32_t nan :
       {0x7f800001u, 0x7fffffffu, 0x7fc00000u, 0x7f801fffu, 0x7fbfffffu, 0xff800001u, 0xffffffffu})
    x.push_back(std::bit_cast<float>(nan));
  const Index D = std::ssize(x);
  for (Index n : {1, 2, 9}) {  // by single tokens as by kernels
    std::vector<float> rows;
    for (Index t = 0; t < n; ++t) rows.insert(rows.end(), x.begin(), x.end());
    KVCache<T> cache({.max_tokens = n, .num_kv_heads = 1, .head_dim = D});
    const TensorView<const float> in(rows.data(), n, 1, D);
    cache.append(in, in);
    std::vector<T> k(rows.size()), v(rows.size());
    cache.read(0, {0, n}, TensorView<T>(k.data(), n, 1, D), TensorView<T>(v.data(), n, 1, D));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::uint16_t expected = quiet | static_cast<std::uint16_t>(std::signbit(rows[i]) ? 0x8000 : 0);
      EXPECT_EQ(std::bit_cast<std::uint16_t>(k[i]), expected) << n << " tokens, " << i;
      EXPECT_EQ(std::bit_cast<std::uint16_t>(v[i]), expected) << n << " tokens, " << i;
    }
  }
}

TEST(ConversionOfViews, KeysAndValuesOfDifferentTypesAndStrides) {
  const Index N = 70, G = 2, D = 20, Dv = 33;
  const auto k = test::random_values<float>(1, N * G * (D + 3));
  const auto v = test::random_values<double>(2, N * G * Dv);
  const TensorView<const float> strided(k.data(), {1, N, G, D}, {0, G * (D + 3), D + 3});
  const TensorView<const double> heads_first(v.data(), {1, N, G, Dv}, {0, Dv, N * Dv});
  const TensorView<const float> backwards(strided.at(0, N - 1, G - 1), {1, N, G, D},
                                          {0, -G * (D + 3), -(D + 3)});
  for (const auto& keys : {strided, backwards}) {
    KVCache<bfloat16> cache({.max_tokens = N, .num_kv_heads = G, .head_dim = D, .value_dim = Dv});
    cache.append(keys, heads_first);
    std::vector<bfloat16> got_k(static_cast<std::size_t>(N * G * D)),
        got_v(static_cast<std::size_t>(N * G * Dv));
    const TensorView<bfloat16> to_k(got_k.data(), N, G, D), to_v(got_v.data(), N, G, Dv);
    cache.read(0, {0, N}, to_k, to_v);
    for (Index t = 0; t < N; ++t) {
      for (Index g = 0; g < G; ++g) {
        for (Index d = 0; d < D; ++d)
          ASSERT_EQ(to_k.at(0, t, g)[d], rounded_to<bfloat16>(keys.at(0, t, g)[d]))
              << t << ", " << g << ", " << d;
        for (Index c = 0; c < Dv; ++c)
          ASSERT_EQ(to_v.at(0, t, g)[c], rounded_to<bfloat16>(heads_first.at(0, t, g)[c])) << t << ", " << g;
      }
    }
  }
}

TYPED_TEST(Conversion16, WritingAgainKeepsTheTokenBesideIt) {
  using T = TypeParam;
  const Index N = 9, D = 5;
  auto x = test::random_values<float>(3, N * D);
  KVCache<T> cache({.max_tokens = N, .num_kv_heads = 1, .head_dim = D});
  const TensorView<const float> all(x.data(), N, 1, D);
  const Span span = cache.append(all, all);
  for (const Range again : {Range{0, 1}, Range{1, 2}, Range{0, 5}, Range{3, 8}, Range{2, 9}}) {
    for (Index i = again.begin * D; i < again.end * D; ++i) x[static_cast<std::size_t>(i)] += 0.5f;
    const TensorView<const float> some(x.data() + again.begin * D, again.size(), 1, D);
    cache.write(0, {again, span.epoch}, some, some);
    std::vector<T> k(x.size()), v(x.size());
    cache.read(0, {0, N}, TensorView<T>(k.data(), N, 1, D), TensorView<T>(v.data(), N, 1, D));
    for (std::size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(k[i], rounded_to<T>(x[i])) << again.begin << " to " << again.end << ", " << i;
      ASSERT_EQ(v[i], rounded_to<T>(x[i])) << again.begin << " to " << again.end << ", " << i;
    }
  }
}

}  // namespace
}  // namespace gqa
