// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <vector>

#include "attention_subject.hpp"
#include "caches.hpp"

namespace bench {
namespace {

template <class T>
class Attention final : public AttentionSubject<T> {
  using AttentionSubject<T>::shape_, AttentionSubject<T>::in_, AttentionSubject<T>::out_;

 public:
  Attention(const Shape& shape, Index layers, Inputs<T> inputs)
      : AttentionSubject<T>(shape, std::move(inputs), rules(shape)), layers_(layers) {
    if (shape.ctx == 0) return;
    for (Index b = 0; b < shape.sequences(); ++b)
      caches_.push_back(cache_of<T>({{sequence(in_.k, b), sequence(in_.v, b)}}, layers));
  }

  void run(Eigen::ThreadPool* pool) override {
    const Index W = shape_.window, layer = next_++ % layers_;
    const gqa::Window mask = W == 0 ? gqa::causal() : gqa::sliding_window(W);
    const gqa::AttentionOptions options{.workspace = &this->workspace_};
    on_threads(pool, [&](auto&& executor) {
      if (caches_.empty())
        gqa::attention(executor, in_.q, in_.k, in_.v, out_, mask, options);
      else if (caches_.size() == 1)
        gqa::attention(executor, in_.q, caches_[0].layer(layer), out_, mask, options);
      else
        gqa::attention(executor, in_.q, layer_of(caches_, layer), out_, mask, options);
    });
  }

  void save_output(const std::string& file) const override {
    const Eigen::Tensor<float, 4, Eigen::RowMajor> floats = out_.template cast<float>();
    std::ofstream(file, std::ios::binary)
        .write(reinterpret_cast<const char*>(floats.data()), static_cast<std::streamsize>(floats.size()) * 4);
  }

 private:
  static Rules rules(const Shape& shape) {
    if (shape.window == 0) return {};
    return {.visible = [W = shape.window](Index q, Index kv) { return kv <= q && kv > q - W; }};
  }

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
