// SPDX-License-Identifier: Apache-2.0
// Probabilities a few tokens at a time, for whoever measures them.
#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "gqa/attention_weights.hpp"

namespace gqa {

/// The probabilities of some tokens that follow each other, tokens x num_heads x num_keys and packed: what
/// measures are given, from for_probabilities() or from anywhere else.
struct ProbabilityRows {
  const float* data = nullptr;
  Index num_tokens = 0, num_heads = 0, num_keys = 0;
  Index first_position = 0;  ///< of the first token
  Index first_key = 0;       ///< position of the first key

  std::span<const float> row(Index token, Index head) const {
    return {data + (token * num_heads + head) * num_keys, static_cast<std::size_t>(num_keys)};
  }
  Index position(Index token) const { return first_position + token; }
};

/// Where for_probabilities() looks, and how much it holds at once.
struct ProbabilityOptions {
  Index seq = 0;
  Index memory = Index{1} << 22;  ///< bytes of probabilities at once; one token's rows are held in any case
};

namespace detail {

/// Refuses rows of other heads, and what is no probability: nothing of them is measured then.
inline void check_rows(const char* what, const ProbabilityRows& rows, Index num_heads) {
  GQA_CHECK(rows.num_heads == num_heads, std::invalid_argument,
            what << ": the rows have " << rows.num_heads << " heads, expected " << num_heads);
  GQA_CHECK(rows.num_tokens >= 0 && rows.num_keys >= 0 &&
                (rows.data != nullptr || rows.num_tokens * rows.num_keys * num_heads == 0),
            std::invalid_argument,
            what << ": the rows are " << rows.num_tokens << " tokens of " << rows.num_keys
                 << " keys, expected sizes that are there");
  const Index size = rows.num_tokens * rows.num_heads * rows.num_keys;
  const float* end = rows.data + size;
  const float* wrong = std::find_if(rows.data, end, [](float p) { return !(p >= 0 && p < 2); });
  GQA_CHECK(wrong == end, std::invalid_argument,
            what << ": a probability of the token at "
                 << rows.position((wrong - rows.data) / (size / rows.num_tokens)) << " is " << *wrong
                 << ", expected 0 to 1");
}

}  // namespace detail

inline namespace GQA_EIGEN_MEMORY {

/// Calls f(const ProbabilityRows&) with p = softmax(scores) of all tokens of one sequence, in order and a few
/// at a time: tokens x num_q_heads x keys. Memory is linear in the number of keys.
///
/// Arguments and conventions are those of attention_weights(), which computes them; what f is given is valid
/// until it returns. No bit depends on how many tokens there are at once. Throws as attention_weights() does,
/// and std::invalid_argument for no memory.
template <ExecutorLike E, detail::RowsLike Q, KVLike KV, class F, detail::Extras... X>
void for_probabilities(E&& executor, const Q& q, const KV& kv, const ProbabilityOptions& options, F&& f,
                       const X&... arguments) {
  const auto extras = detail::extras_of(arguments...);
  static_assert(!decltype(extras)::has_lse,
                "gqa: for_probabilities has no lse_into: attention_weights() has");
  GQA_CHECK(options.memory >= 1, std::invalid_argument,
            "for_probabilities: memory is " << options.memory << ", expected at least 1 byte");
  decltype(auto) view = as_kv_view(kv);
  const auto call = detail::make_call<Dynamic, Dynamic>(q, view, extras);
  detail::refuse_tuning(extras.options, "for_probabilities");
  GQA_CHECK(
      options.seq >= 0 && options.seq < call.num_seqs, std::invalid_argument,
      "for_probabilities: seq is " << options.seq << ", expected at least 0 and less than " << call.num_seqs);
  const Range keys = call.kv.retained(options.seq).hull();
  const auto queries = call.queries(options.seq, keys.end);
  const Index row_bytes = checked_mul(
      checked_mul(std::max<Index>(keys.size(), 1), call.batch.num_heads, "keys"), sizeof(float), "keys");
  const Index step = std::max<Index>(1, options.memory / std::max<Index>(row_bytes, 1));
  WeightRows which{.seq = options.seq};
  const Index num_tokens = call.batch.tokens(options.seq);
  for (Index begin = 0; begin < num_tokens; begin += step) {
    which.tokens.clear();
    for (Index t = begin; t < std::min(begin + step, num_tokens); ++t) which.tokens.push_back(t);
    const auto p = attention_weights(executor, q, view, which, arguments...);
    f(ProbabilityRows{p.data(), p.dimension(0), p.dimension(1), p.dimension(2),
                      queries.first_position + queries.position_shift + begin,
                      keys.begin + queries.position_shift});
  }
}
/// Of tensors, and on the calling thread.
template <ExecutorLike E, detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V, class F,
          detail::Extras... X>
void for_probabilities(E&& executor, const Q& q, const K& k, const V& v, const ProbabilityOptions& options,
                       F&& f, const X&... extras) {
  for_probabilities(executor, q, detail::as_kv(k, v), options, f, extras...);
}
template <detail::RowsLike Q, KVLike KV, class F, detail::Extras... X>
void for_probabilities(const Q& q, const KV& kv, const ProbabilityOptions& options, F&& f,
                       const X&... extras) {
  for_probabilities(Serial{}, q, kv, options, f, extras...);
}
template <detail::RowsLike Q, detail::RowsLike K, detail::RowsLike V, class F, detail::Extras... X>
void for_probabilities(const Q& q, const K& k, const V& v, const ProbabilityOptions& options, F&& f,
                       const X&... extras) {
  for_probabilities(Serial{}, q, detail::as_kv(k, v), options, f, extras...);
}

}  // namespace GQA_EIGEN_MEMORY

}  // namespace gqa
