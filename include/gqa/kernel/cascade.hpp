// SPDX-License-Identifier: Apache-2.0
// A batch whose sequences begin alike reads what they share once.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "gqa/kernel/diagnosis.hpp"

namespace gqa {

/// One level of a cascade: sequence i of its view is read by the queries of the sequences `offsets[i]` to
/// `offsets[i + 1]` of the batch, right after what the level before holds for them. The first level is the
/// shared prefix (or several), the last usually holds one sequence's own tokens each.
template <KVView View>
struct CascadeLevel {
  View kv;
  std::vector<Index> offsets;

  Index num_nodes() const { return kv.num_seqs(); }
  Range members(Index node) const {
    return {offsets[static_cast<std::size_t>(node)], offsets[static_cast<std::size_t>(node) + 1]};
  }
};

namespace detail {

/// A level of a cascade as one sequence for each of the batch's.
template <class View>
struct MemberView {
  using Scalar = typename View::Scalar;

  const View& view;
  std::span<const Index> node_of;

  Index num_seqs() const { return static_cast<Index>(node_of.size()); }
  Index num_kv_heads() const { return view.num_kv_heads(); }
  Index head_dim() const { return view.head_dim(); }
  Index value_dim() const { return view.value_dim(); }
  Index scratch_bytes() const { return view.scratch_bytes(); }
  Range retained(Index seq) const { return view.retained(node(seq)); }
  KVTile<Scalar> tile(Index seq, Index kv_head, Range want, void* scratch) const {
    return view.tile(node(seq), kv_head, want, scratch);
  }

 private:
  Index node(Index seq) const { return node_of[static_cast<std::size_t>(seq)]; }
};

/// What a cascade keeps from level to level.
template <class Acc>
struct CascadeMemory {
  Index num_seqs;
  Index* nodes;      // a level: of each sequence
  Index* positions;  // a level, and the end of the last: where it begins in each sequence
  RowState<Acc> rows;

  CascadeMemory(Arena& arena, Index num_levels, Index seqs, Index num_rows, Index stride)
      : num_seqs(seqs),
        nodes(arena.take<Index>(checked_mul(num_levels, seqs, "cascade"))),
        positions(arena.take<Index>(checked_mul(num_levels + 1, seqs, "cascade"))),
        rows(arena, num_rows, stride) {}

  std::span<Index> node_of(std::size_t level) const { return of_level(nodes, level); }
  std::span<Index> begin(std::size_t level) const { return of_level(positions, level); }

