// SPDX-License-Identifier: Apache-2.0
#include "conversion.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "gqa/core/error.hpp"

namespace convert {
namespace {

using gqa::HeadGrouping;
using gqa::convert::Calibration;
using gqa::convert::Weights;

HeadGrouping groups_of(const Weights& source, const Settings& settings, Index layer, std::uint64_t seed,
                       const Calibration* calibration) {
  const Index heads = source.num_kv_heads(), groups = settings.num_kv_heads;
  switch (settings.grouping) {
    case Grouping::strided:
      return HeadGrouping::strided(heads, groups);
    case Grouping::random:
      return gqa::convert::random_groups(heads, groups, seed);
    case Grouping::clustered:
      return gqa::convert::clustered_groups(
          gqa::convert::head_distances(source, settings.distance, settings.basis, calibration), groups, seed);
    case Grouping::asymmetric:
      return settings.layer_groups.at(static_cast<std::size_t>(layer));
    case Grouping::map:
      return HeadGrouping(settings.map, groups);
    case Grouping::contiguous:
      break;
  }
  return HeadGrouping::contiguous(heads, groups);
}

gqa::convert::Method method_of(const Settings& settings, Index layer, std::uint64_t seed) {
  using gqa::convert::Method;
  switch (settings.method) {
    case convert::Method::first:
      return Method::first();
    case convert::Method::medoid:
      return Method::medoid();
    case convert::Method::random:
      return Method::random(seed);
    case convert::Method::weighted:
      return Method::weighted(settings.factors.at(static_cast<std::size_t>(layer)));
    case convert::Method::aligned_mean:
      return Method::aligned_mean(settings.basis);
    case convert::Method::mean:
    case convert::Method::low_rank:
      break;
  }
  return Method::mean();
}

/// How many query heads each KV head has once they are all alike: the greatest common divisor.
Index common_size(const HeadGrouping& heads) {
  const auto table = heads.table();
  Index size = 0;
  for (Index g = 0; g < table.num_kv_heads; ++g) size = std::gcd(size, table.size(g));
  return size;
}

/// The same layer with query heads in the order of the KV heads they read, `size` of each.
Weights as_in_files(const Weights& weights, Index size) {
  const auto table = weights.heads.table();
  const Index H = table.num_q_heads;
  if (H == size * table.num_kv_heads) return gqa::convert::contiguous_heads(weights);
  // A KV head for each query head, of which those in a run of `size` with the same one are joined again.
  std::vector<Index> map(static_cast<std::size_t>(H));
  for (Index g = 0, first = 0; g < table.num_kv_heads; first += table.size(g++))
    for (Index i = 0; i < table.size(g); ++i)
      map[static_cast<std::size_t>(table.q_head(g, i))] = (first + i) / size;
  return gqa::convert::contiguous_heads(gqa::convert::merge_heads(gqa::convert::expand_heads(weights, H),
                                                                  HeadGrouping(std::move(map), H / size),
                                                                  gqa::convert::Method::first())
                                            .weights);
}

}  // namespace

ConvertedLayer convert_layer(const Weights& source, const Settings& settings, Index layer,
                             const Calibration* calibration) {
  const Index now = source.num_kv_heads();
  const Index in_file = resulting_kv_heads(settings, source.num_q_heads(), now);
  if (expands(settings, now)) {
    Weights more = gqa::convert::expand_heads(source, settings.num_kv_heads);
    gqa::convert::Report report;
    report.cache_before = source.cache();
    report.cache_after = more.cache();
    return {std::move(more), std::move(report), {}};
  }
  if (settings.method == Method::low_rank) {
    auto low = gqa::convert::low_rank(source, gqa::convert::rank_of_budget(source, settings.num_kv_heads),
                                      calibration);
    return {std::move(low.weights), std::move(low.report), {}};
  }
  const std::uint64_t seed = settings.seed + static_cast<std::uint64_t>(layer);
  const HeadGrouping groups = groups_of(source, settings, layer, seed, calibration);
  auto merged = gqa::convert::merge_heads(source, groups, method_of(settings, layer, seed),
                                          {.calibration = calibration, .keep_norms = settings.keep_norms});
  ConvertedLayer result{
      as_in_files(merged.weights, source.num_q_heads() / in_file), std::move(merged.report), {}};
  result.report.cache_after = result.weights.cache();
  for (Index h = 0; h < now; ++h) result.groups.push_back(groups.kv_head(h));
  return result;
}

Choices group_choices(const Weights& source, const Settings& settings, Index layer,
                      const Calibration* calibration) {
  const Index now = source.num_kv_heads();
  const std::uint64_t seed = settings.seed + static_cast<std::uint64_t>(layer);
  const auto distances = gqa::convert::head_distances(source, settings.distance, settings.basis, calibration);
  Choices choices;
  for (Index n = settings.budget > 0 ? 1 : settings.num_kv_heads;
       n <= (settings.budget > 0 ? now : settings.num_kv_heads); ++n) {
    choices.groups.push_back(gqa::convert::asymmetric_groups(distances, n, seed));
    const auto merged =
        gqa::convert::merge_heads(source, choices.groups.back(), method_of(settings, layer, seed),
                                  {.calibration = calibration, .keep_norms = settings.keep_norms});
    choices.errors.push_back(merged.report.relative_error());
  }
  return choices;
}

std::vector<HeadGrouping> choose_groups(const std::vector<Choices>& layers, const Settings& settings) {
  std::vector<Index> chosen(layers.size(), 1);
  if (settings.budget > 0) {
    std::vector<std::vector<double>> errors;
    for (const Choices& choices : layers) errors.push_back(choices.errors);
    chosen = gqa::convert::allocate_kv_heads(errors, settings.budget);
  }
  std::vector<HeadGrouping> groups;
  for (std::size_t l = 0; l < layers.size(); ++l)
    groups.push_back(layers[l].groups.at(static_cast<std::size_t>(chosen[l] - 1)));
  return groups;
}

bool expands(const Settings& settings, Index num_kv_heads) {
  return settings.grouping != Grouping::map && settings.num_kv_heads > num_kv_heads;
}

Index resulting_kv_heads(const Settings& settings, Index num_q_heads, Index num_kv_heads) {
  const Index groups = settings.num_kv_heads;
  if (expands(settings, num_kv_heads)) {
    GQA_CHECK(groups <= num_q_heads && num_q_heads % groups == 0 && groups % num_kv_heads == 0,
              std::invalid_argument,
              "KV heads is " << groups << ", expected a multiple of the " << num_kv_heads
                             << " KV heads there are that divides the " << num_q_heads << " query heads");
    return groups;
  }
  GQA_CHECK(groups >= 1, std::invalid_argument, "KV heads is " << groups << ", expected at least 1");
  if (settings.method == Method::low_rank) return num_kv_heads;
  if (settings.grouping == Grouping::asymmetric) {
    Index size = 0;
    for (const HeadGrouping& layer : settings.layer_groups) size = std::gcd(size, common_size(layer));
    return num_kv_heads / std::max<Index>(size, 1);
  }
  if (settings.grouping != Grouping::map) {
    GQA_CHECK(num_kv_heads % groups == 0, std::invalid_argument,
              "KV heads is " << groups << ", expected a divisor of the " << num_kv_heads
                             << " KV heads there are, or a map of them to groups of any size");
    return groups;
  }
  GQA_CHECK(std::ssize(settings.map) == num_kv_heads, std::invalid_argument,
            "the map has " << settings.map.size() << " groups, expected one for each of the " << num_kv_heads
                           << " KV heads there are");
  const HeadGrouping map(settings.map, groups);
  const auto table = map.table();
  for (Index g = 0; g < groups; ++g)
    GQA_CHECK(table.size(g) > 0, std::invalid_argument, "the map leaves group " << g << " empty");
  return num_kv_heads / common_size(map);
}

const char* name_of(Method method) {
  constexpr const char* names[] = {"mean",     "first",        "medoid",  "random",
                                   "weighted", "aligned_mean", "low_rank"};
  return names[static_cast<int>(method)];
}

const char* name_of(Grouping grouping) {
  constexpr const char* names[] = {"contiguous", "strided", "random", "clustered", "asymmetric", "map"};
  return names[static_cast<int>(grouping)];
}

const char* name_of(gqa::convert::HeadDistance distance) {
  constexpr const char* names[] = {"plain", "aligned", "aligned_cosine", "cka"};
  return names[static_cast<int>(distance)];
}

}  // namespace convert
