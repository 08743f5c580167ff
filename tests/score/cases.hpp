// SPDX-License-Identifier: Apache-2.0
// Every mask and every score function, each beside its formula written out again for the oracle.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gqa/mask.hpp"
#include "gqa/score.hpp"

namespace gqa::test {

/// Any mask behind one type, and that of one sequence of the batch: a call is compiled once for all of them.
/// Keeps the table a mask refers to.
class TestMask {
 public:
  template <Mask M>
  requires(!std::same_as<M, TestMask>)
      TestMask(const M& mask, std::shared_ptr<const void> table = {})  // NOLINT: converts on purpose
      : table_(std::move(table)), mask_(mask) {}

  AnyMask::Plane at(Index seq, Index q_head, std::optional<Index> first_query = {}) const {
    return mask_.at(seq_ < 0 ? seq : seq_, q_head, first_query);
  }
  void check(const AttentionExtent& extent) const {
    if (seq_ < 0) mask_.check(extent);
  }
  bool varies_by_seq() const { return seq_ < 0 && mask_.varies_by_seq(); }
  HeadVariation varies_by_head() const { return mask_.varies_by_head(); }

  /// The mask of one sequence of the batch, for a call of that one alone.
  TestMask of_seq(Index seq) const {
    TestMask one = *this;
    one.seq_ = seq;
    return one;
  }

 private:
  std::shared_ptr<const void> table_;
  AnyMask mask_;
  Index seq_ = -1;  // the batch's
};

/// Any score function, and that of one sequence of the batch.
class TestScore {
 public:
  template <ScoreModLike M>
  requires(!std::same_as<M, TestScore>)
      TestScore(const M& mod, std::shared_ptr<const void> table = {})  // NOLINT: converts on purpose
      : table_(std::move(table)), mod_(mod) {}

  template <class Acc>
  void mod(std::span<Acc> scores, const ScoreRow& at) const {
    mod_.mod(scores, ScoreRow{seq_ < 0 ? at.seq : seq_, at.q_head, at.q_pos, at.kv_begin, at.first_query});
  }
  void check(const AttentionExtent& extent) const {
    if (seq_ < 0) mod_.check(extent);
  }
  TestScore of_seq(Index seq) const {
    TestScore one = *this;
    one.seq_ = seq;
    return one;
  }

 private:
  std::shared_ptr<const void> table_;
  AnyScoreMod mod_;
  Index seq_ = -1;  // the batch's
};

struct MaskCase {
  std::string name;
  TestMask mask;
  std::function<bool(Index seq, Index q_head, Index q_pos, Index kv_pos)> visible;
};

struct ScoreCase {
  std::string name;
  TestScore score;
  std::function<double(double score, Index seq, Index q_head, Index q_pos, Index kv_pos)> modify;
  std::vector<double> sink_logits = {};
};

/// What a case may meet: query positions from `first_position` (which may be negative) on, keys from 0 on,
/// both before `end_position`.
struct CaseExtent {
  Index num_seqs, num_q_heads, first_position, end_position;

  Index rows() const { return end_position - first_position; }
};

/// A number that looks random, the same for the same coordinates.
inline Index scattered(Index a, Index b, Index c, Index d) {
  std::uint64_t x = 0x9e3779b97f4a7c15;
  for (Index i : {a, b, c, d}) x = (x ^ static_cast<std::uint64_t>(i)) * 0xbf58476d1ce4e5b9 + (x >> 29);
  return static_cast<Index>(x >> 33);
}

/// A packed tensor batch x heads x queries x keys with the values of a formula.
template <class T, class F>
std::shared_ptr<T[]> table_of(Index batch, Index heads, const CaseExtent& e, F value) {
  std::shared_ptr<T[]> table(new T[static_cast<std::size_t>(batch * heads * e.rows() * e.end_position)]);
  T* next = table.get();
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index q = e.first_position; q < e.end_position; ++q)
        for (Index kv = 0; kv < e.end_position; ++kv) *next++ = value(b, h, q, kv);
  return table;
}

