// SPDX-License-Identifier: Apache-2.0
// One thread's part of a call: items -> chunks -> blocks -> two products and a softmax -> merge -> output.
#pragma once

#include <algorithm>
#include <type_traits>

#include "gqa/kernel/finish.hpp"
#include "gqa/kernel/score_block.hpp"

namespace gqa::detail {

/// One thread's part of a call.
template <class Acc>
class Worker {
 public:
  Worker(Arena& arena, const Call<Acc>& call, const CallKernels<Acc>& kernels, const Plan& plan,
         Index block_rows)
      : call_(call),
        kernels_(kernels),
        max_rows_(plan.max_rows),
        block_rows_(std::min(std::max(block_rows, call.heads.group_size), max_rows_)),
        queries_(arena, call, max_rows_, kernels.dot),
        scores_(arena, call, kernels, block_rows_),
        mask_memory_(arena.take<std::byte>(call.mask.bytes(call.heads.group_size))),
        total_(arena, max_rows_, call.value_stride()),
        block_(arena, block_rows_, call.value_stride()),
        in_total_(arena.take<bool>(max_rows_)),
        in_unit_(arena.take<bool>(max_rows_)),
        chunk_(arena, call.kv, kernels),
        finisher_(arena, call, kernels, max_rows_) {
    if (plan.several_units || call.resume) unit_ = RowState<Acc>(arena, max_rows_, call.value_stride());
  }

  /// Computes one item that has all the keys of its queries.
  void run(const WorkItem& work) {
    if (call_.heads.size(work.kv_head) == 0) return;
    const Item<Acc> item(call_, work, mask_memory_);
    attend(item);
    if (finisher_.some_overflowed()) attend_again(item);
  }

  /// Computes one part of a split: what its chunks come to goes to `slots`. The part that `is_last` merges
  /// them all and writes the output.
  void run_part(const WorkItem& work, const Split& split, const RowState<Acc>& slots,
                FunctionRef<bool()> is_last) {
    if (call_.heads.size(work.kv_head) == 0) return;
    Item<Acc> item(call_, work, mask_memory_);
    for_blocks(item, [&](const Block& block) { queries_.pack(item, block); });
    const Range visible = item.mask.bounds(item.positions());
    split.for_slots(work.part, work.slot, [&](const Slot& slot) {
      const RowState<Acc> target = slots.from(slot.slot * max_rows_);
      std::fill(in_unit_, in_unit_ + item.tokens.size(), false);
      for (Index number = slot.numbers.begin; number < slot.numbers.end; ++number) {
        const Index chunk = split.chunks[number];
        if (!read(item, chunk, visible)) continue;
        for_blocks(item, [&](const Block& block) { take_in(item, block, target, in_unit_); });
      }
      for_blocks(item, [&](const Block& block) { clear_unseen(item, block, target, in_unit_); });
    });
    if (!is_last()) return;
    finish_split(item, split, slots);
    if (!finisher_.some_overflowed()) return;
    item.kv = {split.chunks[0] * chunk_keys, (split.chunks[split.chunks.size() - 1] + 1) * chunk_keys};
    attend_again(item);
  }

 private:
  /// Merges what the parts of a split came to as attend() does, and writes the output.
  void finish_split(const Item<Acc>& item, const Split& split, const RowState<Acc>& slots) {
    const Index rows = item.num_rows(), none = -1;
    if (!call_.resume) total_.clear(rows);
    begin(item);
    Index unit = resumed_unit(item);
    bool in_total = unit != none;  // the unit's first states go to the total itself
    const auto close = [&] {
      if (unit != none && !in_total) total_.merge(unit_, rows, kernels_.rows);
    };
    Index slot_of_part = split.first_slot;
    bool first = !call_.resume;
    for (Index part = 0; part < split.num_items; ++part) {
      slot_of_part += split.for_slots(part, slot_of_part, [&](const Slot& slot) {
        if (slot.unit != unit) {
          close();
          unit = slot.unit;
          in_total = first;
          if (!in_total) unit_.clear(rows);
        }
        first = false;
        (in_total ? total_ : unit_).merge(slots.from(slot.slot * max_rows_), rows, kernels_.rows);
      });
    }
    close();
    for_blocks(item, [&](const Block& block) { finisher_.write(item, block, total_.from(block.first_row)); });
  }

  /// What a weight of 1 is kept as where sums of values overflow: a power of two, so that nothing else
  /// changes. As many keys of the largest number there is can then be added up, and the smallest weight stays
  /// normal.
  static constexpr Acc small_one = std::is_same_v<Acc, float> ? Acc(0x1p-24) : Acc(0x1p-60);

  /// Computes the rows of an item that overflowed once more, with smaller weights. The queries are not packed
  /// again: the output may stand in their place.
  void attend_again(const Item<Acc>& item) {
    one_ = small_one;
    attend(item);
    one_ = 1;
    finisher_.forget_overflows();
  }

