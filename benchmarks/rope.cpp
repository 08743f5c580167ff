// SPDX-License-Identifier: Apache-2.0
// Rotating the query and key heads of one layer (40 heads of an 8B model) in place.
#include <cmath>
#include <gqa/position/rope_table.hpp>

#include "rows.hpp"

namespace bench {
namespace {

struct RopeShape {
  gqa::RopeLayout layout;
  Index tokens;
};
constexpr Index heads = 40, dim = 128, first_position = 4096;

class Rotation final : public Subject {
 public:
  explicit Rotation(const RopeShape& s)
      : x_(random_tensor<float>(1, s.tokens, heads, dim, 1)),
        table_(gqa::Rope({.layout = s.layout, .head_dim = dim, .theta = 500000}),
               {first_position, first_position + s.tokens}) {}

  void run(Eigen::ThreadPool*) override { table_.apply(x_, first_position); }

  std::string check(Eigen::ThreadPool*) override {
    const Tensor<float> before = x_;
    run(nullptr);
    for (Index i = 0; i < x_.dimension(1) * heads; ++i) {  // a rotation keeps lengths
      double was = 0, is = 0;
      for (Index d = 0; d < dim; ++d) {
        was += std::pow(before.data()[i * dim + d], 2);
        is += std::pow(x_.data()[i * dim + d], 2);
      }
      if (!(std::abs(is - was) <= 1e-5 * was))
        return "a row's length changed from " + std::to_string(was) + " to " + std::to_string(is);
    }
    return {};
  }

 private:
  Tensor<float> x_;
  gqa::RopeTable<float> table_;
};

}  // namespace

std::vector<Row> rope_rows() {
  std::vector<Row> rows;
  for (const auto layout : {gqa::RopeLayout::half, gqa::RopeLayout::interleaved}) {
    for (Index tokens : {1, 2048}) {
      const std::string name = std::string("rope/f32/") +
                               (layout == gqa::RopeLayout::half ? "half" : "interleaved") +
                               "/H:" + std::to_string(heads) + "/D:" + std::to_string(dim) +
                               "/S:" + std::to_string(tokens) + "/threads:1";
      const auto elements = static_cast<double>(tokens * heads * dim);
      // Each pair takes four products and two sums.
      Row row{.name = name,
              .memory_key = name,
              .bytes = 4 * elements,
              .flops = 3 * elements,
              .footprint = 4 * elements,
              .memory = 4 * elements};
      row.make = [layout, tokens] { return std::make_unique<Rotation>(RopeShape{layout, tokens}); };
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

}  // namespace bench
