// SPDX-License-Identifier: Apache-2.0
// Compiled several times with different flags, as FUNCTION: what a program's parts may each call.
#ifdef OURS_FIRST  // before Eigen's headers
#include <gqa/attention.hpp>
#endif
#include <gqa/gqa.hpp>

#include "flags/part.hpp"

namespace {

using namespace gqa;

struct Sizes {
  Index tokens = 131, num_q_heads = 6, num_kv_heads = 2, head_dim = 40, value_dim = 24;
};

/// Results, by what computed them.
class Results {
 public:
  explicit Results(std::vector<Result>& results) : results_(results) {}

  /// What is added from here on.
  void begin(const std::string& name) { results_.push_back({name, {}}); }

  template <class X>
  void add(const X* values, std::size_t count) {
    const auto* first = reinterpret_cast<const unsigned char*>(values);
    results_.back().bytes.insert(results_.back().bytes.end(), first, first + count * sizeof(X));
  }
  template <class X>
  void add(const std::vector<X>& values) {
    add(values.data(), values.size());
  }
  template <class X, int Rank, int Options>
  void add(const Eigen::Tensor<X, Rank, Options>& tensor) {
    add(tensor.data(), static_cast<std::size_t>(tensor.size()));
  }

 private:
  std::vector<Result>& results_;
};

/// Numbers in [-2, 2) that need all of a type's digits.
template <class T>
std::vector<T> numbers(Index count, unsigned seed) {
  std::vector<T> values;
  for (unsigned long long state = seed; static_cast<Index>(values.size()) < count;) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    values.push_back(static_cast<T>(static_cast<double>(state >> 11) / double(1ull << 51) - 2));
  }
  return values;
}

/// Score functions and what they compute with inline arithmetic, behind one type: each one instantiation
/// less.
std::vector<std::pair<std::string, AnyScoreMod>> score_mods(const Sizes& s, const std::vector<double>& bias) {
  const ScoreTensor<double> tensor(bias.data(), {.q_tokens = s.tokens, .kv_tokens = s.tokens});
  return {{"soft_cap", soft_cap(5)},
          {"alibi", alibi(s.num_q_heads)},
          {"relative_bias", relative_bias({}, numbers<double>(32 * s.num_q_heads, 4), s.num_q_heads)},
          {"tensor_bias", tensor_bias(tensor)},
          {"temperature", temperature([](Index q_pos) { return 1 / static_cast<double>(q_pos + 3); })},
          {"llama4_temperature", llama4_temperature(0.1, 3)},
          {"chain", llama4_temperature(0.3, 7) | soft_cap(9) | alibi(s.num_q_heads) | tensor_bias(tensor)}};
}

/// Attention over tensors and a cache, its probabilities, and what of it can be merged.
template <class T>
void attend(Results& results) {
  using Acc = Accumulator<T>;
  const std::string type = scalar_name<T>();
  const Sizes s;
  const auto q = numbers<T>(s.tokens * s.num_q_heads * s.head_dim, 1);
  const auto k = numbers<T>(s.tokens * s.num_kv_heads * s.head_dim, 2);
  const auto v = numbers<T>(s.tokens * s.num_kv_heads * s.value_dim, 3);
  const auto bias = numbers<double>(s.tokens * s.tokens, 5);
  std::vector<T> out(static_cast<std::size_t>(s.tokens * s.num_q_heads * s.value_dim));
  Eigen::Tensor<Acc, 2, Eigen::RowMajor> lse(s.tokens, s.num_q_heads);
  const TensorView<const T> q_view(q.data(), s.tokens, s.num_q_heads, s.head_dim),
      k_view(k.data(), s.tokens, s.num_kv_heads, s.head_dim),
      v_view(v.data(), s.tokens, s.num_kv_heads, s.value_dim);
  const TensorView<T> out_view(out.data(), s.tokens, s.num_q_heads, s.value_dim);
  const auto run = [&](const std::string& name, const auto& kv, const auto&... extras) {
    attention(q_view, kv, out_view, lse_into(lse), extras...);
    results.begin(type + " " + name + ": output");
    results.add(out);
    results.begin(type + " " + name + ": lse");
    results.add(lse);
  };

  const ContiguousKV<T> kv(k_view, v_view);
  run("causal", kv, causal());
  run("sinks", kv, causal(), SinkLogits(numbers<double>(s.num_q_heads, 6)));
  for (const auto& [name, score_mod] : score_mods(s, bias)) run(name, kv, causal(), score_mod);
  KVCache<T> cache({.max_tokens = s.tokens,
                    .num_kv_heads = s.num_kv_heads,
                    .head_dim = s.head_dim,
                    .value_dim = s.value_dim});
  cache.append(k_view, v_view);
  run("cache", cache, sliding_window(50));

  // Tensors made by the library and freed here.
  results.begin(type + " tensors: output");
  results.add(attention(q_view, kv, causal()));
  results.begin(type + " attention_weights");
  results.add(attention_weights(q_view, kv, {.tokens = {0, 3, 130}}, causal()));
  results.add(attention_weights<Dynamic, Dynamic, double>(q_view, k_view, v_view,
                                                          {.tokens = {7}, .q_heads = {5}},
                                                          AnyScoreMod(soft_cap(5) | alibi(s.num_q_heads))));
}

