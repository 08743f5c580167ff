// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gqa/gqa.hpp"
#ifdef GENERATE_FILES
#include "gqa/kv/file.hpp"
#endif

namespace generate {
namespace {

template <gqa::Cache Cache>
class CachedSession : public Session {
 public:
  CachedSession(const Model& model, gqa::PoolExecutor executor, AttentionHook hook, Cache cache)
      : sizes_(model.sizes),
        executor_(executor),
        hook_(std::move(hook)),
        forward_(model, executor),
        cache_(std::move(cache)) {}

  void append(std::span<const TokenId> tokens) override {
    std::vector<Index> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), cache_.size());
    feed(tokens, positions, gqa::causal());
  }

  void append_tree(std::span<const TokenId> tokens, std::span<const Index> parents) override {
    GQA_CHECK(tokens.size() == parents.size(), std::invalid_argument,
              "parents: size is " << parents.size() << ", expected the " << tokens.size() << " of tokens");
    const gqa::Tree mask = gqa::tree(parents, cache_.size());
    std::vector<Index> positions(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      positions[i] = parents[i] < 0 ? cache_.size() : positions[static_cast<std::size_t>(parents[i])] + 1;
    feed(tokens, positions, mask);
  }

  std::span<const float> logits() override {
    const Matrix& logits = forward_.last_logits(1);
    return {logits.data(), static_cast<std::size_t>(logits.cols())};
  }
  const Matrix& all_logits() override { return forward_.last_logits(forward_.num_tokens()); }

  Index size() const override { return cache_.size(); }
  Index cache_bytes() const override { return cache_.bytes(); }
  double attention_seconds() const override { return forward_.attention_seconds(); }
  void truncate(Index n) override { cache_.truncate(n); }
  void clear() override { cache_.clear(); }

#ifdef GENERATE_FILES
  void save(const std::filesystem::path& path, std::string_view label) const override {
    gqa::save(cache_, path, {.label = label});
  }
  void load(const std::filesystem::path& path, std::string_view label) override {
    gqa::restore(cache_, path, {.label = label});
  }
#else
  void save(const std::filesystem::path&, std::string_view) const override { refuse_files(); }
  void load(const std::filesystem::path&, std::string_view) override { refuse_files(); }
#endif

 private:
  [[noreturn]] static void refuse_files() {
    throw std::invalid_argument("files of caches need xxHash (libxxhash-dev), which this build is without");
  }

  void feed(std::span<const TokenId> tokens, std::span<const Index> positions, const auto& mask) {
    forward_.check(tokens);
    const gqa::Span span = cache_.extend(std::ssize(tokens));
    forward_.run(
        tokens, positions, [&](Index layer, const auto& q, const auto& k, const auto& v, const auto& out) {
          cache_.write(layer, span, k, v);
          gqa::attention(executor_, q, cache_.layer(layer), out,
                         mask & gqa::sliding_window(sizes_.window(layer)),
                         gqa::AttentionOptions{.scale = sizes_.attention_scale, .workspace = &workspace_});
          if (hook_) hook_(layer, q, k, v, out);
        });
  }

  const Hyperparameters& sizes_;
  gqa::PoolExecutor executor_;
  AttentionHook hook_;
  Forward forward_;
  Cache cache_;
  gqa::Workspace workspace_;
};

/// A pool of one sequence.
template <class T>
class PagedSession final : public CachedSession<gqa::PagedSequence<T>> {
 public:
  PagedSession(const Model& model, gqa::PoolExecutor executor, AttentionHook hook, gqa::PagedCache<T> pool)
      : CachedSession<gqa::PagedSequence<T>>(model, executor, std::move(hook), pool.sequence(pool.create())),
        pool_(std::move(pool)) {}

 private:
  gqa::PagedCache<T> pool_;
};

template <class T>
std::unique_ptr<Session> make(const Model& model, gqa::PoolExecutor executor, AttentionHook hook,
                              CacheKind kind) {
  const Hyperparameters& s = model.sizes;
  if (kind == CacheKind::ring) {
    GQA_CHECK(s.has_windows() && s.sliding_window < s.context_length, std::invalid_argument,
              "a ring needs a model with a sliding window; this one's queries see all " << s.context_length
                                                                                        << " tokens");
    std::vector<gqa::CacheLayer> layers;
    for (Index i = 0; i < s.num_layers; ++i)
      layers.push_back({.num_kv_heads = s.num_kv_heads,
                        .head_dim = s.head_dim,
                        .value_dim = s.value_dim,
                        .window = s.windows.is_local(i) ? s.sliding_window : 0});
    return std::make_unique<CachedSession<gqa::HybridCache<T>>>(
        model, executor, std::move(hook),
        gqa::HybridCache<T>({.max_tokens = s.context_length,
                             .max_span = ring_span,
                             .rollback = ring_span,
                             .layers = std::move(layers)}));
  }
  if (kind == CacheKind::paged)
    return std::make_unique<PagedSession<T>>(
        model, executor, std::move(hook),
        gqa::PagedCache<T>({.num_pages = gqa::ceil_div(s.context_length, 64),
                            .max_tokens = s.context_length,
                            .num_layers = s.num_layers,
                            .num_kv_heads = s.num_kv_heads,
                            .head_dim = s.head_dim,
                            .value_dim = s.value_dim}));
  return std::make_unique<CachedSession<gqa::KVCache<T>>>(model, executor, std::move(hook),
                                                          gqa::KVCache<T>({.max_tokens = s.context_length,
                                                                           .num_layers = s.num_layers,
                                                                           .num_kv_heads = s.num_kv_heads,
                                                                           .head_dim = s.head_dim,
                                                                           .value_dim = s.value_dim}));
}

}  // namespace

const char* type_name(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return gqa::scalar_name<gqa::half>();
    case CacheType::bf16:
      return gqa::scalar_name<gqa::bfloat16>();
    case CacheType::f32:
      break;
  }
  return gqa::scalar_name<float>();
}

const char* kind_name(CacheKind kind) {
  switch (kind) {
    case CacheKind::paged:
      return "paged";
    case CacheKind::ring:
      return "ring";
    case CacheKind::contiguous:
      break;
  }
  return "contiguous";
}

std::unique_ptr<Session> make_session(const Model& model, CacheType type, gqa::PoolExecutor executor,
                                      AttentionHook hook, CacheKind kind) {
  switch (type) {
    case CacheType::f16:
      return make<gqa::half>(model, executor, std::move(hook), kind);
    case CacheType::bf16:
      return make<gqa::bfloat16>(model, executor, std::move(hook), kind);
    case CacheType::f32:
      break;
  }
  return make<float>(model, executor, std::move(hook), kind);
}

}  // namespace generate
