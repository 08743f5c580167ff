// SPDX-License-Identifier: Apache-2.0
// Decoding a batch whose sequences share a long prefix: a cascade, beside attention that does not know.
#include <algorithm>
#include <gqa/gqa.hpp>
#include <limits>

#include "attention_subject.hpp"
#include "caches.hpp"
#include "rows.hpp"

namespace bench {
namespace {

constexpr Index shared = 4096, own = 64;  // tokens of the prefix, and of each sequence after it

enum class Way {
  cascade,       ///< one prefix in memory, read once for all
  shared_cache,  ///< one prefix in memory, read for each sequence: from the last cache, if it fits there
  own_caches,    ///< a copy of the prefix in each sequence's own cache
};

/// Sequence b's own tokens behind the one prefix.
template <class T>
class Joined {
 public:
  using Scalar = T;
  using View = typename gqa::KVCache<T>::View;
  Joined(const View& prefix, gqa::KVList<View> own_tokens) : prefix_(prefix), own_(std::move(own_tokens)) {}

  Index num_seqs() const { return own_.num_seqs(); }
  Index num_kv_heads() const { return prefix_.num_kv_heads(); }
  Index head_dim() const { return prefix_.head_dim(); }
  Index value_dim() const { return prefix_.value_dim(); }
  Index scratch_bytes() const { return 0; }
  gqa::Range retained(Index seq) const { return {0, shared + own_.retained(seq).hull().end}; }
  gqa::KVTile tile(Index seq, Index kv_head, gqa::Range want, void* scratch) const {
    static_assert(shared % gqa::tile_keys == 0, "what is wanted of a tile is in one of the two");
    if (want.begin < shared) return prefix_.tile(0, kv_head, want, scratch);
    return own_.tile(seq, kv_head, {want.begin - shared, want.end - shared}, scratch);
  }

 private:
  View prefix_;
  gqa::KVList<View> own_;
};

template <class T>
class Prefixed final : public Subject {
 public:
  Prefixed(const Shape& s, Way way, Index layers)
      : way_(way),
        layers_(layers),
        q_(random_tensor<T>(1, s.batch, s.H, s.D, 1)),  // a token of each sequence, packed
        k_(random_tensor<T>(1, shared, s.G, s.D, 2)),
        v_(random_tensor<T>(1, shared, s.G, s.D, 3)),
        own_k_(random_tensor<T>(s.batch, own, s.G, s.D, 4)),
        own_v_(random_tensor<T>(s.batch, own, s.G, s.D, 5)),
        out_(q_.dimensions()) {
    for (Index b = 0; b <= s.batch; ++b) offsets_.push_back(b);
    if (way != Way::own_caches) prefix_.push_back(cache_of<T>({{sequence(k_, 0), sequence(v_, 0)}}, layers));
    for (Index b = 0; b < s.batch; ++b) {
      std::vector<KV<T>> parts;
      if (way == Way::own_caches) parts.push_back({sequence(k_, 0), sequence(v_, 0)});
      parts.push_back({sequence(own_k_, b), sequence(own_v_, b)});
      own_.push_back(cache_of(parts, layers));
    }
  }

  void run(Eigen::ThreadPool* pool) override {
    using View = typename gqa::KVCache<T>::View;
    const gqa::AttentionOptions options{.workspace = &workspace_};
    const Index layer = next_++ % layers_;
    const auto q = gqa::ragged(q_, offsets_);
    gqa::KVList<View> each = layer_of(own_, layer);
    on_threads(pool, [&](auto&& executor) {
      if (way_ == Way::cascade) {
        const std::vector<gqa::CascadeLevel<gqa::KVList<View>>> levels = {
            {layer_of(prefix_, layer), {0, q.num_seqs()}}, {std::move(each), offsets_}};
        gqa::cascade_attention(executor, q, levels, out_, gqa::causal(), options);
      } else if (way_ == Way::shared_cache) {
        gqa::attention(executor, q, Joined<T>(prefix_[0].layer(layer), std::move(each)), out_, gqa::causal(),
                       options);
      } else {
        gqa::attention(executor, q, each, out_, gqa::causal(), options);
      }
    });
  }

  std::string check(Eigen::ThreadPool* pool) override {
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    Tensor<T> k, v;
    return difference_in_batch(q_.dimension(1), [&](Index b) -> Sequence<T> {
      k = joined(k_, own_k_, b);
      v = joined(v_, own_v_, b);
      const auto token = [&](const Tensor<T>& x) {
        return gqa::TensorView<const T>(&x(0, b, 0, 0), 1, x.dimension(2), x.dimension(3));
      };
      return {token(q_), sequence(k, 0), sequence(v, 0), token(out_)};
    });
  }

 private:
  static Tensor<T> joined(const Tensor<T>& prefix, const Tensor<T>& rest, Index b) {
    Tensor<T> whole(1, shared + own, prefix.dimension(2), prefix.dimension(3));
    const auto of_b = sequence(rest, b);
    std::copy_n(of_b.data, of_b.tokens * of_b.token_stride,
                std::copy_n(prefix.data(), prefix.size(), whole.data()));
    return whole;
  }

  Way way_;
  Index layers_, next_ = 0;
  Tensor<T> q_, k_, v_, own_k_, own_v_, out_;
  std::vector<Index> offsets_;
  std::vector<gqa::KVCache<T>> prefix_, own_;  ///< one prefix or none; a cache a sequence
  gqa::Workspace workspace_;
};

Row prefix_row(const Shape& shape, Way way, const Machine& machine) {
  const double a_token = shape.kv_bytes() / static_cast<double>(shape.batch * shape.ctx);
  const auto bytes_of = [=](Index tokens) { return a_token * static_cast<double>(tokens); };
  const bool copies = way == Way::own_caches;
  const Index distinct = shared + shape.batch * own;
  const double layer_bytes = copies ? shape.kv_bytes() : bytes_of(distinct);
  const Index layers = layers_to_cycle(layer_bytes, machine);
  const Index held = copies ? shape.batch * taken(shape.ctx) : taken(shared) + shape.batch * taken(own);
  Row row{.name = shape.name(),
          .memory_key = shape.kind + "/" + shape.memory_key(),
          .threads = shape.threads,
          .bytes = layer_bytes + shape.qo_bytes(),
          .flops = shape.flops(),
          .footprint = layer_bytes * static_cast<double>(layers),
          .memory = bytes_of(held * layers + distinct),
          .dtype = shape.dtype};
  row.make = [=]() -> std::unique_ptr<Subject> {
    if (shape.dtype == Dtype::bf16) return std::make_unique<Prefixed<gqa::bfloat16>>(shape, way, layers);
    return std::make_unique<Prefixed<float>>(shape, way, layers);
  };
  return row;
}

}  // namespace

std::vector<Row> prefix_rows(const Machine& machine) {
  std::vector<Row> rows;
  const std::pair<const char*, Way> ways[] = {
      {"cascade", Way::cascade}, {"shared_cache", Way::shared_cache}, {"own_caches", Way::own_caches}};
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    for (const auto& [name, way] : ways) {
      for (int threads : {1, 2}) {
        const std::string kind = std::string("prefix_decode/") + name;
        rows.push_back(
            prefix_row({.kind = kind, .dtype = dtype, .batch = 16, .ctx = shared + own, .threads = threads},
                       way, machine));
      }
    }
  }
  return rows;
}

}  // namespace bench
