// SPDX-License-Identifier: Apache-2.0
// Sequences of different lengths in one call, beside what one does without: pad them all to the longest, or
// call once for each.
#include <cmath>
#include <gqa/gqa.hpp>
#include <limits>

#include "attention_subject.hpp"
#include "caches.hpp"
#include "rows.hpp"

namespace bench {
namespace {

/// How a batch goes to attention().
enum class Way { ragged, padded, one_by_one };

/// Tokens of each sequence, and where they begin in a packed tensor.
struct Lengths {
  std::vector<Index> offsets = {0};

  explicit Lengths(const std::vector<Index>& tokens) {
    for (Index n : tokens) offsets.push_back(offsets.back() + n);
  }
  Index count() const { return static_cast<Index>(offsets.size()) - 1; }
  Index total() const { return offsets.back(); }
  Index begin(Index b) const { return offsets[static_cast<std::size_t>(b)]; }
  Index tokens(Index b) const { return begin(b + 1) - begin(b); }

  /// Sequence b of a packed tensor, const or not.
  template <class X>
  auto of(X& packed, Index b) const {
    const Index token = packed.dimension(2) * packed.dimension(3);
    return gqa::TensorView(packed.data() + begin(b) * token, tokens(b), packed.dimension(2),
                           packed.dimension(3));
  }
};

/// `n` lengths from `least` to `most`, evenly spaced by their logarithms, long and short ones mixed.
std::vector<Index> spread(Index n, Index least, Index most) {
  std::vector<Index> lengths;
  for (Index i = 0; i < n; ++i) {
    const auto share = static_cast<double>(i * 5 % n) / static_cast<double>(n - 1);
    lengths.push_back(std::lround(static_cast<double>(least) *
                                  std::pow(static_cast<double>(most) / static_cast<double>(least), share)));
  }
  return lengths;
}

/// Prompts of different lengths, whole.
template <class T>
class Prompts final : public Subject {
 public:
  Prompts(const Shape& s, const Lengths& lengths, Way way)
      : lengths_(lengths),
        way_(way),
        in_(way == Way::padded ? random(s, s.batch, s.S) : random(s, 1, lengths.total())),
        out_(in_.q.dimensions()) {}

  void run(Eigen::ThreadPool* pool) override {
    const gqa::AttentionOptions options{.workspace = &workspace_};
    on_threads(pool, [&](auto&& executor) {
      if (way_ == Way::padded) {  // padding comes last, where no query that counts looks
        gqa::attention(executor, in_.q, in_.k, in_.v, out_, gqa::causal(), options);
      } else if (way_ == Way::ragged) {
        const auto packed = [&](const Tensor<T>& x) { return gqa::ragged(x, lengths_.offsets); };
        gqa::attention(executor, packed(in_.q), packed(in_.k), packed(in_.v), out_, gqa::causal(), options);
      } else {
        for (Index b = 0; b < lengths_.count(); ++b)
          gqa::attention(executor, of(in_.q, b), of(in_.k, b), of(in_.v, b), lengths_.of(out_, b),
                         gqa::causal(), options);
      }
    });
  }

  std::string check(Eigen::ThreadPool* pool) override {
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    return difference_in_batch(lengths_.count(), [&](Index b) -> Sequence<T> {
      return {of(in_.q, b), of(in_.k, b), of(in_.v, b), of(out_, b)};
    });
  }

 private:
  static Inputs<T> random(const Shape& s, Index sequences, Index tokens) {
    Shape shape = s;
    shape.batch = sequences;
    shape.S = tokens;
    return Inputs<T>::random(shape);
  }
  gqa::TensorView<const T> of(const Tensor<T>& x, Index b) const {
    return way_ == Way::padded ? sequence(x, b, lengths_.tokens(b)) : lengths_.of(x, b);
  }

  Lengths lengths_;
  Way way_;
  Inputs<T> in_;
  Tensor<T> out_;
  gqa::Workspace workspace_;
};

/// A server's step: some sequences decode a token, others are given a piece of their prompt.
template <class T>
class Step final : public Subject {
 public:
  Step(const Shape& s, const Lengths& queries, const Lengths& keys, Way way, Index layers)
      : queries_(queries),
        keys_(keys),
        way_(way),
        q_(random_tensor<T>(1, queries.total(), s.H, s.D, 1)),
        k_(random_tensor<T>(1, keys.total(), s.G, s.D, 2)),
        v_(random_tensor<T>(1, keys.total(), s.G, s.D, 3)),
        out_(q_.dimensions()),
        layers_(layers) {
    for (Index b = 0; b < keys.count(); ++b)
      caches_.push_back(cache_of<T>({{keys_.of(k_, b), keys_.of(v_, b)}}, layers));
  }

