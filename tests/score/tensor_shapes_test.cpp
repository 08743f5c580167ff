// SPDX-License-Identifier: Apache-2.0
// Mask and bias tensors of rank 1 to 4, with 1 for any dimension: as if written out in full.
#include <gtest/gtest.h>

#include <string>

#include "gqa/gqa.hpp"
#include "support/attention_case.hpp"

namespace gqa {
namespace {

constexpr Index B = 2, H = 4, G = 2, Sq = 7, Sk = 75, D = 8;

template <class T, int Rank, int Layout = Eigen::RowMajor>
using Tensor = Eigen::Tensor<T, Rank, Layout>;

/// Batch x heads x queries x keys in row-major order; where `sizes` says 1, one for all.
template <class T>
Tensor<T, 4> table(const std::array<Index, 4>& sizes, std::uint64_t seed) {
  Tensor<T, 4> values(sizes[0], sizes[1], sizes[2], sizes[3]);
  test::Random random(seed);
  for (Index i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<T, bool>)
      values.data()[i] = random.flip();
    else
      values.data()[i] = static_cast<T>(random.integer(-100, 100)) / T(32);
  }
  return values;
}
template <class T>
Tensor<T, 4> in_full(const Tensor<T, 4>& values) {
  const auto n = values.dimensions();
  Tensor<T, 4> full(B, H, Sq, Sk);
  for (Index b = 0; b < B; ++b)
    for (Index h = 0; h < H; ++h)
      for (Index i = 0; i < Sq; ++i)
        for (Index j = 0; j < Sk; ++j) full(b, h, i, j) = values(b % n[0], h % n[1], i % n[2], j % n[3]);
  return full;
}

struct Inputs {
  Inputs() : q(B, Sq, H, D), k(B, Sk, G, D), v(B, Sk, G, D) { q.setRandom(), k.setRandom(), v.setRandom(); }
  Tensor<float, 4> q, k, v;

  template <class Extra>
  void expect_same(const Extra& extra, const Extra& full, AttentionOptions options = {}) const {
    const auto out = attention(q, k, v, extra, options), expected = attention(q, k, v, full, options);
    for (Index i = 0; i < out.size(); ++i) ASSERT_EQ(out.data()[i], expected.data()[i]) << i;
  }
};

const std::vector<std::array<Index, 4>>& all_sizes() {
  static const auto list = [] {
    std::vector<std::array<Index, 4>> sizes;
    for (int ones = 0; ones < 16; ++ones)
      sizes.push_back({ones & 1 ? 1 : B, ones & 2 ? 1 : H, ones & 4 ? 1 : Sq, ones & 8 ? 1 : Sk});
    return sizes;
  }();
  return list;
}

TEST(TensorShapes, OneForAnyDimension) {
  const Inputs in;
  std::uint64_t seed = 1;
  for (const auto& sizes : all_sizes()) {
    SCOPED_TRACE(testing::PrintToString(sizes));
    const auto mask = table<bool>(sizes, seed++);
    const auto full_mask = in_full(mask);
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_mask(mask), tensor_mask(full_mask)));
    const auto bias = table<float>(sizes, seed++);
    const auto full_bias = in_full(bias);
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_bias(bias), tensor_bias(full_bias)));
    // Query row i is query i, wherever the queries stand.
    for (const Index offset : {Index{0}, Index{20}}) {
      const AttentionOptions options{.q_offset = offset};
      ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_mask(mask), tensor_mask(full_mask, offset), options));
      ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_bias(bias), tensor_bias(full_bias, offset), options));
      ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_bias(bias, offset), tensor_bias(full_bias), options));
    }
  }
}

TEST(TensorShapes, OtherTypesOfBiasBroadcastKeysToo) {
  const Inputs in;
  const auto bias = table<double>({B, H, Sq, 1}, 1);
  const auto full = in_full(bias);
  in.expect_same(tensor_bias(bias), tensor_bias(full));
}

/// The last `Rank` dimensions of `values`, in either layout.
template <int Rank, int Layout, class T>
Tensor<T, Rank, Layout> last_dimensions(const Tensor<T, 4>& values) {
  Eigen::array<Index, Rank> sizes;
  for (int i = 0; i < Rank; ++i) {
    const int axis = Layout == Eigen::RowMajor ? 4 - Rank + i : 3 - i;
    sizes[static_cast<std::size_t>(i)] = values.dimension(static_cast<std::size_t>(axis));
  }
  Tensor<T, Rank, Layout> result(sizes);
  std::copy(values.data(), values.data() + values.size(), result.data());  // the same memory
  return result;
}

