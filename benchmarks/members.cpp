// SPDX-License-Identifier: Apache-2.0
// Decoding over each member of the cache's family, beside contiguous caches with the same tokens and masks.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <gqa/gqa.hpp>
#include <limits>
#include <numeric>
#include <random>

#include "caches.hpp"
#include "peak.hpp"
#include "rows.hpp"
#include "timing.hpp"
#include "verify.hpp"

namespace bench {
namespace {

enum class Member { paged, ring, hybrid, batch };
constexpr std::pair<const char*, Member> members[] = {
    {"paged", Member::paged}, {"ring", Member::ring}, {"hybrid", Member::hybrid}, {"batch", Member::batch}};

bool from_memory(const Shape& s) { return s.sequences() * s.ctx >= 4096; }

/// How many layers one run goes through: of a hybrid cache five local ones and a global one.
Index layers_a_run(Member member) { return member == Member::hybrid ? 6 : 1; }

/// What a query sees in a layer; 0: everything.
Index window_of(Member member, const Shape& s, Index layer) {
  return member == Member::hybrid && layer % 6 == 5 ? 0 : s.window;
}

/// One cache with the case's tokens.
template <class T>
struct Way {
  std::string counter;  ///< its time over the contiguous one's is shown under
  Index layers, allocated;
  std::function<void(Index layer, Tensor<T>& out)> attend;
  Index next = 0;
};

/// What pages cost without any arithmetic: the time it takes to read runs of `run_bytes` from memory in no
/// order, the next one's first lines asked for, over that of reading as many in order; the fastest of the
/// ways to read there are for each, the median of turns.
double read_in_runs(std::size_t run_bytes) {
  constexpr std::size_t bytes = std::size_t{1} << 28, head = 8192;
  const auto memory = gqa::allocate_aligned<std::byte>(bytes);
  std::memset(memory.get(), 1, bytes);
  std::vector<std::size_t> in_order(bytes / run_bytes);
  std::iota(in_order.begin(), in_order.end(), std::size_t{0});
  std::vector<std::size_t> shuffled = in_order;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(1));
  const auto seconds = [&](const std::vector<std::size_t>& order) {
    double best = 1e9;
    for (const ReadPattern& pattern : read_patterns()) {
      const double start = processor_seconds();
      for (std::size_t i = 0; i < order.size(); ++i) {
        const std::byte* const next = memory.get() + order[(i + 1) % order.size()] * run_bytes;
        for (std::size_t at = 0; at < std::min(head, run_bytes); at += 64) __builtin_prefetch(next + at);
        pattern.run({memory.get() + order[i] * run_bytes, run_bytes});
      }
      best = std::min(best, processor_seconds() - start);
    }
    return best;
  };
  std::vector<double> ratios;
  for (int turn = 0; turn < 5; ++turn) ratios.push_back(seconds(shuffled) / seconds(in_order));
  return median(ratios);
}

/// The contiguous cache, the member, and variants of it, in this order.
template <class T>
class MemberDecode final : public Subject {
 public:
  MemberDecode(Member member, const Shape& s, Index layers)
      : member_(member),
        shape_(s),
        in_(Inputs<T>::random(s)),
        out_(in_.q.dimensions()),
        expected_(in_.q.dimensions()) {
    if (member == Member::batch) {
      add_list(layers);
      add_batch(layers);
      return;
    }
    add("contiguous",
        gqa::KVCache<T>({.max_tokens = s.ctx, .num_layers = layers, .num_kv_heads = s.G, .head_dim = s.D}));
    if (member == Member::ring) add("of_contiguous", ring(layers));
    if (member == Member::hybrid) add("of_contiguous", hybrid(layers));
    if (member != Member::paged) return;
    // The variants together go through as much memory as the first two.
    const Index fewer = gqa::ceil_div(layers, 3);
    add_paged("of_contiguous", layers, 64, true);
    add_paged("in_order", fewer, 64, false);
    add_paged("pages_128", fewer, 128, true);
    add_paged("pages_128_in_order", fewer, 128, false);
    add_paged("pages_256", fewer, 256, true);
    add_paged("pages_256_in_order", fewer, 256, false);
  }

  void run(Eigen::ThreadPool*) override { run(ways_[1]); }

