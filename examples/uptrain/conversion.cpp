// SPDX-License-Identifier: Apache-2.0
#include "conversion.hpp"

#include <algorithm>

#include "gqa/convert.hpp"

namespace uptrain {
namespace {

using gqa::convert::Calibration;
using gqa::convert::KeyBasis;
using gqa::convert::Weights;
namespace gc = gqa::convert;

Weights layer_weights(const Shape& shape, const Places::Layer& at, std::span<const float> parameters) {
  const float* const qkv = parameters.data() + at.qkv;
  const Index width = shape.width, kv = shape.kv_width();
  return Weights(gc::Matrix(qkv, width, width), gc::Matrix(qkv + width * width, kv, width),
                 gc::Matrix(qkv + (width + kv) * width, kv, width),
                 gc::Matrix(parameters.data() + at.out, width, width), shape.num_q_heads, shape.num_kv_heads);
}

void store(const Weights& weights, const Shape& shape, const Places::Layer& at, std::span<float> parameters) {
  float* const qkv = parameters.data() + at.qkv;
  const Index width = shape.width, kv = shape.kv_width();
  weights.wq.copy_to(qkv);
  weights.wk.copy_to(qkv + width * width);
  weights.wv.copy_to(qkv + (width + kv) * width);
  weights.wo.copy_to(parameters.data() + at.out);
}

Weights merged(const Weights& weights, Method method, Index kv_heads, const KeyBasis& basis,
               const Calibration& calibration, std::uint64_t seed) {
  auto groups = gqa::HeadGrouping::contiguous(weights.num_kv_heads(), kv_heads);
  if (method == Method::clustered) {
    const gc::Matrix distances = gc::head_distances(weights, gc::HeadDistance::aligned, basis, &calibration);
    groups = gc::clustered_groups(distances, kv_heads);
  }
  const gc::Method how = method == Method::random   ? gc::Method::random(seed)
                         : method == Method::first  ? gc::Method::first()
                         : method == Method::medoid ? gc::Method::medoid()
                         : method == Method::mean || method == Method::weighted
                             ? gc::Method::mean()  // which factors begin as
                             : gc::Method::aligned_mean(basis);
  const Weights result = gc::merge_heads(weights, groups, how, {.calibration = &calibration}).weights;
  return method == Method::clustered ? gc::contiguous_heads(result) : result;
}

}  // namespace

std::vector<Calibration> calibrate(Transformer<float>& model, std::span<const float> parameters,
                                   std::span<const Batch> batches) {
  const Shape& shape = model.shape();
  std::vector<Calibration> calibrations(static_cast<std::size_t>(shape.layers), Calibration(shape.width));
  for (const Batch& batch : batches) {
    model.loss(parameters, batch);
    for (Index l = 0; l < shape.layers; ++l) {
      const Matrix<float>& x = model.attention_input(l);
      calibrations[static_cast<std::size_t>(l)].add(x.data(), x.rows());
    }
  }
  // The first layer reads as many different vectors as there are symbols, which may be fewer than span all
  // directions. So little noise decides only what none of them has a say in.
  for (Calibration& calibration : calibrations) calibration.add_noise(1e-6);
  return calibrations;
}

Converted convert(const Shape& shape, std::span<const float> parameters, Method method, Index kv_heads,
                  std::span<const Calibration> calibrations, std::uint64_t seed) {
  const bool factorises = method == Method::low_rank;
  Converted result{
      .shape = factorises ? shape : shape.with_kv_heads(kv_heads), .parameters = {}, .cache_elements = 0};
  const Places from(shape), to(result.shape);
  result.parameters.resize(static_cast<std::size_t>(to.size));
  const auto copy = [&](Index at, Index new_at, Index count) {
    std::copy_n(parameters.begin() + at, count, result.parameters.begin() + new_at);
  };
  copy(0, 0, from.matrices);
  copy(from.embedding, to.embedding, shape.vocabulary * shape.width);
  copy(from.head, to.head, shape.vocabulary * shape.width);
  const KeyBasis basis = KeyBasis::rope(gqa::RopeLayout::half, shape.head_dim());
  for (std::size_t l = 0; l < from.layers.size(); ++l) {
    const Places::Layer &old = from.layers[l], &now = to.layers[l];
    copy(old.gate_up, now.gate_up, 2 * shape.hidden * shape.width);
    copy(old.down, now.down, shape.width * shape.hidden);
    const Weights weights = layer_weights(shape, old, parameters);
    if (factorises) {
      const auto latent = gc::low_rank(weights, std::min(gc::rank_of_budget(weights, kv_heads), shape.width),
                                       &calibrations[l]);
      result.cache_elements += latent.rank();
      store(latent.weights, result.shape, now, result.parameters);
    } else {
      // Each layer's own draws.
      const std::uint64_t layer_seed = seed * 1000 + l;
      store(merged(weights, method, kv_heads, basis, calibrations[l], layer_seed), result.shape, now,
            result.parameters);
    }
  }
  if (!factorises) result.cache_elements = result.shape.cache_elements();
  return result;
}

}  // namespace uptrain
