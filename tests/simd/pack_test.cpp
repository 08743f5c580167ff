// SPDX-License-Identifier: Apache-2.0
// Moving tiles about: every element lands in its place, padding is zero, nothing else is read or written.
#include <gtest/gtest.h>
#include <Eigen/Core>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "gqa/simd/kernels.hpp"
#include "simd/isa_list.hpp"
#include "support/random.hpp"

namespace gqa {
namespace {

using simd::element_group;
using simd::padding;
using simd::tile_keys;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Memory that ends where its data does, so that AddressSanitizer sees any read past it.
template <class T>
struct Exact {
  explicit Exact(const std::vector<T>& values) : data(new T[values.size()]) {
    std::copy(values.begin(), values.end(), data.get());
  }
  std::unique_ptr<T[]> data;
};

/// Rows of `dim` random elements `stride` apart, NaN between them.
template <class T>
std::vector<T> rows_of(Index rows, Index dim, Index stride, std::uint64_t seed) {
  const auto values = test::random_values<T>(seed, rows * dim);
  std::vector<T> memory(at(rows == 0 ? 0 : (rows - 1) * stride + dim),
                        static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
  for (Index r = 0; r < rows; ++r)
    for (Index d = 0; d < dim; ++d) memory[at(r * stride + d)] = values[at(r * dim + d)];
  return memory;
}

template <class T>
class Pack : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, half, bfloat16>;
TYPED_TEST_SUITE(Pack, Scalars);

TYPED_TEST(Pack, TransposedKeysStandDimMajorAndWidened) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  for (Isa isa : test::supported_isas()) {
    for (Index keys : {1, 3, 15, 16, 17, 40, 63, 64}) {
      for (Index dim : {1, 7, 16, 40, 64, 80, 113}) {
        for (Index width : {keys, round_up(keys, 16), tile_keys}) {
          const Index stride = dim + 5;
          const Exact<T> k(rows_of<T>(keys, dim, stride, 1));
          std::vector<Acc> tile(at(dim * tile_keys), Acc{-7});
          simd::kernels<T>(isa).transpose_keys(k.data.get(), stride, keys, dim, width, tile.data());
          for (Index d = 0; d < dim; ++d) {
            for (Index j = 0; j < tile_keys; ++j) {
              const Acc expected = j < keys    ? static_cast<Acc>(k.data[at(j * stride + d)])
                                   : j < width ? Acc{0}
                                               : Acc{-7};
              ASSERT_EQ(tile[at(d * tile_keys + j)], expected)
                  << name(isa) << ", keys " << keys << ", dim " << dim << ", width " << width << ": " << d
                  << ", " << j;
            }
          }
        }
      }
    }
  }
}

TYPED_TEST(Pack, WidenedTilesArePlainRows) {
  using T = TypeParam;
  using Acc = Accumulator<T>;
  constexpr Index E = element_group<T>;
  for (Isa isa : test::supported_isas()) {
    for (Index rows : {1, 2, 3, 40, 63, 64}) {
      for (Index columns : {16, 17, 48, 64, 80}) {
        const Index padded = round_up(columns, padding), stride = padded * E + 4, out_stride = padded + 3;
        const Exact<T> packed(test::random_values<T>(2, ceil_div(rows, E) * stride));
        std::vector<Acc> out(at(rows * out_stride), Acc{-7});
        simd::kernels<T>(isa).widen(packed.data.get(), stride, rows, columns, out.data(), out_stride);
        for (Index r = 0; r < rows; ++r) {
          for (Index n = 0; n < out_stride; ++n) {
            const Acc expected =
                n < padded ? static_cast<Acc>(packed.data[at(r / E * stride + n * E + r % E)]) : Acc{-7};
            if (n < columns || n >= padded) {
              ASSERT_EQ(out[at(r * out_stride + n)], expected) << name(isa) << ": " << r << ", " << n;
            }
          }
        }
      }
    }
  }
}

TYPED_TEST(Pack, AllFiniteFindsEachNaNAndInfinity) {
  using T = TypeParam;
  constexpr Index E = element_group<T>;
  for (Isa isa : test::supported_isas()) {
    const auto all_finite = simd::kernels<T>(isa).all_finite;
    for (Index rows : {1, 2, 5, 6}) {
      const Index columns = 48, stride = columns * E + 4;
      auto packed = test::random_values<T>(3, ceil_div(rows, E) * stride);
      const auto element = [&](Index r, Index n) -> T& { return packed[at(r / E * stride + n * E + r % E)]; };
      for (Index r = 0; r < ceil_div(rows, E) * E; ++r) {
        element(r, r) = std::numeric_limits<T>::max();
        element(r, r + 1) = std::numeric_limits<T>::lowest();
        element(r, r + 2) = std::numeric_limits<T>::denorm_min();
        for (Index n = columns; r % E == 0 && n < columns + 4 / E; ++n)
          element(r, n) = std::numeric_limits<T>::quiet_NaN();  // between the rows
      }
      ASSERT_TRUE(all_finite(packed.data(), stride, rows, columns)) << name(isa) << ", rows " << rows;
      for (Index r = 0; r < rows; ++r) {
        for (Index n = 0; n < columns; ++n) {
          for (T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                        static_cast<T>(-std::numeric_limits<T>::infinity())}) {
            const T good = element(r, n);
            element(r, n) = bad;
            ASSERT_FALSE(all_finite(packed.data(), stride, rows, columns))
                << name(isa) << ": " << r << ", " << n;
            element(r, n) = good;
          }
        }
      }
    }
  }
}

TYPED_TEST(Pack, InfinitiesOfOppositeSignDoNotCancel) {
  using T = TypeParam;
  std::vector<T> packed(64, T{});
  packed[0] = std::numeric_limits<T>::infinity();
  packed[1] = static_cast<T>(-std::numeric_limits<T>::infinity());
  for (Isa isa : test::supported_isas())
    EXPECT_FALSE(simd::kernels<T>(isa).all_finite(packed.data(), 32, 1, 16)) << name(isa);
}

TEST(PackPairs, AreThereWithTheDotProduct) {
  for (Isa isa : test::supported_isas()) {
    const auto kernels = simd::kernels<bfloat16>(isa);
    EXPECT_NE(kernels.transpose_stored, nullptr);
    EXPECT_NE(kernels.interleave_pairs, nullptr);
  }
}

/// Bit for bit: a NaN's payload is the caller's.
template <class T>
void expect_transposed_as_stored() {
  constexpr Index E = element_group<T>;
  for (Isa isa : test::supported_isas()) {
    const auto transpose = simd::kernels<T>(isa).transpose_stored;
    ASSERT_NE(transpose, nullptr);
    for (Index keys : {1, 3, 16, 17, 63, 64}) {
      for (Index dim : {1, 2, 7, 31, 32, 33, 64, 80, 113}) {
        for (Index width : {keys, tile_keys}) {
          const Index stride = dim + 3;
          auto rows = rows_of<T>(keys, dim, stride, 4);
          const std::uint16_t signalling = std::is_same_v<T, half> ? 0x7c01 : 0x7f81;
          std::memcpy(static_cast<void*>(&rows[at((keys - 1) * stride)]), &signalling, sizeof signalling);
          const Exact<T> k(rows);
          std::vector<T> tile(at(round_up(dim, E) * tile_keys), T{-7.0f});
          transpose(k.data.get(), stride, keys, dim, width, tile.data());
          for (Index d = 0; d < round_up(dim, E); ++d) {
            for (Index j = 0; j < tile_keys; ++j) {
              const T expected = j >= width              ? T{-7.0f}
                                 : j >= keys || d >= dim ? T{}
                                                         : k.data[at(j * stride + d)];
              ASSERT_EQ(std::memcmp(&tile[at((d / E * tile_keys + j) * E + d % E)], &expected, sizeof(T)), 0)
                  << "keys " << keys << ", dim " << dim << ", width " << width << ": " << d << ", " << j;
            }
          }
        }
      }
    }
  }
}

TEST(PackStored, TransposedKeysAreTheCallersBits) {
  expect_transposed_as_stored<half>();
  expect_transposed_as_stored<bfloat16>();
  for (Isa isa : test::supported_isas()) EXPECT_EQ(simd::kernels<float>(isa).transpose_stored, nullptr);
}

TEST(PackPairs, InterleavedValuesStandInPairsOfKeys) {
  for (Isa isa : test::supported_isas()) {
    const auto interleave = simd::kernels<bfloat16>(isa).interleave_pairs;
    if (interleave == nullptr) continue;
    for (Index keys : {1, 2, 3, 40, 63, 64}) {
      for (Index dim : {1, 15, 16, 17, 40, 80, 113}) {
        const Index stride = dim + 3, padded = round_up(dim, padding), out_stride = padded * 2 + 8;
        const Exact<bfloat16> v(rows_of<bfloat16>(keys, dim, stride, 5));
        std::vector<bfloat16> out(at(ceil_div(keys, 2) * out_stride), bfloat16{-7.0f});
        interleave(v.data.get(), stride, keys, dim, out.data(), out_stride);
        for (Index j = 0; j < round_up(keys, 2); ++j) {
          for (Index c = 0; c < padded; ++c) {
            const bfloat16 expected = j < keys && c < dim ? v.data[at(j * stride + c)] : bfloat16{};
            ASSERT_EQ(out[at(j / 2 * out_stride + c * 2 + j % 2)], expected)
                << "keys " << keys << ", dim " << dim << ": " << j << ", " << c;
          }
        }
        for (Index j = 0; j < ceil_div(keys, 2); ++j)
          for (Index n = padded * 2; n < out_stride; ++n)
            ASSERT_EQ(out[at(j * out_stride + n)], bfloat16{-7.0f});
      }
    }
  }
}

/// Rows of floats with what rounds in every way there is: ties, subnormals, overflow, infinities, NaNs.
std::vector<float> odd_rows(Index keys, Index stride) {
  std::vector<float> rows = rows_of<float>(keys, stride, stride, 6);
  const std::uint32_t odd[] = {0x80000000, 0x00000001, 0x33000000, 0x33000001, 0x387fe000, 0x477fefff,
                               0x477ff000, 0x7f7fffff, 0xff800000, 0x7f800001, 0xffc12345, 0x3f808000,
                               0x3f818000, 0x3f801000, 0x3f803000, 0x00008000};
  for (std::size_t i = 0; i < rows.size(); i += 3)
    std::memcpy(&rows[i], &odd[i / 3 % std::size(odd)], sizeof(float));
  return rows;
}

/// To the bit what two steps would give: rows rounded, then moved as they are stored.
template <class T, class Step, class Stored>
void expect_rounded_on_the_way(const char* name, Isa isa, Index keys, Index dim, Step step, Stored stored) {
  const Index stride = dim + 3;
  const Exact<float> rows(odd_rows(keys, stride));
  std::vector<T> rounded(at(keys * stride));
  for (Index j = 0; j < keys; ++j)
    simd::convert_kernels<T>(isa).round(&rows.data[at(j * stride)], dim, &rounded[at(j * stride)]);
  std::vector<T> way(at(round_up(dim, padding) * tile_keys), T{-7.0f}), expected = way;
  step(rows.data.get(), stride, way.data());
  stored(rounded.data(), stride, expected.data());
  ASSERT_EQ(std::memcmp(way.data(), expected.data(), way.size() * sizeof(T)), 0)
      << name << ", " << gqa::name(isa) << ": keys " << keys << ", dim " << dim;
}

TEST(PackRounded, RowsOfFloatsBecomeWhatRoundedRowsDo) {
  for (Isa isa : test::supported_isas())
    for (Index keys : {1, 2, 3, 16, 17, 64})
      for (Index dim : {1, 15, 16, 31, 32, 33, 80, 113}) {
        const auto& halves = simd::kernels<half>(isa);
        expect_rounded_on_the_way<half>(
            "transpose_rounded", isa, keys, dim,
            [&](const float* x, Index s, half* to) { halves.transpose_rounded(x, s, keys, dim, keys, to); },
            [&](const half* x, Index s, half* to) { halves.transpose_stored(x, s, keys, dim, keys, to); });
        const auto& pairs = simd::kernels<bfloat16>(isa);
        const Index out = round_up(dim, padding) * 2;
        expect_rounded_on_the_way<bfloat16>(
            "interleave_rounded", isa, keys, dim,
            [&](const float* x, Index s, bfloat16* to) {
              pairs.interleave_rounded(x, s, keys, dim, to, out);
            },
            [&](const bfloat16* x, Index s, bfloat16* to) {
              pairs.interleave_pairs(x, s, keys, dim, to, out);
            });
      }
}

}  // namespace
}  // namespace gqa
