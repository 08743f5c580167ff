// SPDX-License-Identifier: Apache-2.0
#include "attention.hpp"

#include <functional>
#include <optional>
#include <utility>

#include "attention_tensors.hpp"
#include "gqa/gqa.hpp"

namespace latent_convert {
namespace {

using generate::Matrix;
using gqa::convert::Calibration;
using gqa::convert::Weights;

/// Layers of one kind over a cache of one kind.
template <class Layer, class Memory, class Cache>
class Stack final : public Attention {
 public:
  Stack(std::vector<Memory> weights, std::vector<Layer> layers, Cache cache, Index elements,
        gqa::PoolExecutor executor)
      : weights_(std::move(weights)),
        layers_(std::move(layers)),
        cache_(std::move(cache)),
        elements_(elements),
        executor_(executor) {}

  void extend(Index n) override { span_ = cache_.extend(n); }
  void forward(Index layer, const Matrix& inputs, Matrix& outputs) override {
    layers_[static_cast<std::size_t>(layer)].forward(executor_, memory_, inputs, cache_, layer, span_,
                                                     outputs, gqa::causal());
  }
  void truncate(Index n) override { cache_.truncate(n); }
  void clear() override { cache_.clear(); }
  Index size() const override { return cache_.size(); }
  Index bytes() const override { return cache_.size() * elements_ * std::ssize(layers_) * 2; }
  Index elements_per_token() const override { return elements_; }

 private:
  std::vector<Memory> weights_;
  std::vector<Layer> layers_;
  Cache cache_;
  Index elements_;
  gqa::PoolExecutor executor_;
  gqa::LayerMemory<> memory_;
  gqa::Span span_;
};

/// The projections of an ordinary layer, in f32.
struct PlainMemory {
  gqa::convert::RoundedProjection<float> q, k, v, output;