  /// All chunks of an item. Those of a merge unit merge among themselves, and what they come to with the
  /// total. The first unit's go to the total itself, which is the same: merging into nothing changes no bit.
  void attend(const Item<Acc>& item) {
    begin(item);
    std::fill(in_unit_, in_unit_ + item.tokens.size(), false);
    const Range visible = item.mask.bounds(item.positions());
    Index unit = resumed_unit(item);
    bool first = unit < 0 && !call_.resume, in_total = unit >= 0;
    // A block's queries are packed when its first chunk comes and its output is written after its last one,
    // while they are in the caches anyway.
    bool packed = one_ != Acc{1}, finished = false;
    for (Index chunk = next_chunk(item, 0), next = 0; chunk != no_chunk; chunk = next) {
      next = next_chunk(item, chunk + 1);
      if (item.unit(chunk) != unit) {
        for_blocks(item, [&](const Block& block) { close_unit(item, block); });
        unit = item.unit(chunk);
        in_total = first;
        first = false;
      }
      const bool any = read(item, chunk, visible);
      for_blocks(item, [&](const Block& block) {
        if (!packed) queries_.pack(item, block);
        if (any) take_in(item, block, in_total ? total_ : unit_, in_total ? in_total_ : in_unit_);
        if (next == no_chunk) finish(item, block);
      });
      packed = true;
      finished = next == no_chunk;
    }
    if (!finished) for_blocks(item, [&](const Block& block) { finish(item, block); });
  }

  /// The blocks of an item in order.
  template <class F>
  void for_blocks(const Item<Acc>& item, F&& f) const {
    item.for_blocks(block_rows_, f);
  }
  /// Where a block's flags are.
  static Index flag(const Item<Acc>& item, const Block& block) {
    return block.tokens.begin - item.tokens.begin;
  }

  /// The total of an item before its first chunk.
  void begin(const Item<Acc>& item) {
    std::fill(in_total_, in_total_ + item.tokens.size(), static_cast<bool>(call_.resume));
    if (!call_.resume) return;
    for (Index row = 0; row < item.num_rows(); ++row)
      total_.from(row).copy(call_.resume.from(item.call_row(row)), 1, one_);
  }

  /// The merge unit that a resumed state is the beginning of: one in the middle of which the retained keys
  /// begin.
  Index resumed_unit(const Item<Acc>& item) const {
    const Index first = item.retained.hull().begin + item.queries.position_shift;
    return call_.resume && first % merge_keys != 0 ? first / merge_keys : -1;
  }

  static constexpr Index no_chunk = -1;

  /// The first chunk from `chunk` on in which a query of the item may see a key.
  Index next_chunk(const Item<Acc>& item, Index chunk) const {
    const Index seen = item.next_seen(chunk * chunk_keys);
    return seen == item.nothing_seen ? no_chunk : seen / chunk_keys;
  }

  /// Reads the tiles of a chunk that any query of the item may see; false where there is none.
  bool read(const Item<Acc>& item, Index chunk, Range visible) {
    chunk_.begin(chunk);
    const Range q = item.positions();
    const Index rows = item.num_rows();
    const Range here = {chunk * chunk_keys, (chunk + 1) * chunk_keys};
    const Range there = intersect(intersect(visible, item.retained.hull()), here);
    for (Index begin = round_down(there.begin, tile_keys); begin < there.end; begin += tile_keys) {
      for_common(item.retained, {begin, begin + tile_keys}, [&](Range keys) {
        if (item.mask.coverage(q, keys) != Coverage::none) chunk_.read(item.seq, item.kv_head, keys, rows);
      });
    }
    return !chunk_.empty();
  }

  /// Merges the chunk into what a block's rows have of others in `into`, or writes it there where that is
  /// nothing: merging into nothing is the same.
  void take_in(const Item<Acc>& item, const Block& block, const RowState<Acc>& into, bool* there) {
    if (!scores_.look(item, block, chunk_.begin())) return;
    bool& begun = there[flag(item, block)];
    const RowState<Acc> target = into.from(block.first_row), result = begun ? block_ : target;
    scores_.multiply_keys(queries_, block, chunk_);
    scores_.softmax(item, block, result);
    if (one_ != Acc{1}) scores_.multiply_weights(block, one_, result);
    scores_.multiply_values(block, chunk_, result);
    if (begun) target.merge(block_, block.rows, kernels_.rows);
    begun = true;
  }

  void clear_unseen(const Item<Acc>& item, const Block& block, const RowState<Acc>& state,
                    bool* there) const {
    if (!there[flag(item, block)]) state.from(block.first_row).clear(block.rows);
  }

  /// Merges the merge unit that is under way into the total.
  void close_unit(const Item<Acc>& item, const Block& block) {
    bool& pending = in_unit_[flag(item, block)];
    if (!pending) return;
    pending = false;
    bool& begun = in_total_[flag(item, block)];
    const RowState<Acc> total = total_.from(block.first_row), unit = unit_.from(block.first_row);
    if (begun)
      total.merge(unit, block.rows, kernels_.rows);
    else
      total.copy(unit, block.rows);
    begun = true;
  }

  void finish(const Item<Acc>& item, const Block& block) {
    close_unit(item, block);
    clear_unseen(item, block, total_, in_total_);
    const RowState<Acc> state = total_.from(block.first_row);
    if (one_ == Acc{1})
      finisher_.write(item, block, state);
    else
      finisher_.write_again(item, block, state, one_);
  }

  const Call<Acc>& call_;
  const CallKernels<Acc>& kernels_;
  Index max_rows_, block_rows_;
  PackedQueries<Acc> queries_;
  ScoreBlock<Acc> scores_;
  std::byte* mask_memory_;  // of an item's GroupMask
  RowState<Acc> total_, block_, unit_;
  bool* in_total_;  // a block of an item: whether total_ holds something of its rows
  bool* in_unit_;   // the same of unit_
  Chunk<Acc> chunk_;
  Finisher<Acc> finisher_;
  Acc one_ = 1;  // what a weight of 1 is kept as
};

}  // namespace gqa::detail
