// SPDX-License-Identifier: Apache-2.0
// What grouping costs: attention by maps of query heads to KV heads that are no runs of neighbours, beside
// the usual one; and the time it takes to find groups of a layer's heads and to join them.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <gqa/convert.hpp>
#include <gqa/gqa.hpp>
#include <limits>

#include "attention_subject.hpp"
#include "caches.hpp"
#include "rows.hpp"
#include "timing.hpp"

namespace bench {
namespace {

enum class Map { strided, random, uneven };
constexpr std::pair<const char*, Map> maps[] = {
    {"strided", Map::strided}, {"random", Map::random}, {"uneven", Map::uneven}};

gqa::HeadGrouping grouping_of(Map map, Index H, Index G) {
  if (map == Map::strided) return gqa::HeadGrouping::strided(H, G);
  if (map == Map::random) return gqa::convert::random_groups(H, G, 1);
  // Of 32 heads over 8: 1, 3, 3, 3, 5, 5, 5 and 7.
  std::vector<Index> sizes(static_cast<std::size_t>(G), H / G), of_head;
  for (std::size_t g = 0; g < sizes.size() / 2; ++g) {
    const auto less = std::max<Index>(1, static_cast<Index>(sizes.size() / 2 - g) / 2 + (g == 0 ? 1 : 0));
    sizes[g] -= less;
    sizes[sizes.size() - 1 - g] += less;
  }
  for (std::size_t g = 0; g < sizes.size(); ++g)
    of_head.insert(of_head.end(), static_cast<std::size_t>(sizes[g]), static_cast<Index>(g));
  return gqa::HeadGrouping(std::move(of_head), G);
}

template <class T>
class Mapped final : public AttentionSubject<T> {
  using AttentionSubject<T>::shape_, AttentionSubject<T>::in_, AttentionSubject<T>::out_;

 public:
  Mapped(const Shape& shape, Map map, Index layers)
      : AttentionSubject<T>(shape, Inputs<T>::random(shape)),
        layers_(layers),
        usual_(gqa::HeadGrouping::contiguous(shape.H, shape.G)),
        mapped_(grouping_of(map, shape.H, shape.G)) {
    if (shape.ctx > 0) cache_.push_back(cache_of<T>({{sequence(in_.k, 0), sequence(in_.v, 0)}}, layers));
  }

  void run(Eigen::ThreadPool* pool) override { attend(pool, checking_ ? usual_ : mapped_); }

  /// By the usual map what the oracle says; by the other, each head alone with its KV head, to the bit.
  std::string check(Eigen::ThreadPool* pool) override {
    checking_ = true;
    const auto wrong = AttentionSubject<T>::check(pool);
    checking_ = false;
    if (!wrong.empty()) return wrong;
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    const Index n = shape_.queries(), D = shape_.D;
    Tensor<T> alone(1, n, 1, D);
    const auto head = [](const Tensor<T>& x, Index h) {
      const Index tokens = x.dimension(1), heads = x.dimension(2), dim = x.dimension(3);
      return gqa::TensorView<const T>(&x(0, 0, h, 0), {1, tokens, 1, dim},
                                      {tokens * heads * dim, heads * dim, dim});
    };
    for (Index h = 0; h < shape_.H; ++h) {
      const Index g = mapped_.kv_head(h);
      gqa::attention(head(in_.q, h), head(in_.k, g), head(in_.v, g), alone, gqa::causal());
      for (Index t = 0; t < n; ++t)
        if (std::memcmp(&alone(0, t, 0, 0), &out_(0, t, h, 0), static_cast<std::size_t>(D) * sizeof(T)) != 0)
          return "head " + std::to_string(h) + " is not what it is alone with KV head " + std::to_string(g);
    }
    return {};
  }

  /// By turns on the calling thread: the median of the map's time over the usual one's of the same turn.
  std::map<std::string, double> measure(double) override {
    std::vector<double> ratios;
    const auto start = std::chrono::steady_clock::now();
    for (int turn = 0; turn < 11 || std::chrono::steady_clock::now() - start < std::chrono::milliseconds(300);
         ++turn) {
      const double first = time(turn % 2 == 0 ? usual_ : mapped_),
                   second = time(turn % 2 == 0 ? mapped_ : usual_);
      ratios.push_back(turn % 2 == 0 ? second / first : first / second);
    }
    return {{"of_contiguous", median(ratios)}};
  }

 private:
  double time(const gqa::HeadGrouping& heads) {
    const double start = processor_seconds();
    attend(nullptr, heads);
    return processor_seconds() - start;
  }
  void attend(Eigen::ThreadPool* pool, const gqa::HeadGrouping& heads) {
    const gqa::AttentionOptions options{.workspace = &this->workspace_};
    on_threads(pool, [&](auto&& executor) {
      if (cache_.empty())
        gqa::attention(executor, in_.q, in_.k, in_.v, out_, gqa::causal(), heads, options);
      else
        gqa::attention(executor, in_.q, cache_[0].layer(next_++ % layers_), out_, gqa::causal(), heads,
                       options);
    });
  }

