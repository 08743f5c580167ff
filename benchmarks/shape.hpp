// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gqa/core/shape.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

using gqa::Index;

enum class Dtype { f32, f16, bf16 };
const char* name(Dtype dtype);
double size_of(Dtype dtype);

/// One case as its row is named: `decode/f32/H:32/G:8/D:128/ctx:8192/threads:1`.
struct Shape {
  std::string kind = {};  ///< the group: decode, prefill, ...
  Dtype dtype = Dtype::f32;
  Index H = 32, G = 8, D = 128;
  Index batch = 0;   ///< sequences; 0: one, and not said in the name
  Index window = 0;  ///< keys a query sees; 0: all before it
  Index S = 0;       ///< query tokens; 0: one, and not said in the name
  Index ctx = 0;     ///< tokens in the cache, the queries' included; 0: S, and not said in the name
  int threads = 1;

  std::string name() const;
  /// The same without its group and threads: cases of one shape share their memory.
  std::string memory_key() const;
  static std::optional<Shape> parse(std::string_view name);

  Index sequences() const { return batch == 0 ? 1 : batch; }
  Index queries() const { return S == 0 ? 1 : S; }
  Index tokens() const { return ctx == 0 ? queries() : ctx; }
  /// Keys that row `i` of the queries sees.
  gqa::Range visible(Index i) const;

  /// Keys and values of one layer.
  double kv_bytes() const;
  /// Queries and output.
  double qo_bytes() const;
  /// What one call must move at least: the keys and values that any query sees, q and the output.
  double bytes() const;
  /// Pairs of a query and a key that it sees, over those of causal attention.
  double density() const;
  /// A multiply-add counts two, for each query and key that it sees, once for the score and once for the sum.
  double flops() const;
};

}  // namespace bench
