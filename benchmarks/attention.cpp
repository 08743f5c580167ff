// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <gqa/attention.hpp>
#include <limits>
#include <vector>

#include "subject.hpp"
#include "verify.hpp"

namespace bench {
namespace {

template <class T>
gqa::TensorView<const T> sequence(const Tensor<T>& x, Index b) {
  const Index size = x.dimension(1) * x.dimension(2) * x.dimension(3);
  return {x.data() + b * size, x.dimension(1), x.dimension(2), x.dimension(3)};
}

/// One layer of several caches, a sequence each, as one KVView.
template <class T>
class BatchView {
 public:
  using Scalar = T;
  BatchView(const std::vector<gqa::KVCache<T>>& caches, Index layer) {
    for (const auto& cache : caches) views_.push_back(cache.layer(layer));
  }
  Index num_seqs() const { return static_cast<Index>(views_.size()); }
  Index num_kv_heads() const { return views_[0].num_kv_heads(); }
  Index head_dim() const { return views_[0].head_dim(); }
  Index value_dim() const { return views_[0].value_dim(); }
  Index scratch_bytes() const { return 0; }
  gqa::Range retained(Index seq) const { return of(seq).retained(0); }
  gqa::KVTile<T> tile(Index seq, Index kv_head, gqa::Range want, void* scratch) const {
    return of(seq).tile(0, kv_head, want, scratch);
  }

 private:
  const auto& of(Index seq) const { return views_[static_cast<std::size_t>(seq)]; }
  std::vector<typename gqa::KVCache<T>::View> views_;
};

template <class T>
class Attention final : public Subject {
 public:
  Attention(const Shape& shape, Index layers, Inputs<T> inputs)
      : shape_(shape),
        in_(std::move(inputs)),
        out_(shape.sequences(), shape.queries(), shape.H, shape.D),
        layers_(layers) {
    if (shape.ctx == 0) return;
    for (Index b = 0; b < shape.sequences(); ++b) {
      gqa::KVCache<T>& cache = caches_.emplace_back(typename gqa::KVCache<T>::Config{
          .max_tokens = shape.ctx, .num_layers = layers, .num_kv_heads = shape.G, .head_dim = shape.D});
      const gqa::Span span = cache.extend(shape.ctx);
      for (Index layer = 0; layer < layers; ++layer)
        cache.write(layer, span, sequence(in_.k, b), sequence(in_.v, b));
    }
  }

  void run(Eigen::ThreadPool* pool) override {
    if (shape_.window == 0)
      with_mask(pool, gqa::causal());
    else
      with_mask(pool, gqa::sliding_window(shape_.window));
  }

  std::string check(Eigen::ThreadPool* pool) override {
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    return difference(shape_, in_, out_);
  }

  void save_output(const std::string& file) const override {
    const Eigen::Tensor<float, 4, Eigen::RowMajor> floats = out_.template cast<float>();
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(floats.data()), static_cast<std::streamsize>(floats.size()) * 4);
  }

 private:
  template <class Mask>
  void with_mask(Eigen::ThreadPool* pool, const Mask& mask) {
    if (pool == nullptr)
      attend(gqa::Serial{}, mask);
    else
      attend(*pool, mask);
  }

  template <class Executor, class Mask>
  void attend(Executor&& executor, const Mask& mask) {
    const gqa::AttentionOptions options{.workspace = &workspace_};
    const Index layer = next_++ % layers_;
    if (caches_.empty())
      gqa::attention(executor, in_.q, in_.k, in_.v, out_, mask, options);
    else if (caches_.size() == 1)
      gqa::attention(executor, in_.q, caches_[0].layer(layer), out_, mask, options);
    else
      gqa::attention(executor, in_.q, BatchView<T>(caches_, layer), out_, mask, options);
  }

  Shape shape_;
  Inputs<T> in_;
  Tensor<T> out_;
  gqa::Workspace workspace_;
  std::vector<gqa::KVCache<T>> caches_;  ///< one a sequence; none: attention to the plain tensors
  Index layers_, next_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Subject> make_attention(const Shape& shape, Index layers, Inputs<T> inputs) {
  return std::make_unique<Attention<T>>(shape, layers, std::move(inputs));
}

template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<float>);
template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<gqa::half>);
template std::unique_ptr<Subject> make_attention(const Shape&, Index, Inputs<gqa::bfloat16>);

}  // namespace bench
