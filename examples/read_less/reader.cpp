// SPDX-License-Identifier: Apache-2.0
#include "reader.hpp"

#include <unsupported/Eigen/CXX11/Tensor>
#include <unsupported/Eigen/CXX11/ThreadPool>
#include <utility>

#include "experiment.hpp"
#include "gqa/attention.hpp"
#include "gqa/kv/evicting.hpp"
#include "gqa/kv/indexed.hpp"
#include "gqa/mask/compose.hpp"
#include "gqa/mask/window.hpp"
#include "gqa/sparse_attention.hpp"

namespace read_less {
namespace {

using Cache = gqa::KVCache<float>;

/// The first one, and two in which the last 64 tokens are: what SparseOptions have unless told otherwise.
constexpr Index pages_in_any_case = 3;

/// Bytes of a token's keys and values in a layer.
double row_bytes(const auto& cache) {
  return static_cast<double>(cache.num_kv_heads() * (cache.head_dim() + cache.value_dim())) * sizeof(float);
}

/// Keeps and reads everything.
class FullReader final : public Reader {
 public:
  FullReader(Cache cache, gqa::PoolExecutor executor, double scale)
      : cache_(std::move(cache)), executor_(executor), scale_(scale) {}

  void extend() override { span_ = cache_.extend(1); }
  void attend(Index layer, const Rows& q, const Rows& k, const Rows& v,
              const gqa::TensorView<float>& out) override {
    cache_.write(layer, span_, k, v);
    gqa::attention(executor_, q, cache_.layer(layer), out, gqa::causal(),
                   gqa::AttentionOptions{.scale = scale_, .workspace = &workspace_});
    bytes_read_ += row_bytes(cache_) * static_cast<double>(cache_.size());
  }
  Index bytes_held() const override { return cache_.bytes(); }

 private:
  Cache cache_;
  gqa::PoolExecutor executor_;
  double scale_;
  gqa::Workspace workspace_;
  gqa::Span span_;
};

/// Reads the pages whose scores may be largest, up to `pages` of them with the first and those of the last 64
/// tokens; keeps all.
class PageReader final : public Reader {
 public:
  PageReader(Cache cache, Index pages, gqa::PoolExecutor executor, double scale)
      : cache_(std::move(cache)), pages_(pages), executor_(executor), scale_(scale) {}

  void extend() override { span_ = cache_.extend(1); }
  void attend(Index layer, const Rows& q, const Rows& k, const Rows& v,
              const gqa::TensorView<float>& out) override {
    cache_.write(layer, span_, k, v);
    const gqa::PageBounds<float> bounds(q, cache_, layer, scale_);
    const gqa::PageSelection pages = choose(bounds);
    gqa::attention(executor_, q, cache_.layer(layer), out, pages & gqa::causal(),
                   gqa::AttentionOptions{.scale = scale_, .workspace = &workspace_});
    Index read = 0;
    for (Index g = 0; g < pages.num_kv_heads(); ++g) read += pages.count(g);
    // The last page is read in any case, as far as it is full.
    const Index missing = bounds.num_pages() * cache_.page_tokens - cache_.size();
    bytes_read_ += row_bytes(cache_) * (static_cast<double>(read * cache_.page_tokens) /
                                            static_cast<double>(pages.num_kv_heads()) -
                                        static_cast<double>(missing)) +
                   static_cast<double>(index_bytes());
  }
  Index bytes_held() const override { return cache_.bytes() + cache_.num_layers() * index_bytes(); }

 private:
  /// Each head's own number of best pages: so many that with those read in any case they are `pages_`.
  gqa::PageSelection choose(const gqa::PageBounds<float>& bounds) const {
    gqa::PageSelection chosen(bounds.num_q_heads(), bounds.num_kv_heads(), bounds.num_pages(),
                              cache_.page_tokens);
    for (Index best = std::max<Index>(1, pages_ - pages_in_any_case); best <= pages_; ++best) {
      const gqa::PageSelection more = bounds.select({.pages = best});
      for (Index g = 0; g < bounds.num_kv_heads(); ++g)
        for (Index p = 0; p < bounds.num_pages() && more.count(g) <= pages_; ++p)
          if (more.contains(g, p)) chosen.add(g, p);
    }
    return chosen;
  }
  /// Of a layer's bounds.
  Index index_bytes() const {
    return cache_.num_pages(0) * cache_.num_kv_heads() * 2 * cache_.head_dim() * Index{sizeof(float)};
  }