/// Disjoint sets of keys, merged.
template <class Acc>
void merge(Results& results) {
  const Index rows = 5, dim = 19;
  OnlineSoftmax<Acc> merged(rows, dim);
  for (unsigned part = 0; part < 4; ++part) {
    const auto output = numbers<Acc>(rows * dim, 10 + part), lse = numbers<Acc>(rows, 20 + part);
    merged.merge(OnlineSoftmax<Acc>(rows, dim, output, lse));
    merged.update(2, lse[1], std::span<const Acc>(output).first(static_cast<std::size_t>(dim)));
  }
  results.begin(std::string("OnlineSoftmax<") + scalar_name<Acc>() + ">: output");
  results.add(merged.output());
  results.begin(std::string("OnlineSoftmax<") + scalar_name<Acc>() + ">: lse");
  results.add(merged.lse());
}

/// Queries normalised and rotated.
template <class T>
void place(Results& results) {
  const Index tokens = 5, heads = 3, dim = 46;
  const std::string type = scalar_name<T>();
  auto x = numbers<T>(tokens * heads * dim, 30);
  const TensorView<T> view(x.data(), tokens, heads, dim);
  results.begin(type + " QKNorm");
  QKNorm(NormWeights::one_plus, numbers<double>(dim, 31)).apply(view);
  results.add(x);
  for (const RopeLayout layout : {RopeLayout::half, RopeLayout::interleaved}) {
    const Rope rope({.layout = layout, .head_dim = dim, .rotary_dim = dim - 4});
    results.begin(type + (layout == RopeLayout::half ? " Rope, half" : " Rope, interleaved"));
    rope.apply(view, 7777);
    results.add(x);
    RopeTable<Accumulator<T>>(rope, Range{4, 9}).apply(view, 4);
    results.add(x);
    rope.apply_inverse(view, 3);
    results.add(x);
  }
}

void scale_positions(Results& results) {
  const std::pair<const char*, RopeScaling> scalings[] = {
      {"none", RopeScaling::none()},
      {"linear", RopeScaling::linear(3)},
      {"ntk", RopeScaling::ntk(7)},
      {"yarn", RopeScaling::yarn({.factor = 13, .original_context = 4099})},
      {"yarn, not truncated",
       RopeScaling::yarn({.factor = 4.1, .original_context = 8192, .truncate = false})},
      {"llama3", RopeScaling::llama3({8, 1, 4, 8192})}};
  for (const auto& [name, scaling] : scalings) {
    results.begin(std::string("RopeScaling, ") + name);
    results.add(scaling.inverse_frequencies(128, 1e6));
    const double factor = scaling.attention_factor();
    results.add(&factor, 1);
  }
  results.begin("yarn_mscale");
  for (double factor = 1.5; factor < 50; factor += 0.7) {
    const double mscale = yarn_mscale(factor, 0.707);
    results.add(&mscale, 1);
  }
}

void oracle(Results& results) {
  const Index tokens = 7, heads = 4, dim = 13;
  const auto q = numbers<double>(tokens * heads * dim, 40), k = numbers<double>(tokens * dim, 41),
             v = numbers<double>(tokens * dim, 42);
  const reference::Problem problem{.num_q_tokens = tokens,
                                   .num_kv_tokens = tokens,
                                   .num_q_heads = heads,
                                   .head_dim = dim,
                                   .value_dim = dim,
                                   .q = q,
                                   .k = k,
                                   .v = v};
  const auto solution = reference::attention(problem);
  results.begin("reference");
  results.add(solution.out);
  results.add(solution.lse);
  results.add(solution.probabilities);
}

}  // namespace

std::vector<Result> FUNCTION() {
  std::vector<Result> all;
  Results results(all);
  attend<float>(results);
  attend<double>(results);
  attend<half>(results);
  attend<bfloat16>(results);
  merge<float>(results);
  merge<double>(results);
  place<float>(results);
  place<double>(results);
  place<bfloat16>(results);
  scale_positions(results);
  oracle(results);
  return all;
}
