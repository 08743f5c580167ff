// SPDX-License-Identifier: Apache-2.0
// Block-sparse attention: does time follow the share of blocks that attend?
#include <algorithm>
#include <gqa/mask.hpp>
#include <random>

#include "attention_subject.hpp"
#include "rows.hpp"

namespace bench {
namespace {

constexpr Index block = 128;  // tokens a side, as FlexAttention's by default

/// `percent` of the causal blocks, the diagonal ones (every token sees itself) and random others.
gqa::BlockMask random_blocks(Index tokens, Index percent) {
  const Index n = tokens / block, kept = n * (n + 1) / 2 * percent / 100;
  std::vector<std::pair<Index, Index>> below;
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < i; ++j) below.emplace_back(i, j);
  std::shuffle(below.begin(), below.end(), std::mt19937(1));
  below.resize(static_cast<std::size_t>(kept - n));
  std::ranges::sort(below);
  return gqa::BlockMask::from_predicate({n, n, block, block}, [&](Index i, Index j) {
    return i == j || std::ranges::binary_search(below, std::pair(i, j));
  });
}

/// Pairs of a query and a key that it sees, over those of causal attention.
double density(const gqa::BlockMask& mask) {
  const auto side = static_cast<double>(block);
  double seen = 0, causal = 0;
  for (Index i = 0; i < mask.shape().num_q_blocks; ++i) {
    for (Index j = 0; j <= i; ++j) {
      const double pairs = i == j ? side * (side + 1) / 2 : side * side;
      causal += pairs;
      if (mask.allowed(i, j)) seen += pairs;
    }
  }
  return seen / causal;
}

class BlockSparse final : public AttentionSubject<float> {
 public:
  BlockSparse(const Shape& shape, const gqa::BlockMask& mask)
      : AttentionSubject(
            shape, Inputs<float>::random(shape),
            {.visible = [mask](Index q,
                               Index kv) { return kv <= q && mask.allowed(q / block, kv / block); }}),
        mask_(gqa::causal() & gqa::blocks(mask)) {}

  void run(Eigen::ThreadPool* pool) override {
    on_threads(pool, [&](auto&& executor) {
      gqa::attention(executor, in_.q, in_.k, in_.v, out_, mask_,
                     gqa::AttentionOptions{.workspace = &workspace_});
    });
  }

 private:
  gqa::AndMask<gqa::Window, gqa::Blocks> mask_;
};

}  // namespace

std::vector<Row> block_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (Index percent : {10, 25, 50, 75, 100}) {
    const Shape shape{.kind = "block_prefill/keep:" + std::to_string(percent), .S = 4096};
    const gqa::BlockMask mask = random_blocks(shape.S, percent);
    Row row = attention_row(shape, machine);  // its bytes stand: on the diagonal every key is seen
    row.memory_key = row.name;
    row.flops *= density(mask);
    row.counters["density"] = density(mask);
    row.make = [=] { return std::make_unique<BlockSparse>(shape, mask); };
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace bench