 private:
  std::span<Index> of_level(Index* all, std::size_t level) const {
    const auto seqs = static_cast<std::size_t>(num_seqs);
    return {all + level * seqs, seqs};
  }
};

/// Finds each sequence's node in a level. Checks that the nodes partition the batch and lie within the nodes
/// of the level before (empty: there is none).
template <class Level>
void find_nodes(const Level& level, std::size_t index, Index num_seqs, std::span<const Index> parent_of,
                std::span<Index> node_of) {
  GQA_CHECK(static_cast<Index>(level.offsets.size()) == level.num_nodes() + 1, std::invalid_argument,
            "levels[" << index << "]: offsets are " << level.offsets.size() << ", expected "
                      << level.num_nodes() + 1 << ", one more than its view has sequences");
  check_offsets("levels[" + std::to_string(index) + "]", level.offsets, num_seqs, "sequences of the batch");
  for (Index node = 0; node < level.num_nodes(); ++node) {
    const Range members = level.members(node);
    for (Index seq = members.begin; seq < members.end; ++seq) {
      node_of[static_cast<std::size_t>(seq)] = node;
      GQA_CHECK(
          parent_of.empty() ||
              parent_of[static_cast<std::size_t>(seq)] == parent_of[static_cast<std::size_t>(members.begin)],
          std::invalid_argument,
          "levels[" << index << "]: node " << node << " joins sequences that the level before keeps apart");
    }
  }
}

}  // namespace detail

/// Attention of a ragged batch whose keys come in levels that sequences share: the same as attention() over
/// each sequence's own concatenation of its levels, with a shared level read once for all its sequences
/// instead of once for each.
///
/// q is packed, tokens x H x D with offsets, and out tokens x H x Dv; positions count through the levels from
/// 0, and the last query of a sequence sits on its last key. A level is shared where the mask lets every one
/// of its queries see all of it and no score function tells them apart; else it is read a sequence at a time.
/// The rows' unnormalised states go from level to level and chunk by chunk, so where every level but the last
/// of each sequence ends at a multiple of chunk_keys tokens the bits are those of attention() over the
/// unshared keys, and elsewhere the same up to rounding. (As in FlashInfer's cascade inference, Ye et al.
/// 2024.)
///
/// Unlike in attention(), sums of values over the levels before the last must fit in their accumulator: n
/// keys need |v| below its largest number / n.
///
/// Extras are those of attention() except q_offset. Throws std::invalid_argument, also for levels that do not
/// nest.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RaggedOfScalars Q, KVView View,
          OutputLike Out, detail::Extras... X>
void cascade_attention(E&& executor, const Q& q, const std::vector<CascadeLevel<View>>& levels, Out&& out,
                       const X&... arguments) {
  using Acc = Accumulator<typename View::Scalar>;
  GQA_CHECK(!levels.empty(), std::invalid_argument, "levels: none, expected at least 1");
  const auto queries = detail::as_queries(q);
  const Index num_seqs = q.num_seqs();
  using TQ = std::remove_const_t<std::remove_pointer_t<decltype(queries.q.data)>>;
  static_assert(std::is_same_v<Accumulator<TQ>, Acc> && std::is_same_v<Accumulator<TensorScalar<Out>>, Acc>,
                "gqa: double goes with double only: q, k, v and out are all double, or none is");
  const auto extras = detail::extras_of(arguments...);
  const AttentionOptions& options = extras.options;
  GQA_CHECK(!options.q_offset && options.q_offsets.empty(), std::invalid_argument,
            "q_offset: given, expected none in a cascade");
  const View& first = levels.front().kv;
  if constexpr (requires { View::static_num_kv_heads; })
    detail::check_static_kv_heads<G, View::static_num_kv_heads>();
  const detail::HeadTable heads =
      detail::head_table<H, G>(queries.q.heads, first.num_kv_heads(), extras.grouping);
  const auto& mask = extras.mask;
  const auto& score = extras.score;
  const auto lse = detail::lse_rows<Acc>(extras);
  const auto rows = detail::check_rows(queries, first, as_view(out), lse);
  const Acc scale = detail::checked_scale<Acc>(options, queries.q.dim);
  constexpr bool scores_differ = !std::is_same_v<std::remove_cvref_t<decltype(score)>, ScoreChain<>>;

  Workspace own;
  Workspace& workspace = options.workspace == nullptr ? own : *options.workspace;
  const auto make_memory = [&](detail::Arena& arena) {
    return detail::CascadeMemory<Acc>(arena, static_cast<Index>(levels.size()), num_seqs,
                                      checked_mul(queries.q.tokens, heads.num_q_heads, "cascade"),
                                      round_up(first.value_dim(), simd::padding));
  };
  detail::Arena measure;
  make_memory(measure);
  detail::Arena arena(workspace.reserve_between_calls(measure.used()));
  const auto memory = make_memory(arena);

  // Where each level of each sequence begins, and how long the whole is.
  std::ranges::fill(memory.begin(0), Index{0});
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const View& kv = levels[l].kv;
    GQA_CHECK(kv.num_kv_heads() == first.num_kv_heads() && kv.head_dim() == first.head_dim() &&
                  kv.value_dim() == first.value_dim(),
              std::invalid_argument, "levels[" << l << "]: sizes differ from those of levels[0]");
    const auto node_of = memory.node_of(l), parent_of = l == 0 ? std::span<Index>{} : memory.node_of(l - 1);
    detail::find_nodes(levels[l], l, num_seqs, parent_of, node_of);
    for (std::size_t seq = 0; seq < node_of.size(); ++seq)
      memory.begin(l + 1)[seq] =
          checked_add(memory.begin(l)[seq], detail::checked_retained(kv, node_of[seq]).end, "cascade");
  }
  const auto ends = memory.begin(levels.size());

  AttentionExtent extent{
      .num_seqs = num_seqs, .num_q_heads = heads.num_q_heads, .in_double = std::is_same_v<Acc, double>};
  for (Index seq = 0; seq < num_seqs; ++seq) {
    extent.most_q_tokens = std::max(extent.most_q_tokens, queries.tokens(seq));
    extent.most_kv_tokens = std::max(extent.most_kv_tokens, ends[static_cast<std::size_t>(seq)]);
  }
  // Before anything is asked of them: a mask with a table would look past its end.
  for (Index seq = 0; seq < num_seqs; ++seq) {
    const Index total = ends[static_cast<std::size_t>(seq)];
    extent.q = {total - queries.tokens(seq), total};
    extent.kv = {0, total};
    detail::check_extent(extent, mask, score, extras.sinks);
  }
  if (num_seqs == 0) return;

