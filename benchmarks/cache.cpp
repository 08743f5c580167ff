// SPDX-License-Identifier: Apache-2.0
// What it costs to keep keys and values: filling a cache, and adding a token to every layer of a model.
#include <gqa/kv/cache.hpp>

#include "rows.hpp"

namespace bench {
namespace {

struct CacheShape {
  Dtype dtype;
  Index L, H, G, D;
  Index tokens;    // written by one run
  Index capacity;  // when it is reached, all is forgotten
};

template <class T>
class Append final : public Subject {
 public:
  explicit Append(const CacheShape& s)
      : shape_(s),
        k_(random_tensor<T>(1, s.tokens, s.G, s.D, 2)),
        v_(random_tensor<T>(1, s.tokens, s.G, s.D, 3)),
        cache_({.max_tokens = s.capacity, .num_layers = s.L, .num_kv_heads = s.G, .head_dim = s.D}) {}

  void run(Eigen::ThreadPool*) override {
    if (cache_.size() + shape_.tokens > shape_.capacity) cache_.truncate(0);
    const gqa::Span span = cache_.extend(shape_.tokens);
    for (Index layer = 0; layer < shape_.L; ++layer) cache_.write(layer, span, k_, v_);
  }

  std::string check(Eigen::ThreadPool*) override {
    cache_.clear();
    run(nullptr);
    const Index bytes = 2 * shape_.L * shape_.G * shape_.D * shape_.tokens * Index{sizeof(T)};
    if (cache_.bytes() != bytes)
      return "bytes() is " + std::to_string(cache_.bytes()) + ", expected " + std::to_string(bytes);
    return {};
  }

 private:
  CacheShape shape_;
  Tensor<T> k_, v_;
  gqa::KVCache<T> cache_;
};

Row cache_row(const char* kind, const char* length, const CacheShape& s) {
  const std::string name = std::string(kind) + "/" + bench::name(s.dtype) + "/L:" + std::to_string(s.L) +
                           "/H:" + std::to_string(s.H) + "/G:" + std::to_string(s.G) +
                           "/D:" + std::to_string(s.D) + "/" + length + ":" + std::to_string(s.tokens) +
                           "/threads:1";
  const double a_head = 2 * static_cast<double>(s.L * s.D * s.tokens) * size_of(s.dtype);
  const double bytes = a_head * static_cast<double>(s.G);
  Row row{.name = name, .memory_key = name, .bytes = bytes, .dtype = s.dtype};
  row.footprint = bytes / static_cast<double>(s.tokens) * static_cast<double>(s.capacity);
  row.memory = row.footprint;
  row.counters = {{"cache_bytes", bytes},
                  {"mha_bytes", a_head * static_cast<double>(s.H)},
                  {"mqa_bytes", a_head},
                  {"ratio", static_cast<double>(s.H) / static_cast<double>(s.G)}};
  row.make = [s]() -> std::unique_ptr<Subject> {
    if (s.dtype == Dtype::f16) return std::make_unique<Append<gqa::half>>(s);
    if (s.dtype == Dtype::bf16) return std::make_unique<Append<gqa::bfloat16>>(s);
    return std::make_unique<Append<float>>(s);
  };
  return row;
}

}  // namespace

std::vector<Row> cache_rows() {
  std::vector<Row> rows;
  for (Index G : {32, 8, 1})
    rows.push_back(cache_row("cache_size", "ctx", {Dtype::bf16, 4, 32, G, 128, 8192, 8192}));
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16})
    rows.push_back(cache_row("cache_append", "tokens", {dtype, 32, 32, 8, 128, 1, 4096}));
  return rows;
}

}  // namespace bench
