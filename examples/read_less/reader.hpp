// SPDX-License-Identifier: Apache-2.0
// One way of reading what came before: which keys and values a token attends to, and which are kept.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "forward.hpp"
#include "gqa/inspect/attention_mass.hpp"
#include "gqa/kv/cache.hpp"

namespace read_less {

using gqa::Index;

enum class Method { recent, h2o, snapkv, pages };
inline constexpr Method all_methods[] = {Method::pages, Method::h2o, Method::snapkv, Method::recent};
std::string name_of(Method method);

/// A prompt that was read in full.
struct Prompt {
  gqa::KVCache<float> cache;
  std::vector<gqa::AttentionMass> mass;       ///< of each layer: the mass of all its queries
  std::vector<gqa::AttentionMass> last_mass;  ///< and of the last `window` of them
};

/// What one token after another attends to.
class Reader {
 public:
  using Rows = gqa::TensorView<const float>;

  virtual ~Reader() = default;

  /// Makes room for one more token in all layers.
  virtual void extend() = 0;
  /// Stores a layer's keys and values of that token, and attends to what there is.
  virtual void attend(Index layer, const Rows& q, const Rows& k, const Rows& v,
                      const gqa::TensorView<float>& out) = 0;

  /// Bytes of keys, values and what else was read to attend, all layers together, so far.
  double bytes_read() const { return bytes_read_; }
  /// Bytes of keys, values and what else is held.
  virtual Index bytes_held() const = 0;

 protected:
  double bytes_read_ = 0;
};

struct Settings;

/// Attends to all there is.
std::unique_ptr<Reader> make_reader(const Prompt& prompt, gqa::PoolExecutor executor, double scale);

/// Attends as a method does that reads at most what the keys and values of `keep` tokens take, for each
/// token. Where `keep` is all tokens there will be, that is attention to all to the bit.
std::unique_ptr<Reader> make_reader(Method method, Index keep, const Settings& settings, const Prompt& prompt,
                                    Index num_q_heads, gqa::PoolExecutor executor, double scale);

/// How many pages a KV head may read, so that with the bounds of all pages they are no more bytes than the
/// keys and values of `keep` tokens; and with how many there is one to choose.
Index pages_within(Index keep, const Settings& settings, Index head_dim, Index value_dim);
Index least_pages();

}  // namespace read_less