  gqa::IndexedCache<Cache> cache_;
  Index pages_;
  gqa::PoolExecutor executor_;
  double scale_;
  gqa::Workspace workspace_;
  gqa::Span span_;
};

/// Keeps what its rule says; reads all of it. A layer that holds `keep` tokens drops `window` of them.
class EvictingReader : public Reader {
 public:
  EvictingReader(const Prompt& prompt, Index keep, const Settings& settings, gqa::PoolExecutor executor,
                 double scale)
      : settings_(settings),
        keep_(keep),
        executor_(executor),
        scale_(scale),
        cache_({.max_tokens = std::max(keep, prompt.cache.size()),
                .num_layers = prompt.cache.num_layers(),
                .num_kv_heads = prompt.cache.num_kv_heads(),
                .head_dim = prompt.cache.head_dim(),
                .value_dim = prompt.cache.value_dim()}) {
    const Cache& all = prompt.cache;
    std::vector<float> k(static_cast<std::size_t>(all.size() * all.num_kv_heads() * all.head_dim())),
        v(static_cast<std::size_t>(all.size() * all.num_kv_heads() * all.value_dim()));
    const gqa::TensorView<float> keys(k.data(), all.size(), all.num_kv_heads(), all.head_dim()),
        values(v.data(), all.size(), all.num_kv_heads(), all.value_dim());
    span_ = cache_.extend(all.size());
    for (Index i = 0; i < all.num_layers(); ++i) {
      all.read(i, {0, all.size()}, keys, values);
      cache_.write(i, span_, keys, values);
    }
  }

  void extend() override { span_ = cache_.extend(1); }
  void attend(Index layer, const Rows& q, const Rows& k, const Rows& v,
              const gqa::TensorView<float>& out) override {
    cache_.write(layer, span_, k, v);
    gqa::attention(executor_, q, cache_.layer(layer), out, gqa::causal(),
                   gqa::AttentionOptions{.scale = scale_, .workspace = &workspace_});
    bytes_read_ += row_bytes(cache_) * static_cast<double>(cache_.slots(layer));
    look(layer, q);
    make_room(layer);
  }
  Index bytes_held() const override { return cache_.bytes(); }

 protected:
  using Slots = std::vector<std::vector<Index>>;

  /// Leaves room for a token in a layer: for the first time, when all is there to choose by.
  void make_room(Index layer) {
    if (cache_.slots(layer) < keep_) return;
    const Slots kept = choose(layer, keep_ - settings_.window);
    cache_.evict(layer, kept);
    follow(layer, kept);
  }
  void make_room() {
    for (Index i = 0; i < cache_.num_layers(); ++i) make_room(i);
  }

  /// Which of a layer's slots are worth keeping.
  virtual Slots choose(Index layer, Index count) const = 0;
  /// Told of each query, and of each choice.
  virtual void look(Index, const Rows&) {}
  virtual void follow(Index, const Slots&) {}

  void add(gqa::AttentionMass& mass, Index layer, const Rows& q) const {
    gqa::for_probabilities(
        executor_, q, cache_.layer(layer), {}, [&](const auto& rows) { mass.add(rows); }, gqa::causal(),
        gqa::AttentionOptions{.scale = scale_});
  }
  Index slots(Index layer) const { return cache_.slots(layer); }

  const Settings& settings_;

 private:
  Index keep_;
  gqa::PoolExecutor executor_;
  double scale_;
  gqa::EvictingCache<float> cache_;
  gqa::Workspace workspace_;
  gqa::Span span_;
};

class RecentReader final : public EvictingReader {
 public:
  RecentReader(const Prompt& prompt, Index keep, const Settings& settings, gqa::PoolExecutor executor,
               double scale)
      : EvictingReader(prompt, keep, settings, executor, scale), num_kv_heads_(prompt.cache.num_kv_heads()) {
    make_room();
  }