  std::string check(Eigen::ThreadPool*) override {
    for (Index layer = 0; layer < layers_a_run(member_); ++layer) {
      const Index W = window_of(member_, shape_, layer);
      ways_[0].attend(layer, expected_);
      const auto of = [&](Index b) -> Sequence<T> {
        return {sequence(in_.q, b), sequence(in_.k, b), sequence(in_.v, b), sequence(expected_, b)};
      };
      const Rules rules{.visible = [=](Index q, Index kv) { return kv <= q && (W == 0 || kv > q - W); }};
      if (const auto wrong = difference_in_batch(shape_.sequences(), of, rules); !wrong.empty()) return wrong;
      for (std::size_t i = 1; i < ways_.size(); ++i) {
        out_.setConstant(std::numeric_limits<T>::quiet_NaN());
        ways_[i].attend(layer, out_);
        const auto bytes = static_cast<std::size_t>(out_.size()) * sizeof(T);
        if (std::memcmp(out_.data(), expected_.data(), bytes) != 0)
          return ways_[i].counter + ", layer " + std::to_string(layer) + ": not the contiguous cache's bits";
      }
    }
    return {};
  }

  /// All by turns; the median of each one's time over the contiguous one's of the same turn.
  std::map<std::string, double> measure(double) override {
    std::vector<std::vector<double>> ratios(ways_.size());
    const auto start = std::chrono::steady_clock::now();
    const std::chrono::milliseconds wanted(200);
    for (std::size_t turn = 0; turn < 11 || std::chrono::steady_clock::now() - start < wanted; ++turn) {
      std::vector<double> times(ways_.size());
      for (std::size_t i = 0; i < ways_.size(); ++i) {
        const std::size_t way = (turn + i) % ways_.size();
        times[way] = time(ways_[way]);
      }
      for (std::size_t i = 0; i < ways_.size(); ++i) ratios[i].push_back(times[i] / times[0]);
    }
    std::map<std::string, double> counters{{"allocated_bytes", ways_[1].allocated},
                                           {"contiguous_bytes", ways_[0].allocated}};
    for (std::size_t i = 1; i < ways_.size(); ++i) {
      counters[ways_[i].counter] = median(ratios[i]);
    }
    if (member_ == Member::paged && from_memory(shape_))
      counters["read_alone"] = read_in_runs(static_cast<std::size_t>(gqa::tile_keys * shape_.D) * sizeof(T));
    return counters;
  }

 private:
  void run(Way<T>& way) {
    for (Index i = 0; i < layers_a_run(member_); ++i) way.attend(way.next++ % way.layers, out_);
  }

  /// Of one run. What stays in the processor's caches has to be brought back first, as the others were there.
  double time(Way<T>& way) {
    const int runs = from_memory(shape_) ? 1 : 8;
    if (runs > 1) run(way);
    const double start = processor_seconds();
    for (int i = 0; i < runs; ++i) run(way);
    return (processor_seconds() - start) / runs;
  }

  /// `view(layer)` is what attention reads.
  template <class ViewOf>
  void add_way(const char* counter, Index layers, Index allocated, ViewOf view) {
    ways_.push_back({counter, layers, allocated, [this, view](Index layer, Tensor<T>& out) {
                       const Index W = window_of(member_, shape_, layer);
                       gqa::attention(in_.q, view(layer), out,
                                      W == 0 ? gqa::causal() : gqa::sliding_window(W),
                                      gqa::AttentionOptions{.workspace = &workspace_});
                     }});
  }

  /// Fills a cache of one sequence, in spans as a ring takes them.
  template <class Cache>
  void add(const char* counter, Cache filled) {
    const auto cache = std::make_shared<Cache>(std::move(filled));
    const auto part = [](const Tensor<T>& x, gqa::Range r) {
      return gqa::TensorView<const T>(&x(0, r.begin, 0, 0), r.size(), x.dimension(2), x.dimension(3));
    };
    while (cache->size() < shape_.ctx) {
      const gqa::Span span = cache->extend(std::min<Index>(max_span, shape_.ctx - cache->size()));
      for (Index layer = 0; layer < cache->num_layers(); ++layer)
        cache->write(layer, span, part(in_.k, span.positions), part(in_.v, span.positions));
    }
    add_way(counter, cache->num_layers(), cache->allocated_bytes(),
            [cache](Index layer) { return cache->layer(layer); });
  }

  gqa::RingCache<T> ring(Index layers) const {
    return gqa::RingCache<T>({.window = shape_.window,
                              .max_span = max_span,
                              .num_layers = layers,
                              .num_kv_heads = shape_.G,
                              .head_dim = shape_.D});
  }

  gqa::HybridCache<T> hybrid(Index layers) const {
    std::vector<gqa::CacheLayer> descriptions;
    for (Index layer = 0; layer < layers; ++layer)
      descriptions.push_back(
          {.num_kv_heads = shape_.G, .head_dim = shape_.D, .window = window_of(member_, shape_, layer)});
    return gqa::HybridCache<T>({.max_tokens = shape_.ctx, .max_span = max_span, .layers = descriptions});
  }

