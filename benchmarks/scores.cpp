// SPDX-License-Identifier: Apache-2.0
// What score functions cost, beside attention without one.
#include <array>
#include <cmath>
#include <gqa/score.hpp>
#include <tuple>

#include "attention_subject.hpp"
#include "caches.hpp"
#include "rows.hpp"

namespace bench {
namespace {

constexpr Index heads = 32;

/// Causal attention with extra arguments, on one thread.
template <class... X>
class Scored final : public AttentionSubject<float> {
 public:
  Scored(const Shape& shape, Index layers, Rules rules, X... extras)
      : AttentionSubject(shape, Inputs<float>::random(shape), std::move(rules)),
        extras_(std::move(extras)...),
        layers_(layers) {
    if (shape.ctx != 0) cache_.push_back(cache_of<float>({{sequence(in_.k, 0), sequence(in_.v, 0)}}, layers));
  }

  void run(Eigen::ThreadPool*) override {
    const gqa::AttentionOptions options{.workspace = &workspace_};
    const Index layer = next_++ % layers_;
    std::apply(
        [&](const X&... extra) {
          if (cache_.empty())
            gqa::attention(in_.q, in_.k, in_.v, out_, gqa::causal(), extra..., options);
          else
            gqa::attention(in_.q, cache_[0].layer(layer), out_, gqa::causal(), extra..., options);
        },
        extras_);
  }

 private:
  std::tuple<X...> extras_;
  std::vector<gqa::KVCache<float>> cache_;  ///< one, or none: attention to the plain tensors
  Index layers_, next_ = 0;
};

using Make = std::function<std::unique_ptr<Subject>(const Shape&, Index layers)>;

/// `extras` are what attention() is given, `rules` say the same to the oracle.
template <class... X>
Make with(const Rules& rules, const X&... extras) {
  return [=](const Shape& shape, Index layers) {
    return std::make_unique<Scored<X...>>(shape, layers, rules, extras...);
  };
}

double slope(Index head) { return std::exp2(-8.0 * static_cast<double>(head + 1) / heads); }
double alibi(double s, Index h, Index q, Index kv) { return s - slope(h) * static_cast<double>(q - kv); }

Make soft_capped() {
  constexpr double cap = 30;
  return with({.modify = [](double s, Index, Index, Index) { return cap * std::tanh(s / cap); }},
              gqa::soft_cap(cap));
}

/// ALiBi again, as one would write it without knowing alibi().
Make function() {
  std::array<float, heads> slopes;
  for (Index h = 0; h < heads; ++h) slopes[static_cast<std::size_t>(h)] = static_cast<float>(slope(h));
  return with({.modify = alibi}, [slopes](auto score, Index h, Index q_pos, Index kv_pos) {
    return score - static_cast<decltype(score)>(q_pos - kv_pos) *
                       static_cast<decltype(score)>(slopes[static_cast<std::size_t>(h)]);
  });
}

Make relative() {
  const gqa::RelativeBuckets buckets{.bidirectional = false};
  const Tensor<float> random = random_tensor<float>(1, 1, buckets.num_buckets, heads, 4);
  const std::vector<float> table(random.data(), random.data() + random.size());
  return with(
      {.modify =
           [=](double s, Index h, Index q, Index kv) {
             return s + static_cast<double>(table[static_cast<std::size_t>(buckets.of(kv - q) * heads + h)]);
           }},
      gqa::relative_bias(buckets, table, heads));
}

Make tempered() {
  const auto factor = [](Index q_pos) { return 1 + 0.1 * std::log1p(static_cast<double>(q_pos / 256)); };
  return with({.modify = [=](double s, Index, Index q, Index) { return s * factor(q); }},
              gqa::temperature(factor));
}

/// A bias for each query and key, one for all heads or one a head.
Make biased(Index tables) {
  return [=](const Shape& shape, Index layers) {
    const auto bias =
        std::make_shared<const Tensor<float>>(random_tensor<float>(1, tables, shape.S, shape.S, 4));
    const Rules rules{.modify = [=](double s, Index h, Index q, Index kv) {
      return s + static_cast<double>((*bias)(0, h % tables, q, kv));
    }};
    return with(rules, gqa::tensor_bias(*bias))(shape, layers);
  };
}

Make with_sinks() {
  std::vector<double> logits;
  for (Index h = 0; h < heads; ++h) logits.push_back(0.1 * static_cast<double>(h));
  return with({.sink_logits = logits}, gqa::SinkLogits(logits));
}

/// `tables` of a bias for each query and key are read besides.
Row score_row(const char* what, const Make& make, Shape shape, const Machine& machine, double tables = 0) {
  shape.kind = (shape.ctx == 0 ? "score_prefill/" : "score_decode/") + std::string(what);
  Row row = attention_row(shape, machine);
  const double seen = 4 * tables * shape.flops() / static_cast<double>(4 * shape.H * shape.D);
  row.memory_key = row.name;  // each has a subject of its own
  row.bytes += seen;
  row.footprint += seen;
  row.memory += 4 * tables * static_cast<double>(shape.S * shape.S);
  const Index layers = shape.ctx == 0 ? 1 : layers_to_cycle(shape.kv_bytes(), machine);
  row.make = [=] { return make(shape, layers); };
  return row;
}

}  // namespace

std::vector<Row> score_rows(const Machine& machine) {
  std::vector<Row> rows;
  for (Index D : {128, 64}) {
    const Shape shape{.H = heads, .D = D, .S = 2048};
    const auto add = [&](const char* what, const Make& make, double tables = 0) {
      rows.push_back(score_row(what, make, shape, machine, tables));
    };
    add("plain", with({}));
    add("soft_cap", soft_capped());
    add("alibi", with({.modify = alibi}, gqa::alibi(heads)));
    add("temperature", tempered());
    add("sink_logits", with_sinks());
    add("relative_bias", relative());
    add("tensor_bias", biased(1), 1);
    add("tensor_bias_by_head", biased(heads), heads);
    add("function", function());
  }
  const Shape shape{.H = heads, .ctx = 8192};
  rows.push_back(score_row("plain", with({}), shape, machine));
  rows.push_back(score_row("soft_cap", soft_capped(), shape, machine));
  rows.push_back(score_row("alibi", with({.modify = alibi}, gqa::alibi(heads)), shape, machine));
  return rows;
}

}  // namespace bench
