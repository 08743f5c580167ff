// SPDX-License-Identifier: Apache-2.0
// Decoding with multi-head latent attention, absorbed: all heads read one row a token, of 512 latent elements
// and 64 of a shared rotary key. Bound by arithmetic: 2 H (576 + 512) operations for each row of memory.
#include <cmath>
#include <gqa/attention.hpp>
#include <gqa/kv/latent.hpp>
#include <gqa/reference/attention.hpp>

#include "rows.hpp"

namespace bench {
namespace {

constexpr Index latent_dim = 512, rope_dim = 64, row_dim = latent_dim + rope_dim;

struct LatentShape {
  Dtype dtype;
  Index heads, ctx;
};

template <class T>
class LatentDecode final : public Subject {
 public:
  explicit LatentDecode(const LatentShape& s)
      : s_(s),
        q_(random_tensor<T>(1, 1, s.heads, row_dim, 1)),
        rows_(random_tensor<T>(1, s.ctx, 1, row_dim, 2)),
        out_(1, 1, s.heads, latent_dim),
        cache_({.max_tokens = s.ctx, .latent_dim = latent_dim, .rope_dim = rope_dim}) {
    cache_.write(0, cache_.extend(s.ctx), rows_);
  }

  void run(Eigen::ThreadPool* pool) override {
    const gqa::AttentionOptions options{.scale = scale, .workspace = &workspace_};
    if (pool != nullptr)
      gqa::attention(*pool, q_, cache_.layer(0), out_, options);
    else
      gqa::attention(q_, cache_.layer(0), out_, options);
  }

  /// One head against the oracle: rows of a latent cache are its keys, and their beginnings its values.
  std::string check(Eigen::ThreadPool* pool) override {
    run(pool);
    const Index h = s_.heads / 2;
    std::vector<double> q, k, v;
    for (Index d = 0; d < row_dim; ++d) q.push_back(static_cast<double>(q_(0, 0, h, d)));
    for (Index t = 0; t < s_.ctx; ++t)
      for (Index d = 0; d < row_dim; ++d) {
        k.push_back(static_cast<double>(rows_(0, t, 0, d)));
        if (d < latent_dim) v.push_back(k.back());
      }
    const auto exact = gqa::reference::attention({.num_q_tokens = 1,
                                                  .num_kv_tokens = s_.ctx,
                                                  .head_dim = row_dim,
                                                  .value_dim = latent_dim,
                                                  .q = q,
                                                  .k = k,
                                                  .v = v,
                                                  .scale = scale});
    // A score of 576 products of normal numbers, times the scale, is off by 2^-24 sqrt(576) or so, and so is
    // what its weight multiplies; weights rounded to bf16 and the output's own rounding are of the type.
    const double rounding = s_.dtype == Dtype::f32 ? 0 : s_.dtype == Dtype::f16 ? 0x1p-11 : 0x1p-8;
    for (Index d = 0; d < latent_dim; ++d) {
      const double expected = exact.out[static_cast<std::size_t>(d)];
      const auto got = static_cast<double>(out_(0, 0, h, d));
      if (!(std::abs(got - expected) <= 8 * (0x1p-24 * 24 + rounding) * (0.1 + std::abs(expected))))
        return "wrong output: dim " + std::to_string(d) + " is " + std::to_string(got) + ", expected " +
               std::to_string(expected);
    }
    return {};
  }

  std::map<std::string, double> measure(double) override {
    return {{"workspace_MiB", static_cast<double>(workspace_.bytes()) / (1 << 20)},
            {"below_MHA", 2.0 * static_cast<double>(s_.heads) * 128 / row_dim}};
  }

 private:
  static constexpr double scale = 0.0721687836;  // 1 / sqrt(128 + 64)

  LatentShape s_;
  Tensor<T> q_, rows_, out_;
  gqa::LatentCache<T> cache_;
  gqa::Workspace workspace_;
};

Row latent_row(const LatentShape& s, int threads) {
  const std::string of =
      std::string(name(s.dtype)) + "/H:" + std::to_string(s.heads) + "/ctx:" + std::to_string(s.ctx);
  const double bytes = static_cast<double>(s.ctx * row_dim) * size_of(s.dtype);
  // 16-bit floats are held to the f32 peak: what they gain over it is the processor's bf16 dot products.
  Row row{.name = "latent_decode/" + of + "/threads:" + std::to_string(threads),
          .memory_key = "latent/" + of,
          .threads = threads,
          .bytes = bytes,
          .flops = 2.0 * static_cast<double>(s.heads * s.ctx * (row_dim + latent_dim)),
          .footprint = bytes,
          .memory = 2 * bytes,
          .dtype = Dtype::f32};
  row.make = [s]() -> std::unique_ptr<Subject> {
    if (s.dtype == Dtype::f16) return std::make_unique<LatentDecode<gqa::half>>(s);
    if (s.dtype == Dtype::bf16) return std::make_unique<LatentDecode<gqa::bfloat16>>(s);
    return std::make_unique<LatentDecode<float>>(s);
  };
  return row;
}

}  // namespace

std::vector<Row> latent_rows() {
  std::vector<Row> rows;
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16})
    for (Index ctx : {512, 4096, 32768})
      for (int threads : {1, 2})
        if (ctx > 512 || threads == 1) rows.push_back(latent_row({dtype, 128, ctx}, threads));
  for (Index heads : {16, 64}) rows.push_back(latent_row({Dtype::f32, heads, 4096}, 1));
  return rows;
}

}  // namespace bench
