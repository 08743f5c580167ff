// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gqa/convert.hpp"

namespace convert {

using gqa::Index;

enum class Method { mean, first, medoid, random, weighted, aligned_mean, low_rank };
enum class Grouping { contiguous, strided, random, clustered, asymmetric, map };

/// What to make of each layer of a model.
struct Settings {
  Index num_kv_heads = 1;  ///< of low_rank: those whose cache the rank takes as much of
  Method method = Method::mean;
  Grouping grouping = Grouping::contiguous;
  std::vector<Index> map = {};  ///< Grouping::map: the group of each KV head there is
  Index budget = 0;  ///< Grouping::asymmetric: KV heads of all layers together; 0: num_kv_heads of each
  std::vector<gqa::HeadGrouping> layer_groups =
      {};  ///< of Grouping::asymmetric, for each layer: choose_groups()
  gqa::convert::HeadDistance distance = gqa::convert::HeadDistance::plain;  ///< of clustered and asymmetric
  gqa::convert::KeyBasis basis = gqa::convert::KeyBasis::fixed();           ///< of aligned_mean
  std::uint64_t seed = 0;                                                   ///< layer l draws from seed + l
  bool keep_norms = false;
  std::vector<gqa::convert::HeadWeights> factors = {};  ///< of weighted, for each layer
};

/// Groups of free sizes for one layer: for each number of KV heads that there is to choose from, ascending.
struct Choices {
  std::vector<gqa::HeadGrouping> groups;
  std::vector<double> errors;  ///< what settings.method then loses, as a share
};

/// The choices of Grouping::asymmetric: from 1 KV head to as many as there are, or settings.num_kv_heads
/// where there is no budget. Throws std::invalid_argument as convert_layer() does.
Choices group_choices(const gqa::convert::Weights& source, const Settings& settings, Index layer,
                      const gqa::convert::Calibration* calibration = nullptr);

/// settings.layer_groups: within the budget, those that lose least in all. Throws std::invalid_argument for a
/// budget of less than one KV head a layer.
std::vector<gqa::HeadGrouping> choose_groups(const std::vector<Choices>& layers, const Settings& settings);

/// A layer of which query head h reads KV head h / (H / G), as files have it.
struct ConvertedLayer {
  gqa::convert::Weights weights;
  gqa::convert::Report report;
  std::vector<Index> groups;  ///< of each KV head there was; empty where none were joined
};

/// Joins the KV heads of a layer, or for more of them than there are copies them, or factorises them.
/// Groups of unequal size need KV heads more than once in a file, so that each is read by as many query heads
/// as every other: by the greatest common divisor of the sizes, of all layers of a file.
///
/// Throws std::invalid_argument where the number of KV heads, the map or the calibration fits the weights
/// badly.
ConvertedLayer convert_layer(const gqa::convert::Weights& source, const Settings& settings, Index layer,
                             const gqa::convert::Calibration* calibration = nullptr);

/// Whether there are to be more KV heads than there are.
bool expands(const Settings& settings, Index num_kv_heads);

/// The number of KV heads that convert_layer() gives a model of that many heads: settings.num_kv_heads, but
/// more of them for unequal groups and as many as there were for low_rank. Throws std::invalid_argument for
/// one that there cannot be.
Index resulting_kv_heads(const Settings& settings, Index num_q_heads, Index num_kv_heads);

/// What they are called on the command line.
const char* name_of(Method method);
const char* name_of(Grouping grouping);
const char* name_of(gqa::convert::HeadDistance distance);

}  // namespace convert