 private:
  Slots choose(Index layer, Index count) const override {
    return gqa::sinks_and_recent(slots(layer), num_kv_heads_, count, settings_.sinks);
  }

  Index num_kv_heads_;
};

/// Half of what is kept is what all queries so far have looked at most, half what came last.
class HeavyReader final : public EvictingReader {
 public:
  HeavyReader(const Prompt& prompt, Index keep, const Settings& settings, gqa::PoolExecutor executor,
              double scale)
      : EvictingReader(prompt, keep, settings, executor, scale), mass_(prompt.mass) {
    make_room();
  }

 private:
  Slots choose(Index layer, Index count) const override {
    return gqa::heavy_hitters(of(layer), count, count / 2);
  }
  void look(Index layer, const Rows& q) override { add(mass_[static_cast<std::size_t>(layer)], layer, q); }
  void follow(Index layer, const Slots& kept) override { mass_[static_cast<std::size_t>(layer)].keep(kept); }
  const gqa::AttentionMass& of(Index layer) const { return mass_[static_cast<std::size_t>(layer)]; }

  std::vector<gqa::AttentionMass> mass_;
};

/// What the last queries look at: of the prompt, and again each time there are so many new ones.
class SnapReader final : public EvictingReader {
 public:
  SnapReader(const Prompt& prompt, Index num_q_heads, Index keep, const Settings& settings,
             gqa::PoolExecutor executor, double scale)
      : EvictingReader(prompt, keep, settings, executor, scale),
        none_(num_q_heads, prompt.cache.num_kv_heads()),
        mass_(prompt.last_mass) {
    make_room();
  }

 private:
  Slots choose(Index layer, Index count) const override {
    return gqa::snap_slots(mass_[static_cast<std::size_t>(layer)], count, settings_.window, settings_.pool);
  }
  void look(Index layer, const Rows& q) override { add(mass_[static_cast<std::size_t>(layer)], layer, q); }
  void follow(Index layer, const Slots&) override { mass_[static_cast<std::size_t>(layer)] = none_; }

  gqa::AttentionMass none_;
  std::vector<gqa::AttentionMass> mass_;
};

}  // namespace

std::string name_of(Method method) {
  switch (method) {
    case Method::recent:
      return "recent";
    case Method::h2o:
      return "h2o";
    case Method::snapkv:
      return "snapkv";
    case Method::pages:
      break;
  }
  return "pages";
}

Index least_pages() { return pages_in_any_case + 1; }

Index pages_within(Index keep, const Settings& settings, Index head_dim, Index value_dim) {
  const Index page = gqa::tile_keys, all = gqa::ceil_div(settings.num_tokens(), page);
  if (keep >= settings.num_tokens()) return all;
  const Index index_tokens = gqa::ceil_div(all * 2 * head_dim, head_dim + value_dim);
  return (keep - index_tokens) / page;
}

std::unique_ptr<Reader> make_reader(const Prompt& prompt, gqa::PoolExecutor executor, double scale) {
  return std::make_unique<FullReader>(prompt.cache.clone(), executor, scale);
}

std::unique_ptr<Reader> make_reader(Method method, Index keep, const Settings& settings, const Prompt& prompt,
                                    Index num_q_heads, gqa::PoolExecutor executor, double scale) {
  switch (method) {
    case Method::recent:
      return std::make_unique<RecentReader>(prompt, keep, settings, executor, scale);
    case Method::h2o:
      return std::make_unique<HeavyReader>(prompt, keep, settings, executor, scale);
    case Method::snapkv:
      return std::make_unique<SnapReader>(prompt, num_q_heads, keep, settings, executor, scale);
    case Method::pages:
      break;
  }
  const Index pages = pages_within(keep, settings, prompt.cache.head_dim(), prompt.cache.value_dim());
  return std::make_unique<PageReader>(prompt.cache.clone(), pages, executor, scale);
}

}  // namespace read_less
