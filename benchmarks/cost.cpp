// SPDX-License-Identifier: Apache-2.0
// The cost model against attention: cases that its rates are not measured by.
#include <algorithm>
#include <gqa/plan/measure_rates.hpp>
#include <map>

#include "attention_subject.hpp"
#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

gqa::Clock clock_for(const Eigen::ThreadPool* pool) {
  return pool == nullptr ? processor_seconds : gqa::steady_seconds;
}

/// The machine's rates, measured anew where that was seconds ago: its neighbours come and go.
template <class T>
const gqa::CostRates& rates_now(Eigen::ThreadPool* pool) {
  struct Measured {
    gqa::CostRates rates;
    double when = 0;
  };
  static std::map<int, Measured> by_threads;
  Measured& measured = by_threads[pool == nullptr ? 1 : pool->NumThreads()];
  if (measured.when == 0 || gqa::steady_seconds() > measured.when + 10) {
    const gqa::RateOptions options{.clock = clock_for(pool)};
    on_threads(pool, [&](auto&& executor) { measured.rates = gqa::measure_rates<T>(executor, options); });
    measured.when = gqa::steady_seconds();
  }
  return measured.rates;
}

/// A case of attention, and what the model says of it.
template <class T>
class Predicted final : public Subject {
 public:
  Predicted(const Shape& shape, Index layers)
      : shape_(shape),
        footprint_(gqa::detail::kv_bytes(call_shape(shape), sizeof(T)) * static_cast<double>(layers)),
        attention_(make_attention<T>(shape, layers, Inputs<T>::random(shape))) {}

  void run(Eigen::ThreadPool* pool) override { attention_->run(pool_ = pool); }
  std::string check(Eigen::ThreadPool* pool) override { return attention_->check(pool_ = pool); }

  std::map<std::string, double> measure(double) override {
    const double predicted = gqa::predicted_seconds(rates_now<T>(pool_), call_shape(shape_),
                                                    {.footprint = footprint_, .in_tensors = shape_.ctx == 0});
    const gqa::Clock clock = clock_for(pool_);
    std::vector<double> times;
    for (int i = 0; i < 2; ++i) run(pool_);  // measuring the rates has emptied the caches
    for (const double end = gqa::steady_seconds() + 0.1; times.size() < 5 || gqa::steady_seconds() < end;) {
      const double start = clock();
      run(pool_);
      times.push_back(clock() - start);
    }
    return {{"predicted_ms", 1e3 * predicted}, {"of_measured", predicted / median(times)}};
  }

 private:
  Shape shape_;
  double footprint_;
  std::unique_ptr<Subject> attention_;
  Eigen::ThreadPool* pool_ = nullptr;
};

Row cost_row(Shape shape, const char* kind, const Machine& machine) {
  shape.kind = kind;
  Row row = attention_row(shape, machine);
  const Index layers = std::max<Index>(1, static_cast<Index>(row.footprint / shape.kv_bytes() + 0.5));
  row.name = "cost/" + row.name;
  row.memory_key = "cost/" + row.memory_key;
  row.make = [shape, layers]() -> std::unique_ptr<Subject> {
    switch (shape.dtype) {
      case Dtype::f16:
        return std::make_unique<Predicted<gqa::half>>(shape, layers);
      case Dtype::bf16:
        return std::make_unique<Predicted<gqa::bfloat16>>(shape, layers);
      default:
        return std::make_unique<Predicted<float>>(shape, layers);
    }
  };
  return row;
}

}  // namespace

std::vector<Row> cost_rows(const Machine& machine) {
  std::vector<Row> rows;
  const auto add = [&](const char* kind, const Shape& shape) {
    rows.push_back(cost_row(shape, kind, machine));
  };
  for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    add("decode", {.dtype = dtype, .ctx = 256});
    add("decode", {.dtype = dtype, .G = 32, .ctx = 320});
    for (Index G : {8, 4, 1}) add("decode", {.dtype = dtype, .G = G, .ctx = 1024});
    for (Index G : {32, 8, 2}) add("decode", {.dtype = dtype, .G = G, .ctx = 8192});
    add("decode", {.dtype = dtype, .D = 64, .ctx = 8192});
    add("decode", {.dtype = dtype, .H = 71, .G = 1, .D = 64, .ctx = 8192});
    add("batch_decode", {.dtype = dtype, .batch = 4, .ctx = 1024});
    for (Index S : {4, 16}) add("multi_decode", {.dtype = dtype, .S = S, .ctx = 8192});
    for (Index S : {512, 2048}) add("prefill", {.dtype = dtype, .S = S});
    add("prefill", {.dtype = dtype, .H = 16, .G = 16, .D = 64, .S = 1024});
    add("window_prefill", {.dtype = dtype, .window = 512, .S = 2048});
    add("chunked_prefill", {.dtype = dtype, .S = 256, .ctx = 4096});
    add("decode", {.dtype = dtype, .ctx = 8192, .threads = 2});
    add("prefill", {.dtype = dtype, .S = 1024, .threads = 2});
  }
  return rows;
}

}  // namespace bench
