// SPDX-License-Identifier: Apache-2.0
// A batch whose sequences begin alike reads what they share once.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "gqa/kernel/attend.hpp"
#include "gqa/kernel/diagnosis.hpp"
#include "gqa/kernel/make_call.hpp"

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

/// What a cascade keeps from level to level.
template <class Acc>
struct CascadeMemory {
  Index num_seqs;
  Index* nodes;                // a level: of each sequence
  Index* positions;            // a level, and the end of the last: where it begins in each sequence
  QueryPlacement* placements;  // of the sequences, or of the nodes, of the level under way
  RowState<Acc> rows;

  CascadeMemory(Arena& arena, Index num_levels, Index seqs, Index most_nodes, Index num_rows, Index stride)
      : num_seqs(seqs),
        nodes(arena.take<Index>(num_levels, seqs)),
        positions(arena.take<Index>(num_levels + 1, seqs)),
        placements(arena.take<QueryPlacement>(std::max(seqs, most_nodes))),
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
/// of each sequence ends at a multiple of merge_keys tokens, or within the first merge_keys at one of
/// chunk_keys, the bits are those of attention() over the unshared keys, and elsewhere the same up to
/// rounding. (As in FlashInfer's cascade inference, Ye et al. 2024.)
///
/// Unlike in attention(), sums of values over the levels before the last must fit in their accumulator: n
/// keys need |v| below its largest number / n.
///
/// Extras are those of attention() except q_offset, state_into and resume. Throws std::invalid_argument, also
/// for levels that do not nest.
template <Index H = Dynamic, Index G = Dynamic, ExecutorLike E, detail::RaggedOfScalars Q, KVView View,
          OutputLike Out, detail::Extras... X>
void cascade_attention(E&& executor, const Q& q, const std::vector<CascadeLevel<View>>& levels, Out&& out,
                       const X&... arguments) {
  using Acc = Accumulator<typename View::Scalar>;
  GQA_CHECK(!levels.empty(), std::invalid_argument, "levels: none, expected at least 1");
  const auto extras = detail::extras_of(arguments...);
  static_assert(!decltype(extras)::has_states,
                "gqa: cascade_attention has no state_into and no resume: attention() takes them");
  const AttentionOptions& options = extras.options;
  GQA_CHECK(!options.q_offset && options.q_offsets.empty(), std::invalid_argument,
            "q_offset: given, expected none in a cascade");
  const View& first = levels.front().kv;
  auto call = detail::begin_call(detail::request_of<H, G>(q, first, extras));
  detail::set_output(call, detail::tensor_rows<Acc>(as_view(out)));
  if (const auto* lse = detail::lse_rows<Acc>(extras))
    call.lse = detail::checked_lse(*lse, call.batch.batch, call.batch.num_tokens, call.batch.num_heads);
  const Index num_seqs = call.num_seqs;

  Workspace own;
  Workspace& workspace = options.workspace == nullptr ? own : *options.workspace;
  Index most_nodes = 0;
  for (const auto& level : levels) most_nodes = std::max<Index>(most_nodes, level.num_nodes());
  const auto make_memory = [&](detail::Arena& arena) {
    return detail::CascadeMemory<Acc>(arena, static_cast<Index>(levels.size()), num_seqs, most_nodes,
                                      checked_mul(call.batch.num_tokens, call.heads.num_q_heads, "cascade"),
                                      call.value_stride());
  };
  detail::Arena measure;
  make_memory(measure);
  detail::Arena arena(workspace.reserve_between_calls(measure.used()));
  const auto memory = make_memory(arena);

  // Where each level of each sequence begins, and how long the whole is.
  std::ranges::fill(memory.begin(0), Index{0});
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const detail::KVSource kv = detail::source_of(levels[l].kv);
    GQA_CHECK(kv.num_kv_heads == call.kv.num_kv_heads && kv.head_dim == call.kv.head_dim &&
                  kv.value_dim == call.kv.value_dim,
              std::invalid_argument, "levels[" << l << "]: sizes differ from those of levels[0]");
    const auto node_of = memory.node_of(l), parent_of = l == 0 ? std::span<Index>{} : memory.node_of(l - 1);
    detail::find_nodes(levels[l], l, num_seqs, parent_of, node_of);
    for (std::size_t seq = 0; seq < node_of.size(); ++seq)
      memory.begin(l + 1)[seq] =
          checked_add(memory.begin(l)[seq], kv.retained(node_of[seq]).hull().end, "cascade");
  }

  // Before anything is asked of mask and score function: one with a table would look past its end.
  const auto ends = memory.begin(levels.size());
  detail::check_extents<Acc>(
      call,
      [&](Index seq) {
        return Range{0, ends[static_cast<std::size_t>(seq)]};
      },
      [&](Index seq, Index end) {
        return Range{end - call.batch.tokens(seq), end};
      });
  if (num_seqs == 0) return;

  detail::with_executor(executor, [&](const detail::ExecutorRef& runner) {
    for (std::size_t l = 0; l < levels.size(); ++l) {
      const bool last = l + 1 == levels.size();
      auto level = call;
      level.kv = detail::source_of(levels[l].kv);
      level.keep = level.resume = {};
      if (l > 0) level.resume = memory.rows;
      if (!last) level.keep = memory.rows;
      level.write_output = last;
      level.placements = memory.placements;
      const auto node_of = memory.node_of(l), begin = memory.begin(l);
      bool shared = !last && !call.score && !varies_by_head(extras.mask);
      for (Index seq = 0; seq < num_seqs; ++seq) {
        const auto i = static_cast<std::size_t>(seq);
        const Index tokens = call.batch.tokens(seq);
        memory.placements[seq] = {seq, tokens, ends[i] - tokens - begin[i], begin[i]};
        const Range positions = {ends[i] - tokens, ends[i]};
        const Range keys = detail::shifted(level.kv.retained(node_of[i]).hull(), begin[i]);
        shared = shared &&
                 (positions.empty() || keys.empty() ||
                  mask_for(extras.mask, seq, 0, positions.begin).coverage(positions, keys) == Coverage::full);
      }
      if (shared) {
        // One long sequence of queries for each node, all of which see all of its keys.
        for (Index node = 0; node < levels[l].num_nodes(); ++node) {
          const Range members = levels[l].members(node);
          Index tokens = 0;
          for (Index seq = members.begin; seq < members.end; ++seq) tokens += call.batch.tokens(seq);
          const Index first_seq = std::min(members.begin, num_seqs - 1);
          // Its keys begin where they do for any of its members.
          memory.placements[node] = {first_seq, tokens, 0, begin[static_cast<std::size_t>(first_seq)]};
        }
        level.mask = detail::source_of(detail::everything);
        level.num_seqs = levels[l].num_nodes();
      } else {
        level.kv.node_of = node_of.data();
      }
      detail::attend<Acc>(runner, level, workspace);
    }
  });
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
