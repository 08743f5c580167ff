// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace uptrain {

/// How the KV heads of a group become one.
enum class Method {
  random,     ///< drawn anew: what the others are to be better than
  first,      ///< the first of them
  medoid,     ///< the one that is nearest to the others
  mean,       ///< their mean
  weighted,   ///< their sum, each times a factor that is learned as the model is trained on
  aligned,    ///< their mean after the change of basis in which they agree best
  clustered,  ///< the same, of the heads that agree best in place of neighbours
  low_rank,   ///< none of this: keys and values of all heads from a latent vector of the same size; not
              ///< trained
};

inline constexpr Method all_methods[] = {Method::random,    Method::first,    Method::medoid,
                                         Method::mean,      Method::weighted, Method::aligned,
                                         Method::clustered, Method::low_rank};

constexpr std::string_view name_of(Method method) {
  constexpr std::string_view names[] = {"random",   "first",        "medoid",    "mean",
                                        "weighted", "aligned-mean", "clustered", "low-rank"};
  return names[static_cast<int>(method)];
}

}  // namespace uptrain
