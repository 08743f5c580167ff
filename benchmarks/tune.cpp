// SPDX-License-Identifier: Apache-2.0
// What tune() picks beside the default, in turns.
#include <algorithm>
#include <gqa/plan/tune.hpp>

#include "attention_subject.hpp"
#include "caches.hpp"
#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

template <class T>
class Tuned final : public AttentionSubject<T> {
  using AttentionSubject<T>::shape_, AttentionSubject<T>::in_, AttentionSubject<T>::out_;

 public:
  explicit Tuned(const Shape& shape)
      : AttentionSubject<T>(shape, Inputs<T>::random(shape)),
        cache_(cache_of<T>({{sequence(in_.k, 0), sequence(in_.v, 0)}}, 1)) {}

  void run(Eigen::ThreadPool* pool) override {
    on_threads(pool_ = pool, [&](auto&& executor) { attend(executor, tuning_); });
  }

  std::map<std::string, double> measure(double) override {
    std::map<std::string, double> found;
    on_threads(pool_, [&](auto&& executor) {
      const double start = gqa::steady_seconds();
      tuning_ = gqa::tune<T>(executor, call_shape(shape_)).tuning;
      found = {{"tuned_in_s", gqa::steady_seconds() - start},
               {"threads", static_cast<double>(tuning_.threads)},
               {"block_rows", static_cast<double>(tuning_.block_rows)},
               {"task_rows", static_cast<double>(tuning_.task_rows)},
               {"tasks_per_thread", static_cast<double>(tuning_.tasks_per_thread)}};
      std::vector<double> usual, picked;
      const auto time = [&](std::vector<double>& into, const gqa::Tuning& tuning) {
        const double begin = gqa::steady_seconds();
        attend(executor, tuning);
        into.push_back(gqa::steady_seconds() - begin);
      };
      for (int i = 0; i < 31; ++i) {
        time(i % 2 == 0 ? usual : picked, i % 2 == 0 ? gqa::Tuning{} : tuning_);
        time(i % 2 == 0 ? picked : usual, i % 2 == 0 ? tuning_ : gqa::Tuning{});
      }
      found["of_default"] = median(picked) / median(usual);
    });
    return found;
  }

 private:
  template <class E>
  void attend(E&& executor, const gqa::Tuning& tuning) {
    gqa::attention(executor, in_.q, cache_.layer(0), out_, gqa::causal(),
                   gqa::AttentionOptions{.workspace = &this->workspace_, .tuning = tuning});
  }

  gqa::KVCache<T> cache_;
  gqa::Tuning tuning_ = {};
  Eigen::ThreadPool* pool_ = nullptr;
};

}  // namespace

std::vector<Row> tune_rows(const Machine& machine) {
  std::vector<Row> rows;
  const auto add = [&](Shape shape) {
    shape.kind = "tune";
    Row row = attention_row(shape, machine);
    row.memory_key = "tune/" + row.memory_key;
    row.footprint = shape.kv_bytes();
    row.make = [shape]() -> std::unique_ptr<Subject> {
      if (shape.dtype == Dtype::bf16) return std::make_unique<Tuned<gqa::bfloat16>>(shape);
      return std::make_unique<Tuned<float>>(shape);
    };
    rows.push_back(row);
  };
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (int threads : {1, 2}) add({.dtype = dtype, .S = 1024, .ctx = 1024, .threads = threads});
    for (Index ctx : {300, 8192}) add({.dtype = dtype, .ctx = ctx, .threads = 2});
  }
  return rows;
}

}  // namespace bench