template <int Rank>
void expect_rank() {
  const Inputs in;
  std::uint64_t seed = 100;
  for (auto sizes : all_sizes()) {
    for (std::size_t i = 0; i < 4 - static_cast<std::size_t>(Rank); ++i) sizes[i] = 1;
    const auto mask = table<bool>(sizes, seed++);
    const auto bias = table<float>(sizes, seed++);
    const auto full_mask = in_full(mask);
    const auto full_bias = in_full(bias);
    const auto rows = last_dimensions<Rank, Eigen::RowMajor>(mask);
    auto columns = last_dimensions<Rank, Eigen::ColMajor>(mask);
    const auto bias_rows = last_dimensions<Rank, Eigen::RowMajor>(bias);
    auto bias_columns = last_dimensions<Rank, Eigen::ColMajor>(bias);
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_mask(rows), tensor_mask(full_mask)));
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_mask(columns), tensor_mask(full_mask)));
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_bias(bias_rows), tensor_bias(full_bias)));
    // A map of a tensor may be a temporary: the memory is somebody else's.
    using Map = Eigen::TensorMap<Tensor<float, Rank, Eigen::ColMajor>>;
    ASSERT_NO_FATAL_FAILURE(in.expect_same(tensor_bias(Map(bias_columns.data(), bias_columns.dimensions())),
                                           tensor_bias(full_bias)));
  }
}

TEST(TensorShapes, Keys) { expect_rank<1>(); }
TEST(TensorShapes, QueriesByKeys) { expect_rank<2>(); }
TEST(TensorShapes, HeadsFirst) { expect_rank<3>(); }
TEST(TensorShapes, BatchFirst) { expect_rank<4>(); }

TEST(TensorShapes, ViewsWithStrides) {
  // Heads x queries x keys inside a larger tensor, as the view's tokens x heads x dim.
  const Inputs in;
  const auto mask = table<bool>({B, H, Sq, Sk}, 3);
  Tensor<bool, 4> padded(B, H, Sq + 2, Sk + 9);
  padded.setConstant(true);
  for (Index b = 0; b < B; ++b)
    for (Index h = 0; h < H; ++h)
      for (Index i = 0; i < Sq; ++i)
        for (Index j = 0; j < Sk; ++j) padded(b, h, i, j) = mask(b, h, i, j);
  const Index row = Sk + 9, plane = row * (Sq + 2);
  in.expect_same(tensor_mask(TensorView<const bool>(padded.data(), {B, H, Sq, Sk}, {plane * H, plane, row})),
                 tensor_mask(mask));
}

TEST(TensorShapes, WrongOnesAreRefusedInTheirOwnTerms) {
  const Inputs in;
  const auto refuses = [&](const std::array<Index, 4>& sizes, const char* words) {
    for (const bool mask : {true, false}) {
      const auto booleans = table<bool>(sizes, 1);
      const auto numbers = table<float>(sizes, 1);
      try {
        if (mask)
          attention(in.q, in.k, in.v, tensor_mask(booleans));
        else
          attention(in.q, in.k, in.v, tensor_bias(numbers));
        ADD_FAILURE() << "accepted, expected " << words;
      } catch (const std::invalid_argument& error) {
        EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
        EXPECT_NE(std::string(error.what()).find(mask ? "mask tensor" : "bias tensor"), std::string::npos);
      }
    }
  };
  refuses({3, H, Sq, Sk}, "batch is 3, expected 2 or 1");
  refuses({B, G, Sq, Sk}, "heads is 2, expected 4 or 1");
  refuses({1, B, Sq, Sk}, "heads is 2, expected 4 or 1");  // batch x queries x keys needs its heads
  refuses({B, H, Sk, Sq}, "queries is 75, expected 7 or 1");
  refuses({B, H, Sq, Sk + 1}, "keys is 76, expected 75 or 1");
  refuses({B, H, Sq, 0}, "keys is 0, expected 75 or 1");
}

}  // namespace
}  // namespace gqa
