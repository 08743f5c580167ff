// SPDX-License-Identifier: Apache-2.0
#include "rows.hpp"

#include <algorithm>
#include <cmath>

namespace bench {
namespace {

constexpr Dtype all_dtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16};

using Make = std::unique_ptr<Subject> (*)(const Shape&, Index layers);

template <class T, bool Eigen>
std::unique_ptr<Subject> make_random(const Shape& shape, Index layers) {
  if constexpr (Eigen) return make_eigen<T>(shape, layers, Inputs<T>::random(shape));
  return make_attention<T>(shape, layers, Inputs<T>::random(shape));
}

Make maker(const Shape& shape) {
  const bool eigen = shape.kind.starts_with("eigen_");
  switch (shape.dtype) {
    case Dtype::f16:
      return eigen ? make_random<gqa::half, true> : make_random<gqa::half, false>;
    case Dtype::bf16:
      return eigen ? make_random<gqa::bfloat16, true> : make_random<gqa::bfloat16, false>;
    default:
      return eigen ? make_random<float, true> : make_random<float, false>;
  }
}

}  // namespace

Index layers_to_cycle(double layer_bytes, const Machine& machine) {
  constexpr double GiB = 1024.0 * 1024 * 1024;
  const double wanted = std::max(GiB / 4, 2.0 * static_cast<double>(machine.last_cache()));
  const double allowed = std::min(3 * GiB, static_cast<double>(machine.free_memory()) / 4);
  return std::max<Index>(1, static_cast<Index>(std::ceil(std::min(wanted, allowed) / layer_bytes)));
}

Row attention_row(const Shape& shape, const Machine& machine) {
  // Contexts below 4,096 tokens stay in cache and are held to the cache's speed. So does a window: its keys
  // are a few MiB at the end of the cache whatever its length, and all such cases alike.
  const bool in_cache = shape.ctx < 4096 || shape.window != 0;
  const Index layers = in_cache ? 1 : layers_to_cycle(shape.kv_bytes(), machine);
  const std::string who = shape.kind.starts_with("eigen_") ? "eigen/"
                          : shape.ctx == 0                 ? "tensors/"
                                                           : "cache/";
  const Index copies = who == "tensors/" ? 1 : layers + 1;  // caches are filled from tensors
  Row row{.name = shape.name(),
          .memory_key = who + shape.memory_key(),
          .threads = shape.threads,
          .bytes = shape.bytes(),
          .flops = shape.flops(),
          .footprint = shape.window == 0 ? shape.kv_bytes() * static_cast<double>(layers) : shape.bytes(),
          .memory = shape.kv_bytes() * static_cast<double>(copies) + shape.qo_bytes(),
          .dtype = shape.dtype};
  if (shape.window != 0) row.counters["density"] = shape.density();
  row.make = [shape, layers] { return maker(shape)(shape, layers); };
  return row;
}

std::vector<Row> all_rows(const Machine& machine) {
  std::vector<Row> rows;
  const auto add = [&](Shape shape, const char* kind, std::initializer_list<int> threads) {
    shape.kind = kind;
    for (int n : threads) {
      shape.threads = n;
      Row row = attention_row(shape, machine);
      const auto same = [&](const Row& other) { return other.name == row.name; };
      if (std::ranges::none_of(rows, same)) rows.push_back(std::move(row));
    }
  };
  std::ranges::move(cache_rows(), std::back_inserter(rows));
  std::ranges::move(operation_rows(), std::back_inserter(rows));
  std::ranges::move(capacity_rows(), std::back_inserter(rows));
#ifdef BENCH_FILES
  std::ranges::move(file_rows(), std::back_inserter(rows));
#endif

  for (Dtype dtype : all_dtypes) {
    for (Index G : {32, 8, 1})  // MHA, GQA, MQA
      for (Index ctx : {1024, 8192, 32768}) add({.dtype = dtype, .G = G, .ctx = ctx}, "decode", {1, 2});
    for (Index ctx : {128, 256, 512}) add({.dtype = dtype, .ctx = ctx}, "decode", {1, 2});
    add({.dtype = dtype, .H = 71, .G = 1, .D = 64, .ctx = 8192}, "decode", {1, 2});  // Falcon 7B
    add({.dtype = dtype, .H = 64, .G = 4, .ctx = 8192}, "decode", {1, 2});           // Qwen3 235B
    for (Index D : {64, 80, 96, 256}) add({.dtype = dtype, .D = D, .ctx = 8192}, "decode", {1});
  }
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (Index G : {16, 4, 2}) add({.dtype = dtype, .G = G, .ctx = 8192}, "decode", {1});
    for (Index ctx : {4096, 16384, 65536, 131072, 262144}) add({.dtype = dtype, .ctx = ctx}, "decode", {1});
    for (Index S : {2, 4, 8, 16}) add({.dtype = dtype, .S = S, .ctx = 8192}, "multi_decode", {1});
    for (Index B : {1, 4, 16, 64}) add({.dtype = dtype, .batch = B, .ctx = 1024}, "batch_decode", {1, 2});
  }
  for (Index G : {32, 1})
    for (Index ctx : {4096, 16384, 65536}) add({.G = G, .ctx = ctx}, "decode", {1});
  for (Index ctx : {4096, 32768, 262144})
    add({.dtype = Dtype::bf16, .window = 1024, .ctx = ctx}, "window_decode", {1});

  for (Dtype dtype : all_dtypes) {
    for (Index S : {512, 2048, 4096}) add({.dtype = dtype, .S = S}, "prefill", {1, 2});
    for (Index D : {64, 256}) add({.dtype = dtype, .D = D, .S = 2048}, "prefill", {1});
  }
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (Index G : {32, 1}) add({.dtype = dtype, .G = G, .S = 2048}, "prefill", {1});
    add({.dtype = dtype, .S = 512, .ctx = 8192}, "chunked_prefill", {1, 2});
    add({.dtype = dtype, .window = 1024, .S = 4096}, "window_prefill", {1});
  }
  for (Index W : {256, 512, 2048}) add({.window = W, .S = 4096}, "window_prefill", {1});
  std::ranges::move(backward_rows(machine), std::back_inserter(rows));
  std::ranges::move(weights_rows(machine), std::back_inserter(rows));
  std::ranges::move(block_rows(machine), std::back_inserter(rows));
  std::ranges::move(score_rows(machine), std::back_inserter(rows));
  std::ranges::move(batch_rows(machine), std::back_inserter(rows));
  std::ranges::move(prefix_rows(machine), std::back_inserter(rows));
  std::ranges::move(member_rows(machine), std::back_inserter(rows));
  std::ranges::move(ring_rows(), std::back_inserter(rows));
  std::ranges::move(grouping_rows(machine), std::back_inserter(rows));

  for (Index G : {32, 8, 1})
    for (Index ctx : {1024, 8192}) add({.G = G, .ctx = ctx}, "eigen_decode", {1, 2});
  add({.dtype = Dtype::bf16, .ctx = 8192}, "eigen_decode", {1});
  add({.S = 512}, "eigen_prefill", {1, 2});
  add({.S = 2048}, "eigen_prefill", {1});

  std::ranges::move(rope_rows(), std::back_inserter(rows));
  std::ranges::move(linear_rows(machine), std::back_inserter(rows));
  std::ranges::move(latent_rows(), std::back_inserter(rows));
  std::ranges::move(sparse_rows(), std::back_inserter(rows));
  std::ranges::move(cost_rows(machine), std::back_inserter(rows));
  std::ranges::move(tune_rows(machine), std::back_inserter(rows));
  return rows;
}

}  // namespace bench