inline std::vector<MaskCase> mask_cases(const CaseExtent& e) {
  using I = Index;
  const Index H = e.num_q_heads, B = e.num_seqs;
  std::vector<int> ids;
  std::vector<Index> parents;
  const Index first_node = 60;
  for (Index p = 0; p < e.end_position; ++p) ids.push_back(static_cast<int>(p / 37 * 2));
  for (Index n = 0; n < e.end_position - first_node; ++n) parents.push_back(n % 3 == 2 ? n - 2 : n - 1);
  const auto ancestor = [=](Index q, Index kv) {
    if (q < first_node || kv < first_node) return kv <= q;
    Index node = q - first_node;
    while (node >= 0 && node != kv - first_node) node = parents[static_cast<std::size_t>(node)];
    return node >= 0;
  };
  const auto sparse = [](Index i, Index j) { return scattered(i, j, 1, 1) % 3 == 0; };
  const Index q_blocks = e.end_position / 16 + 1, kv_blocks = e.end_position / 11 + 1;
  const std::unique_ptr<bool[]> bitmap(new bool[static_cast<std::size_t>(q_blocks * kv_blocks)]);
  for (Index i = 0; i < q_blocks * kv_blocks; ++i)
    bitmap[static_cast<std::size_t>(i)] = sparse(i / kv_blocks, i % kv_blocks);
  const std::span<const bool> allowed(bitmap.get(), static_cast<std::size_t>(q_blocks * kv_blocks));

  const auto chosen = [](I b, I h, I q, I kv) { return scattered(b, h, q, kv) % 5 < 2; };
  const auto tensor = [&](Index batch, Index heads) {
    const auto table = table_of<bool>(batch, heads, e, chosen);
    const ScoreTensor<bool> all(table.get(), {batch, heads, e.rows(), e.end_position}, e.first_position);
    return TestMask(tensor_mask(all), table);
  };
  const auto key_table = table_of<bool>(1, 1, {1, 1, 0, e.end_position}, chosen);  // its first row counts

  std::vector<AnyMask> heads;
  for (Index h = 0; h < H; ++h)
    heads.push_back(h % 3 == 0   ? AnyMask(causal())
                    : h % 3 == 1 ? AnyMask(sliding_window(17))
                                 : AnyMask(causal() & [](I q, I kv) { return (q + kv) % 2 == 0; }));
  const auto by_head = [](I h, I q, I kv) {
    return kv <= q && (h % 3 == 0 || (h % 3 == 1 ? q - kv < 17 : (q + kv) % 2 == 0));
  };
  const LayerPattern layers(5, 1);

  return {{"no_mask", no_mask(), [](I, I, I, I) { return true; }},
          {"causal", causal(), [](I, I, I q, I kv) { return kv <= q; }},
          {"sliding_window", sliding_window(101), [](I, I, I q, I kv) { return kv <= q && kv > q - 101; }},
          {"sliding_window of one", sliding_window(1), [](I, I, I q, I kv) { return kv == q; }},
          {"window", window(20, 9), [](I, I, I q, I kv) { return q - 20 <= kv && kv <= q + 9; }},
          {"window without a left end", window(-1, 3), [](I, I, I q, I kv) { return kv <= q + 3; }},
          {"window without a right end", window(3, -1), [](I, I, I q, I kv) { return kv >= q - 3; }},
          {"chunked", chunked(50), [](I, I, I q, I kv) { return q >= 0 && kv <= q && kv / 50 == q / 50; }},
          {"prefix", prefix(100), [](I, I, I q, I kv) { return kv <= q || kv < 100; }},
          {"sinks", sinks(4), [](I, I, I q, I kv) { return kv <= q && kv < 4; }},
          {"sinks | sliding_window", sinks(4) | sliding_window(30),
           [](I, I, I q, I kv) { return kv <= q && (kv < 4 || kv > q - 30); }},
          {"document", document(ids), [](I, I, I q, I kv) { return q >= 0 && q / 37 == kv / 37; }},
          {"causal & document", causal() & document(ids),
           [](I, I, I q, I kv) { return kv <= q && q / 37 == kv / 37; }},
          {"tree", tree(parents, first_node), [=](I, I, I q, I kv) { return ancestor(q, kv); }},
          {"dilated", dilated(7), [](I, I, I q, I kv) { return (q > kv ? q - kv : kv - q) % 7 == 0; }},
          {"sliding_window & dilated", sliding_window(90) & dilated(7),
           [](I, I, I q, I kv) { return kv <= q && kv > q - 90 && (q - kv) % 7 == 0; }},
          {"blocks of a bitmap", blocks(BlockMask::from_bitmap({q_blocks, kv_blocks, 16, 11}, allowed)),
           [=](I, I, I q, I kv) { return q >= 0 && sparse(q / 16, kv / 11); }},
          {"blocks of a predicate", blocks(BlockMask::from_predicate({q_blocks, q_blocks, 16, 16}, sparse)),
           [=](I, I, I q, I kv) { return q >= 0 && sparse(q / 16, kv / 16); }},
          {"tensor_mask for all", tensor(1, 1), [=](I, I, I q, I kv) { return chosen(0, 0, q, kv); }},
          {"tensor_mask by head", tensor(1, H), [=](I, I h, I q, I kv) { return chosen(0, h, q, kv); }},
          {"tensor_mask by sequence", tensor(B, 1), [=](I b, I, I q, I kv) { return chosen(b, 0, q, kv); }},
          {"tensor_mask by both", tensor(B, H), chosen},
          {"(!tensor_mask) & causal", (!tensor(B, H)) & causal(),
           [=](I b, I h, I q, I kv) { return kv <= q && !chosen(b, h, q, kv); }},
          {"tensor_mask of one row",
           TestMask(tensor_mask(ScoreTensor<bool>(key_table.get(), {1, 1, 1, e.end_position}, 0)), key_table),
           [=](I, I, I, I kv) { return chosen(0, 0, 0, kv); }},
          {"per_head of a list", per_head(heads), [=](I, I h, I q, I kv) { return by_head(h, q, kv); }},
          {"per_head of a function", per_head([](I h) { return sliding_window(3 + 20 * h); }),
           [](I, I h, I q, I kv) { return kv <= q && kv > q - 3 - 20 * h; }},
          {"(!per_head) | sinks", (!per_head(heads)) | sinks(2),
           [=](I, I h, I q, I kv) { return !by_head(h, q, kv) || (kv <= q && kv < 2); }},
          {"lambda", mask_fn([](I q, I kv) { return (q + 2000) * kv % 11 < 3; }),
           [](I, I, I q, I kv) { return (q + 2000) * kv % 11 < 3; }},
          {"causal & lambda", causal() & [](I q, I kv) { return (q + 2000) * kv % 11 < 3; },
           [](I, I, I q, I kv) { return kv <= q && (q + 2000) * kv % 11 < 3; }},
          {"causal & !sliding_window", causal() & !sliding_window(40),
           [](I, I, I q, I kv) { return kv <= q - 40; }},
          {"!(chunked | sinks)", !(chunked(50) | sinks(9)),
           [](I, I, I q, I kv) { return !(q >= 0 && kv <= q && (kv / 50 == q / 50 || kv < 9)); }},
          {"local layer", layers.mask(4, 33), [](I, I, I q, I kv) { return kv <= q && kv > q - 33; }},
          {"global layer", layers.mask(5, 33), [](I, I, I q, I kv) { return kv <= q; }},
          {"nothing", !no_mask(), [](I, I, I, I) { return false; }}};
}

