// SPDX-License-Identifier: Apache-2.0
// How many sequences of an 8B model fit in 1 GiB: created until the cache says that it is full.
#include <algorithm>
#include <functional>
#include <gqa/cache.hpp>
#include <random>
#include <stdexcept>

#include "rows.hpp"

namespace bench {
namespace {

using T = gqa::bfloat16;
constexpr Index limit = Index{1} << 30, longest = 2048, L = 32, D = 128;

/// The tokens of the i-th sequence.
using Length = std::function<Index(std::mt19937&)>;
Index all_alike(std::mt19937&) { return longest; }
Index uniform(std::mt19937& random) { return 1 + static_cast<Index>(random() % longest); }

/// Calls f, which adds a sequence, until it says that there is no room; returns how often it did.
template <class F>
Index count_until_full(F&& f) {
  for (Index n = 0;; ++n) {
    try {
      f();
    } catch (const std::length_error&) {
      return n;
    }
  }
}

class Capacity final : public Subject {
 public:
  explicit Capacity(Index G)
      : G_(G),
        pool_({.memory_limit = limit,
               .max_tokens = longest,
               .num_layers = L,
               .num_kv_heads = G,
               .head_dim = D}),
        slabs_({.num_seqs = limit / (Index{512} * 2 * L * G * D * Index{sizeof(T)}) + 1,
                .max_tokens = longest,
                .num_layers = L,
                .num_kv_heads = G,
                .head_dim = D,
                .memory_limit = limit}) {}

  /// Fills the pool with sequences of 2,048 tokens.
  void run(Eigen::ThreadPool*) override { paged(all_alike, 1); }

  std::string check(Eigen::ThreadPool*) override {
    for (const auto& [cache, n] :
         {std::pair("paged", paged(all_alike, 1)), {"contiguous", contiguous(all_alike, 1)}}) {
      const Index expected = limit / (longest * pool_.bytes_per_token());
      if (n != expected)
        return std::string(cache) + ": " + std::to_string(n) + " sequences, expected " +
               std::to_string(expected);
    }
    return {};
  }

  /// Different lengths: the mean of many draws, the same for both.
  std::map<std::string, double> measure(double) override {
    double of_pool = 0, of_slabs = 0;
    constexpr unsigned draws = 100;
    for (unsigned seed = 1; seed <= draws; ++seed) {
      of_pool += static_cast<double>(paged(uniform, seed)) / draws;
      of_slabs += static_cast<double>(contiguous(uniform, seed)) / draws;
    }
    return {{"contiguous", contiguous(all_alike, 1)},
            {"paged", paged(all_alike, 1)},
            {"contiguous_mixed", of_slabs},
            {"paged_mixed", of_pool}};
  }

 private:
  Index paged(const Length& length, unsigned seed) {
    std::mt19937 random(seed);
    pool_.clear();
    return count_until_full([&] { pool_.extend(pool_.create(), length(random)); });
  }

  Index contiguous(const Length& length, unsigned seed) {
    std::mt19937 random(seed);
    slabs_.clear();
    std::vector<Index> added(static_cast<std::size_t>(slabs_.num_seqs()));
    std::size_t next = 0;
    return count_until_full([&] {
      added.at(next) = length(random);  // there are more than fit
      slabs_.extend(added);
      added[next++] = 0;
    });
  }

  Index G_;
  gqa::PagedCache<T> pool_;
  gqa::BatchCache<T> slabs_;
};

}  // namespace

std::vector<Row> capacity_rows() {
  std::vector<Row> rows;
  for (Index G : {32, 8, 1}) {
    const std::string name =
        "sequences_in_1_GiB/bf16/L:32/H:32/G:" + std::to_string(G) + "/D:128/ctx:2048/threads:1";
    Row row{.name = name, .memory_key = name, .dtype = Dtype::bf16};
    row.make = [=] { return std::make_unique<Capacity>(G); };
    rows.push_back(row);
  }
  return rows;
}

}  // namespace bench