  void run(Eigen::ThreadPool* pool) override {
    const gqa::AttentionOptions options{.workspace = &workspace_};
    const Index layer = next_++ % layers_;
    on_threads(pool, [&](auto&& executor) {
      if (way_ == Way::ragged) {
        gqa::attention(executor, gqa::ragged(q_, queries_.offsets), layer_of(caches_, layer), out_,
                       gqa::causal(), options);
      } else {
        for (Index b = 0; b < queries_.count(); ++b)
          gqa::attention(executor, queries_.of(q_, b), caches_[static_cast<std::size_t>(b)].layer(layer),
                         queries_.of(out_, b), gqa::causal(), options);
      }
    });
  }

  std::string check(Eigen::ThreadPool* pool) override {
    out_.setConstant(std::numeric_limits<T>::quiet_NaN());
    run(pool);
    return difference_in_batch(queries_.count(), [&](Index b) -> Sequence<T> {
      return {queries_.of(q_, b), keys_.of(k_, b), keys_.of(v_, b), queries_.of(out_, b)};
    });
  }

 private:
  Lengths queries_, keys_;
  Way way_;
  Tensor<T> q_, k_, v_, out_;
  gqa::Workspace workspace_;
  std::vector<gqa::KVCache<T>> caches_;
  Index layers_, next_ = 0;
};

/// What a batch needs at least, whatever is done for it: its sequences' own needs together.
Row batch_row(const Shape& shape, const Lengths& queries, const Lengths& keys) {
  Row row{.name = shape.name(),
          .memory_key = shape.kind + "/" + shape.memory_key(),
          .threads = shape.threads,
          .dtype = shape.dtype};
  for (Index b = 0; b < queries.count(); ++b) {
    Shape one = shape;
    one.batch = 0;
    one.S = queries.tokens(b);
    one.ctx = keys.tokens(b);
    row.bytes += one.bytes();
    row.flops += one.flops();
  }
  row.footprint = row.bytes;
  return row;
}

template <class T>
Row prompts_row(const Shape& shape, Way way) {
  const Lengths lengths(spread(shape.batch, 64, shape.S));
  Row row = batch_row(shape, lengths, lengths);
  row.memory = way == Way::padded ? shape.kv_bytes() + shape.qo_bytes() : row.bytes;
  row.make = [=] { return std::make_unique<Prompts<T>>(shape, lengths, way); };
  return row;
}

template <class T>
Row step_row(const Shape& shape, Way way, const Machine& machine) {
  std::vector<Index> q(static_cast<std::size_t>(shape.batch), 1), kv = spread(shape.batch, 256, shape.ctx);
  for (std::size_t prompt : {std::size_t{0}, q.size() / 2}) {
    q[prompt] = shape.S;
    kv[prompt] = prompt == 0 ? shape.S : 4 * shape.S;
  }
  const Lengths queries(q), keys(kv);
  Row row = batch_row(shape, queries, keys);
  const double a_token = static_cast<double>(2 * shape.G * shape.D) * size_of(shape.dtype);
  const double layer_bytes = a_token * static_cast<double>(keys.total());
  const Index layers = layers_to_cycle(layer_bytes, machine);
  Index held = 0;
  for (Index n : kv) held += taken(n);
  row.footprint = layer_bytes * static_cast<double>(layers);
  row.memory = a_token * static_cast<double>(held * layers) + row.bytes;
  row.make = [=] { return std::make_unique<Step<T>>(shape, queries, keys, way, layers); };
  return row;
}

}  // namespace

std::vector<Row> batch_rows(const Machine& machine) {
  std::vector<Row> rows;
  const std::pair<const char*, Way> ways[] = {
      {"ragged", Way::ragged}, {"padded", Way::padded}, {"one_by_one", Way::one_by_one}};
  for (Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    const bool narrow = dtype == Dtype::bf16;
    for (const auto& [name, way] : ways) {
      for (int threads : {1, 2}) {
        const Shape prompts{.kind = std::string("ragged_prefill/") + name,
                            .dtype = dtype,
                            .batch = 16,
                            .S = 1024,
                            .threads = threads};
        rows.push_back(narrow ? prompts_row<gqa::bfloat16>(prompts, way) : prompts_row<float>(prompts, way));
      }
    }
    for (const auto& [name, way] : ways) {
      if (way == Way::padded) continue;  // nobody pads a token to a prompt
      for (int threads : {1, 2}) {
        const Shape step{.kind = std::string("mixed_step/") + name,
                         .dtype = dtype,
                         .batch = 16,
                         .S = 512,
                         .ctx = 8192,
                         .threads = threads};
        rows.push_back(narrow ? step_row<gqa::bfloat16>(step, way, machine)
                              : step_row<float>(step, way, machine));
      }
    }
  }
  return rows;
}

}  // namespace bench