/// T5's bucket, from the thresholds instead of the logarithm: of 8 buckets for large distances up to 128,
/// each begins sqrt(2) times as far out as the one before.
inline Index t5_bucket(Index distance) {
  static constexpr Index first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91};
  Index bucket = 0;
  while (bucket < 15 && distance >= first[bucket + 1]) ++bucket;
  return bucket;
}

inline std::vector<ScoreCase> score_cases(const CaseExtent& e) {
  using I = Index;
  const Index H = e.num_q_heads, B = e.num_seqs;
  const auto real = [](Index x) { return static_cast<double>(x); };
  const auto distance = [=](Index q, Index kv) { return std::abs(real(q - kv)); };
  const auto nothing = [](double s, I, I, I, I) { return s; };
  const double inf = std::numeric_limits<double>::infinity();

  // Press et al.: for 3 heads those of 2, then the first of those for 4; for 7 those of 4, then 3 of 8's.
  const std::vector<double> slopes =
      H == 3   ? std::vector<double>{1. / 16, 1. / 256, 1. / 4}
      : H == 6 ? std::vector<double>{1. / 4, 1. / 16, 1. / 64, 1. / 256, 1. / 2, 1. / 8}
               : std::vector<double>{1. / 4, 1. / 16, 1. / 64, 1. / 256, 1. / 2, 1. / 8, 1. / 32};
  std::vector<double> own_slopes, logits, zeros;
  for (Index h = 0; h < H; ++h) {
    own_slopes.push_back(0.25 / real(h + 1));
    logits.push_back(h == 0 ? -inf : real(h) - 2);
    zeros.push_back(0);
  }
  const auto t5 = [](Index bucket, Index h) {
    return 0.01 * static_cast<double>(scattered(bucket, h, 0, 0) % 256);
  };
  std::vector<double> one_way, both_ways;
  for (Index bucket = 0; bucket < 32; ++bucket) {
    for (Index h = 0; h < H; ++h) {
      if (bucket < 16) one_way.push_back(t5(bucket, h));
      both_ways.push_back(t5(bucket, h));
    }
  }
  // Of few bits, so that every dtype holds it exactly.
  const auto bias = [=](Index b, Index h, Index q, Index kv) {
    const Index x = scattered(b, h, q, kv);
    return x % 7 == 0 ? -inf : real(x % 256) / 64 - 2;
  };
  const auto tensor = [&](auto type, Index batch, Index heads) {
    using T = decltype(type);
    const auto table =
        table_of<T>(batch, heads, e, [&](I b, I h, I q, I kv) { return T(bias(b, h, q, kv)); });
    const ScoreTensor<T> all(table.get(), {batch, heads, e.rows(), e.end_position}, e.first_position);
    return TestScore(tensor_bias(all), table);
  };
  const auto key_bias =
      table_of<half>(1, 1, {1, 1, 0, e.end_position}, [=](I, I, I, I kv) { return half(bias(0, 0, 0, kv)); });
  const auto heat = [=](Index q) { return 1 + 0.002 * real(q); };

  return {
      {"soft_cap", soft_cap(1.5), [](double s, I, I, I, I) { return 1.5 * std::tanh(s / 1.5); }},
      {"alibi", alibi(H),
       [=](double s, I, I h, I q, I kv) {
         return s - slopes[static_cast<std::size_t>(h)] * distance(q, kv);
       }},
      {"alibi with slopes of one's own", alibi(own_slopes),
       [=](double s, I, I h, I q, I kv) { return s - 0.25 / real(h + 1) * distance(q, kv); }},
      {"relative_bias of a decoder",
       relative_bias({.num_buckets = 16, .max_distance = 128, .bidirectional = false}, one_way, H),
       [=](double s, I, I h, I q, I kv) { return s + t5(t5_bucket(q - kv), h); }},
      {"relative_bias of an encoder", relative_bias({.num_buckets = 32, .max_distance = 128}, both_ways, H),
       [=](double s, I, I h, I q, I kv) {
         return s + t5((kv > q ? 16 : 0) + t5_bucket(kv > q ? kv - q : q - kv), h);
       }},
      {"tensor_bias for all", tensor(float{}, 1, 1),
       [=](double s, I, I, I q, I kv) { return s + bias(0, 0, q, kv); }},
      {"tensor_bias by head", tensor(bfloat16{}, 1, H),
       [=](double s, I, I h, I q, I kv) { return s + bias(0, h, q, kv); }},
      {"tensor_bias by sequence", tensor(double{}, B, 1),
       [=](double s, I b, I, I q, I kv) { return s + bias(b, 0, q, kv); }},
      {"tensor_bias of one row",
       TestScore(tensor_bias(ScoreTensor<half>(key_bias.get(), {1, 1, 1, e.end_position}, 0)), key_bias),
       [=](double s, I, I, I, I kv) { return s + bias(0, 0, 0, kv); }},
      {"SinkLogits", ScoreChain<>(), nothing, logits},
      {"smooth softmax", ScoreChain<>(), nothing, zeros},
      {"soft_cap and SinkLogits", soft_cap(2), [](double s, I, I, I, I) { return 2 * std::tanh(s / 2); },
       logits},
      {"temperature", temperature(heat), [=](double s, I, I, I q, I) { return s * heat(q); }},
      {"llama4_temperature", llama4_temperature(0.4, 50),
       [=](double s, I, I, I q, I) {
         return s * (std::log(std::floor(std::max(0., real(q + 1)) / 50) + 1) * 0.4 + 1);
       }},
      {"lambda",
       [](double s, I h, I q, I kv) {
         return s * s / 4 + 0.1 * static_cast<double>((h + (q + 2000) * kv) % 3);
       },
       [=](double s, I, I h, I q, I kv) { return s * s / 4 + 0.1 * real((h + (q + 2000) * kv) % 3); }},
      {"a chain, whatever the order written", alibi(own_slopes) | soft_cap(4) | temperature(heat),
       [=](double s, I, I h, I q, I kv) {
         return 4 * std::tanh(s * heat(q) / 4) - 0.25 / real(h + 1) * distance(q, kv);
       }},
      {"lambda | score_fn", [](double s, I, I, I) { return 2 * s; } | score_fn([](double s, I h, I, I kv) {
                              return s + static_cast<double>((h + kv) % 2);
                            }),
       [=](double s, I, I h, I, I kv) { return 2 * s + real((h + kv) % 2); }}};
}

}  // namespace gqa::test