  detail::CarriedState<Acc> carried;
  carried.rows = memory.rows;
  decltype(auto) runner = as_executor(executor);

  for (std::size_t l = 0; l < levels.size(); ++l) {
    const View& kv = levels[l].kv;
    const bool last = l + 1 == levels.size();
    const auto node_of = memory.node_of(l), begin = memory.begin(l);
    carried.resume = l > 0;
    carried.keep = !last;
    const auto member_queries = [&](Index seq) {
      const std::size_t i = static_cast<std::size_t>(seq);
      auto s = rows.sequence(seq, ends[i] - queries.tokens(seq) - begin[i]);
      s.position_shift = begin[i];
      return s;
    };
    bool shared = !last && !scores_differ && !varies_by_head(mask);
    for (Index seq = 0; shared && seq < num_seqs; ++seq) {
      const auto s = member_queries(seq);
      const Range positions = {s.first_position + s.position_shift,
                               s.first_position + s.position_shift + s.tokens};
      const Range keys =
          detail::shifted(kv.retained(node_of[static_cast<std::size_t>(seq)]), s.position_shift);
      shared = positions.empty() || keys.empty() ||
               mask_for(mask, seq, 0, positions.begin).coverage(positions, keys) == Coverage::full;
    }
    if (shared) {
      const auto node_queries = [&](Index node) {
        const Range members = levels[l].members(node);
        Index tokens = 0;
        for (Index seq = members.begin; seq < members.end; ++seq) tokens += queries.tokens(seq);
        return rows.sequences(std::min(members.begin, num_seqs - 1), tokens, 0);
      };
      detail::Attention<View, Window, ScoreChain<>, decltype(node_queries)> call{
          kv, node_queries, kv.num_seqs(), heads, detail::everything, detail::no_score, scale};
      call.carried = carried;
      detail::attend(runner, call, workspace);
    } else {
      const detail::MemberView<View> view{kv, node_of};
      detail::Attention<detail::MemberView<View>, std::remove_cvref_t<decltype(mask)>,
                        std::remove_cvref_t<decltype(score)>, decltype(member_queries)>
          call{view, member_queries, num_seqs, heads, mask, score, scale};
      call.sinks = extras.sinks;
      call.carried = carried;
      detail::attend(runner, call, workspace);
    }
  }
}

/// The same on the calling thread.
template <Index H = Dynamic, Index G = Dynamic, detail::RaggedOfScalars Q, KVView View, OutputLike Out,
          detail::Extras... X>
void cascade_attention(const Q& q, const std::vector<CascadeLevel<View>>& levels, Out&& out,
                       const X&... arguments) {
  cascade_attention<H, G>(Serial{}, q, levels, out, arguments...);
}

// Calls that fit none of the above: each says what to write instead.

template <Index H = Dynamic, Index G = Dynamic, class E, class Q, class View, class Out, class... X>
void cascade_attention(E&&, const Q&, const std::vector<CascadeLevel<View>>&, Out&&, const X&...) {
  detail::diagnose_cascade<ExecutorLike<E>, Q, Out, X...>();
}
template <Index H = Dynamic, Index G = Dynamic, class Q, class View, class Out, class... X>
void cascade_attention(const Q&, const std::vector<CascadeLevel<View>>&, Out&&, const X&...) {
  detail::diagnose_cascade<true, Q, Out, X...>();
}
template <Index H = Dynamic, Index G = Dynamic, class Q, class View, class Out, class A4 = AttentionOptions,
          class A5 = AttentionOptions, class A6 = AttentionOptions, class A7 = AttentionOptions,
          class A8 = AttentionOptions>
void cascade_attention(detail::Anything, const Q&, const std::vector<CascadeLevel<View>>&, const Out&,
                       const A4&, const A5& = {}, const A6& = {}, const A7& = {}, const A8& = {}) {
  detail::refuse_braces<A4>();
}
template <Index H = Dynamic, Index G = Dynamic, class View, class Out, class A4 = AttentionOptions,
          class A5 = AttentionOptions, class A6 = AttentionOptions, class A7 = AttentionOptions,
          class A8 = AttentionOptions>
void cascade_attention(detail::Anything, const std::vector<CascadeLevel<View>>&, const Out&, const A4&,
                       const A5& = {}, const A6& = {}, const A7& = {}, const A8& = {}) {
  detail::refuse_braces<A4>();
}

}  // namespace gqa