  explicit PlainMemory(const Weights& w) : q(w.wq, w.bq), k(w.wk, w.bk), v(w.wv, w.bv), output(w.wo, w.bo) {}
};

/// An ordinary layer's weights.
Weights plain(const Weights& source, const Form& form, const generate::Hyperparameters& sizes,
              const Calibration* seen) {
  if (form.kind == Kind::values) return gqa::convert::fold_values(source, form.value_rank, seen).weights;
  if (form.kind == Kind::source) return source;
  // KV heads of free sizes, those that are most alike together.
  const auto basis = gqa::convert::KeyBasis::rope(sizes.rope);
  const auto distances =
      gqa::convert::head_distances(source, gqa::convert::HeadDistance::aligned, basis, seen);
  return gqa::convert::merge_heads(source, gqa::convert::asymmetric_groups(distances, form.kv_heads, 0),
                                   gqa::convert::Method::aligned_mean(basis), {.calibration = seen})
      .weights;
}

/// Calls f(layer, weights, calibration) for all layers at once.
void for_layers(const generate::ModelFile& file, const std::vector<Calibration>& calibration,
                gqa::PoolExecutor executor,
                const std::function<void(std::size_t, const Weights&, const Calibration*)>& f) {
  executor.parallel_for(file.sizes.num_layers, [&](Index i) {
    const auto at = static_cast<std::size_t>(i);
    try {
      f(at, convert::read_attention(file.gguf, file.sizes, i),
        calibration.empty() ? nullptr : &calibration[at]);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("layer " + std::to_string(i) + ": " + error.what());
    }
  });
}

}  // namespace

std::unique_ptr<Attention> make_attention(const generate::ModelFile& file, const Form& form,
                                          const std::vector<Calibration>& calibration,
                                          gqa::PoolExecutor executor) {
  using gqa::half;
  const generate::Hyperparameters& s = file.sizes;
  const auto num_layers = static_cast<std::size_t>(s.num_layers);
  const auto make = [&]<class Layer, class Memory>(auto&& convert_layer, auto&& layer_of, auto&& cache_of) {
    using Converted = std::invoke_result_t<decltype(convert_layer), const Weights&, const Calibration*>;
    std::vector<std::optional<Converted>> converted(num_layers);
    for_layers(file, calibration, executor,
               [&](std::size_t i, const Weights& source, const Calibration* seen) {
                 converted[i].emplace(convert_layer(source, seen));
               });
    std::vector<Memory> weights;
    std::vector<Layer> layers;
    weights.reserve(num_layers);
    for (const auto& each : converted) {
      weights.emplace_back(*each);
      layers.push_back(layer_of(weights.back(), *each));
    }
    auto cache = cache_of(*converted.front());
    using Cache = decltype(cache);
    Index dim = cache.head_dim();
    if constexpr (!requires { cache.latent_dim(); }) dim += cache.value_dim();  // else in the same memory
    const Index elements = cache.num_kv_heads() * dim;
    return std::unique_ptr<Attention>(new Stack<Layer, Memory, Cache>(std::move(weights), std::move(layers),
                                                                      std::move(cache), elements, executor));
  };
  const auto latent_cache = [&](Index latent, Index rope) {
    return gqa::LatentCache<half>(
        {.max_tokens = s.context_length, .num_layers = s.num_layers, .latent_dim = latent, .rope_dim = rope});
  };
  const auto kv_cache = [&](Index heads, Index head_dim, Index value_dim) {
    return gqa::KVCache<half>({.max_tokens = s.context_length,
                               .num_layers = s.num_layers,
                               .num_kv_heads = heads,
                               .head_dim = head_dim,
                               .value_dim = value_dim});
  };
  if (form.kind == Kind::latent)
    return make.template operator()<gqa::LatentAttention<>, gqa::convert::LatentMemory<float>>(
        [&](const Weights& source, const Calibration* seen) {
          return gqa::convert::to_latent(source, s.rope,
                                         {.rank = form.latent_rank,
                                          .rope_dim = form.rope_dim,
                                          .kept = form.kept,
                                          .mix_heads = form.mix_heads,
                                          .scale = s.attention_scale,
                                          .calibration = seen});
        },
        [](const auto& memory, const auto& layer) {
          return gqa::LatentAttention<>(memory.projections(), layer.config);
        },
        [&](const auto&) { return latent_cache(form.latent_rank, form.rope_dim); });
  if (form.kind == Kind::low_rank) {
    const auto convert_layer = [&](const Weights& source, const Calibration* seen) {
      return gqa::convert::to_low_rank_layer(source, s.rope,
                                             {.num_latents = form.latents,
                                              .key_rank = form.key_rank,
                                              .value_rank = form.value_rank,
                                              .scale = s.attention_scale,
                                              .calibration = seen});
    };
    const auto layer_of = [](const auto& memory, const auto& layer) {
      return gqa::LowRankAttention<>(memory.projections(), layer.config);
    };
    using Memory = gqa::convert::LowRankMemory<float>;
    if (form.value_rank == 0)
      return make.template operator()<gqa::LowRankAttention<>, Memory>(
          convert_layer, layer_of, [&](const auto&) { return latent_cache(form.key_rank, 0); });
    return make.template operator()<gqa::LowRankAttention<>, Memory>(
        convert_layer, layer_of,
        [&](const auto&) { return kv_cache(form.latents, form.key_rank, form.value_rank); });
  }
  return make.template operator()<gqa::AttentionLayer<>, PlainMemory>(
      [&](const Weights& source, const Calibration* seen) { return plain(source, form, s, seen); },
      [&](const PlainMemory& memory, const Weights& w) {
        return gqa::AttentionLayer<>({.q = memory.q.projection(),
                                      .k = memory.k.projection(),
                                      .v = memory.v.projection(),
                                      .output = memory.output.projection()},
                                     {.num_q_heads = w.num_q_heads(),
                                      .num_kv_heads = w.num_kv_heads(),
                                      .head_dim = w.head_dim(),
                                      .value_dim = w.value_dim(),
                                      .grouping = w.heads,
                                      .scale = s.attention_scale,
                                      .rope = gqa::Rope(s.rope)});
      },
      [&](const Weights& w) { return kv_cache(w.num_kv_heads(), w.head_dim(), w.value_dim()); });
}

}  // namespace latent_convert