  void add_paged(const char* counter, Index layers, Index page_tokens, bool shuffled) {
    const Index pages = gqa::ceil_div(shape_.ctx, page_tokens);
    const auto pool =
        std::make_shared<gqa::PagedCache<T>>(typename gqa::PagedCache<T>::Config{.num_pages = pages,
                                                                                 .page_tokens = page_tokens,
                                                                                 .num_layers = layers,
                                                                                 .num_kv_heads = shape_.G,
                                                                                 .head_dim = shape_.D});
    if (shuffled) {  // the page that was let go of last is the next to be taken
      std::vector<gqa::SequenceId> ids;
      for (Index i = 0; i < pages; ++i) pool->extend(ids.emplace_back(pool->create()), page_tokens);
      std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
      for (const gqa::SequenceId id : ids) pool->free(id);
    }
    const gqa::SequenceId id = pool->create();
    add(counter, pool->sequence(id));
    // The sequence's pages are the pool's; it lives as long as who reads it.
    pools_.push_back(pool);
  }

  void add_list(Index layers) {
    const auto caches = std::make_shared<std::vector<gqa::KVCache<T>>>();
    Index allocated = 0;
    for (Index b = 0; b < shape_.batch; ++b) {
      caches->push_back(cache_of<T>({{sequence(in_.k, b), sequence(in_.v, b)}}, layers));
      allocated += caches->back().allocated_bytes();
    }
    add_way("contiguous", layers, allocated, [caches](Index layer) { return layer_of(*caches, layer); });
  }

  void add_batch(Index layers) {
    const auto cache =
        std::make_shared<gqa::BatchCache<T>>(typename gqa::BatchCache<T>::Config{.num_seqs = shape_.batch,
                                                                                 .max_tokens = shape_.ctx,
                                                                                 .num_layers = layers,
                                                                                 .num_kv_heads = shape_.G,
                                                                                 .head_dim = shape_.D});
    const std::vector<gqa::Span> spans = cache->extend(shape_.ctx);
    for (Index layer = 0; layer < layers; ++layer) cache->write(layer, spans, in_.k, in_.v);
    add_way("of_contiguous", layers, cache->allocated_bytes(),
            [cache](Index layer) { return cache->layer(layer); });
  }

  static constexpr Index max_span = 512;

  Member member_;
  Shape shape_;
  Inputs<T> in_;
  Tensor<T> out_, expected_;
  gqa::Workspace workspace_;
  std::vector<std::shared_ptr<gqa::PagedCache<T>>> pools_;
  std::vector<Way<T>> ways_;
};

Row member_row(Member member, const Shape& shape, const Machine& machine) {
  double bytes = 0, flops = 0, held = 0;
  for (Index layer = 0; layer < layers_a_run(member); ++layer) {
    Shape one = shape;
    one.window = window_of(member, shape, layer);
    bytes += one.bytes();
    flops += one.flops();
    held += one.kv_bytes();
  }
  const Index runs = from_memory(shape) ? layers_to_cycle(bytes, machine) : 1;
  const Index layers = runs * layers_a_run(member);
  Row row{.name = shape.name(),
          .memory_key = shape.kind + "/" + shape.memory_key(),
          .bytes = bytes,
          .flops = flops,
          .footprint = bytes * static_cast<double>(runs),
          .memory = held * static_cast<double>(runs) * (member == Member::paged ? 4 : 2) + shape.kv_bytes(),
          .dtype = shape.dtype};
  row.make = [=]() -> std::unique_ptr<Subject> {
    if (shape.dtype == Dtype::f16) return std::make_unique<MemberDecode<gqa::half>>(member, shape, layers);
    if (shape.dtype == Dtype::bf16)
      return std::make_unique<MemberDecode<gqa::bfloat16>>(member, shape, layers);
    return std::make_unique<MemberDecode<float>>(member, shape, layers);
  };
  return row;
}

}  // namespace

std::vector<Row> member_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (const auto& [name, member] : members) {
    for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
      for (Index tokens : {1024, 8192}) {
        Shape shape{.kind = std::string("member_decode/") + name, .dtype = dtype, .ctx = tokens};
        if (member == Member::ring) shape.window = tokens / 2;
        if (member == Member::hybrid) shape.window = tokens / 8;
        if (member == Member::batch) {
          shape.batch = 8;
          shape.ctx = tokens / 8;
        }
        rows.push_back(member_row(member, shape, machine));
      }
    }
  }
  return rows;
}

}  // namespace bench
