// SPDX-License-Identifier: Apache-2.0
// What it costs to keep keys and values: filling a cache, and adding a token to every layer of a model.
#include <algorithm>
#include <chrono>
#include <cstring>
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

/// One layer of floats into 16 bits, converted on the way, beside a memcpy of them.
template <class T>
class Fill final : public Subject {
 public:
  Fill(Index tokens, Index G, Index D)
      : k_(random_tensor<float>(1, tokens, G, D, 2)),
        v_(random_tensor<float>(1, tokens, G, D, 3)),
        copy_(static_cast<std::size_t>(2 * k_.size())),
        cache_({.max_tokens = tokens, .num_kv_heads = G, .head_dim = D}),
        span_(cache_.extend(tokens)) {}

  void run(Eigen::ThreadPool*) override { cache_.write(0, span_, k_, v_); }

  std::string check(Eigen::ThreadPool*) override {
    run(nullptr);
    Tensor<T> k(k_.dimensions()), v(v_.dimensions());
    cache_.read(0, span_.positions, k, v);
    for (Index i = 0; i < k.size(); ++i)
      if (k.data()[i] != static_cast<T>(k_.data()[i]) || v.data()[i] != static_cast<T>(v_.data()[i]))
        return "element " + std::to_string(i) + " is not what was written, rounded";
    return {};
  }

  std::map<std::string, double> measure(double seconds) override {
    double best = seconds;
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      std::memcpy(copy_.data(), k_.data(), copy_.size() / 2 * sizeof(float));
      std::memcpy(copy_.data() + k_.size(), v_.data(), copy_.size() / 2 * sizeof(float));
      asm volatile("" : : "r"(copy_.data()) : "memory");
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      best = i == 0 ? elapsed.count() : std::min(best, elapsed.count());
    }
    return {{"memcpy_ms", best * 1e3}, {"of_memcpy", best / seconds}};
  }

 private:
  Tensor<float> k_, v_;
  std::vector<float> copy_;
  gqa::KVCache<T> cache_;
  gqa::Span span_;
};

Row fill_row(Dtype dtype, Index tokens) {
  constexpr Index G = 8, D = 128;
  const std::string name = std::string("cache_fill/f32_to_") + bench::name(dtype) +
                           "/G:8/D:128/tokens:" + std::to_string(tokens) + "/threads:1";
  Row row{.name = name, .memory_key = name, .dtype = dtype};
  row.bytes = static_cast<double>(2 * tokens * G * D) * (size_of(Dtype::f32) + size_of(dtype));
  row.footprint = row.bytes;
  row.memory = row.bytes + static_cast<double>(tokens * G * D) * size_of(Dtype::f32);
  row.make = [=]() -> std::unique_ptr<Subject> {
    if (dtype == Dtype::f16) return std::make_unique<Fill<gqa::half>>(tokens, G, D);
    return std::make_unique<Fill<gqa::bfloat16>>(tokens, G, D);
  };
  return row;
}

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
  for (Dtype dtype : {Dtype::f16, Dtype::bf16})
    for (Index tokens : {1, 512, 8192}) rows.push_back(fill_row(dtype, tokens));
  return rows;
}

}  // namespace bench