  Index layers_, next_ = 0;
  bool checking_ = false;
  gqa::HeadGrouping usual_, mapped_;
  std::vector<gqa::KVCache<T>> cache_;
};

Row map_row(Shape shape, const char* name, Map map, const Machine& machine) {
  shape.kind = std::string(shape.ctx > 0 ? "map_decode/" : "map_prefill/") + name;
  Row row = attention_row(shape, machine);
  row.name = shape.name();
  row.memory_key = shape.kind + "/" + shape.memory_key();
  const Index layers = shape.ctx == 0 ? 1 : layers_to_cycle(shape.kv_bytes(), machine);
  row.make = [=]() -> std::unique_ptr<Subject> {
    if (shape.dtype == Dtype::bf16) return std::make_unique<Mapped<gqa::bfloat16>>(shape, map, layers);
    return std::make_unique<Mapped<float>>(shape, map, layers);
  };
  return row;
}

/// One layer's weights in double, heads that share half of what they are in another basis.
class Conversion final : public Subject {
 public:
  static constexpr Index H = 16, G = 4, D = 64, inputs = 1024;

  Conversion()
      : weights_(matrix(1), matrix(2), matrix(3), gqa::convert::Matrix(inputs, H * D), H, H),
        basis_(gqa::convert::KeyBasis::rope(gqa::RopeLayout::half, D)) {}

  static gqa::convert::Matrix matrix(std::uint64_t seed) {
    const auto own = random_tensor<float>(1, H, D, inputs, seed),
               shared = random_tensor<float>(1, 1, D, inputs, seed + 9);
    gqa::convert::Matrix m(H * D, inputs);
    for (Index h = 0; h < H; ++h)
      for (Index i = 0; i < D; ++i)
        for (Index c = 0; c < inputs; ++c) {
          // Pairs (i, i + D / 2) turned by an angle of head and pair.
          const Index pair = i % (D / 2);
          const double angle = static_cast<double>(h * (pair + 1)), sign = i < D / 2 ? -1 : 1;
          m(h * D + i, c) = static_cast<double>(own(0, h, i, c)) +
                            std::cos(angle) * static_cast<double>(shared(0, 0, i, c)) +
                            sign * std::sin(angle) * static_cast<double>(shared(0, 0, (i + D / 2) % D, c));
        }
    return m;
  }

  void run(Eigen::ThreadPool*) override { (void)merged(gqa::convert::Method::aligned_mean(basis_)); }

  std::string check(Eigen::ThreadPool*) override {
    namespace gc = gqa::convert;
    const auto distances = gc::head_distances(weights_, gc::HeadDistance::aligned, basis_);
    const auto groups = gc::clustered_groups(distances, G);
    if (gc::grouping_cost(distances, groups) >
        gc::grouping_cost(distances, gqa::HeadGrouping::contiguous(H, G)))
      return "clustered groups cost more than contiguous ones";
    // A third of the squares of each head is shared; alignment finds it, and the mean of four loses 3/4 of
    // the rest.
    const double mean = merged(gc::Method::mean()).report.relative_error();
    const double aligned = merged(gc::Method::aligned_mean(basis_)).report.relative_error();
    if (!(aligned < mean - 0.1))
      return "aligned mean loses " + std::to_string(aligned) + ", the mean " + std::to_string(mean);
    return {};
  }

  std::map<std::string, double> measure(double) override {
    namespace gc = gqa::convert;
    const auto distances = gc::head_distances(weights_, gc::HeadDistance::aligned, basis_);
    return {{"distances_ms",
             milliseconds([&] { (void)gc::head_distances(weights_, gc::HeadDistance::aligned, basis_); })},
            {"clustered_ms", milliseconds([&] { (void)gc::clustered_groups(distances, G); })},
            {"asymmetric_ms", milliseconds([&] { (void)gc::asymmetric_groups(distances, G); })},
            {"mean_ms", milliseconds([&] { (void)merged(gc::Method::mean()); })}};
  }

 private:
  gqa::convert::Merged merged(const gqa::convert::Method& method) const {
    return gqa::convert::merge_heads(weights_, gqa::HeadGrouping::contiguous(H, G), method);
  }
  template <class F>
  static double milliseconds(F&& f) {
    std::vector<double> times;
    for (int i = 0; i < 3; ++i) {
      const double start = processor_seconds();
      f();
      times.push_back(1e3 * (processor_seconds() - start));
    }
    return median(times);
  }

  gqa::convert::Weights weights_;
  gqa::convert::KeyBasis basis_;
};

}  // namespace

std::vector<Row> grouping_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (const auto& [name, map] : maps) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16})
      rows.push_back(map_row({.dtype = dtype, .ctx = 8192}, name, map, machine));
    rows.push_back(map_row({.ctx = 512}, name, map, machine));
    rows.push_back(map_row({.S = 512}, name, map, machine));
  }
  const double bytes = 4.0 * 8 * Conversion::H * Conversion::D * Conversion::inputs;
  rows.push_back({.name = "convert_layer/H:16/G:4/D:64/width:1024",
                  .memory_key = "convert_layer",
                  .bytes = bytes,
                  .footprint = bytes,
                  .memory = 4 * bytes,
                  .make = [] { return std::make_unique<Conversion>(); }});
  return rows;
}

}  // namespace bench
