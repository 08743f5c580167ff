// SPDX-License-Identifier: Apache-2.0
// Decoding that reads a share of the pages, chosen by their bounds, beside decoding that reads all.
#include <algorithm>
#include <cmath>
#include <gqa/kv/cache.hpp>
#include <gqa/reference/attention.hpp>
#include <gqa/sparse_attention.hpp>

#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

constexpr Index H = 32, G = 8, D = 128;

struct SparseShape {
  Dtype dtype;
  Index ctx, share;  // one in `share` of the pages is read
};

template <class T>
class SparseDecode final : public Subject {
 public:
  explicit SparseDecode(const SparseShape& s)
      : s_(s),
        q_(random_tensor<T>(1, 1, H, D, 1)),
        k_(random_tensor<T>(1, s.ctx, G, D, 2)),
        v_(random_tensor<T>(1, s.ctx, G, D, 3)),
        out_(q_.dimensions()),
        cache_(gqa::KVCache<T>({.max_tokens = s.ctx, .num_kv_heads = G, .head_dim = D})) {
    cache_.write(0, cache_.extend(s.ctx), k_, v_);
  }

  void run(Eigen::ThreadPool*) override {
    const auto report = gqa::sparse_attention(q_, cache_, 0, out_, options());
    unread_ = report.most_unread_mass;
    pages_ = report.pages_read / static_cast<double>(report.pages);
  }

  /// One head against the oracle over the pages that are selected.
  std::string check(Eigen::ThreadPool* pool) override {
    run(pool);
    const auto selection = gqa::PageBounds<float>(q_, cache_, 0).select(options());
    const Index h = H / 2, g = h / (H / G);
    const auto wide = [](const T* x) { return std::vector<double>(x, x + D); };
    std::vector<double> k, v, q = wide(&q_(0, 0, h, 0));
    for (Index t = 0; t < s_.ctx; ++t) {
      const auto key = wide(&k_(0, t, g, 0)), value = wide(&v_(0, t, g, 0));
      k.insert(k.end(), key.begin(), key.end());
      v.insert(v.end(), value.begin(), value.end());
    }
    gqa::reference::Problem problem{
        .num_q_tokens = 1, .num_kv_tokens = s_.ctx, .head_dim = D, .value_dim = D, .q = q, .k = k, .v = v};
    problem.visible = [&](Index, Index, Index kv_pos) { return selection.contains(g, kv_pos / 64); };
    const auto exact = gqa::reference::attention(problem);
    // As for any decode: scores are off by 2^-24 sqrt(D) or so; weights rounded to bf16 by 2^-8.
    const double tolerance = s_.dtype == Dtype::f32 ? 0x1p-17 : 0x1p-5;
    for (Index d = 0; d < D; ++d) {
      const double expected = exact.out[static_cast<std::size_t>(d)],
                   got = static_cast<double>(out_(0, 0, h, d));
      if (!(std::abs(got - expected) <= tolerance * (1 + std::abs(expected))))
        return "wrong output: dim " + std::to_string(d) + " is " + std::to_string(got) + ", expected " +
               std::to_string(expected);
    }
    return {};
  }

  /// In turns with a call that reads everything, the median of each.
  std::map<std::string, double> measure(double) override {
    std::vector<double> all, some;
    const auto time = [](std::vector<double>& into, auto&& f) {
      const double start = processor_seconds();
      f();
      into.push_back(processor_seconds() - start);
    };
    for (int i = 0; i < 11; ++i) {
      time(all, [&] {
        gqa::attention(q_, cache_.layer(0), out_, gqa::causal(),
                       gqa::AttentionOptions{.workspace = &workspace_});
      });
      time(some, [&] { run(nullptr); });
    }
    return {{"of_full", median(some) / median(all)},
            {"pages_read", pages_},
            {"unread_mass_at_most", unread_},
            {"index_share", static_cast<double>(cache_.index_bytes()) / static_cast<double>(cache_.bytes())}};
  }

 private:
  gqa::SparseOptions options() { return {.pages = s_.ctx / 64 / s_.share, .workspace = &workspace_}; }

  SparseShape s_;
  Tensor<T> q_, k_, v_, out_;
  gqa::IndexedCache<gqa::KVCache<T>> cache_;
  gqa::Workspace workspace_;
  double unread_ = 0, pages_ = 0;
};

Row sparse_row(const SparseShape& s) {
  const std::string of =
      std::string(name(s.dtype)) + "/ctx:" + std::to_string(s.ctx) + "/share:" + std::to_string(s.share);
  const double all = static_cast<double>(s.ctx * G * 2 * D) * size_of(s.dtype);
  Row row{.name = "sparse_decode/" + of + "/threads:1",
          .memory_key = "sparse/" + of,
          .bytes = all / static_cast<double>(s.share) + all / 64,  // the pages and their bounds
          .flops = 4.0 * static_cast<double>(H * D * s.ctx / s.share),
          .footprint = all,
          .memory = 3 * all,
          .dtype = s.dtype};
  row.make = [s]() -> std::unique_ptr<Subject> {
    if (s.dtype == Dtype::bf16) return std::make_unique<SparseDecode<gqa::bfloat16>>(s);
    return std::make_unique<SparseDecode<float>>(s);
  };
  return row;
}

}  // namespace

std::vector<Row> sparse_rows() {
  std::vector<Row> rows;
  for (Dtype dtype : {Dtype::f32, Dtype::bf16})
    for (Index share : {4, 16, 64}) rows.push_back(sparse_row({dtype, 32768, share}));
  rows.push_back(sparse_row({Dtype::f32, 512, 4}));
  return rows;
}

}  // namespace bench
