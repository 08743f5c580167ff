// SPDX-License-Identifier: Apache-2.0
// A paged sequence in the caller's memory, while others have its pages.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

#include "gqa/kv/paged_state.hpp"

namespace gqa::detail {

/// What stands before the pages. A copy belongs to one swapping out of one sequence: its epoch says which.
struct SwapHeader {
  std::uint64_t magic = 0x706177735f617167u;  // "gqa_swap"
  std::uint64_t epoch = 0;
  std::uint64_t tokens = 0;
};

/// Calls f(memory, bytes) for what the sequence's tokens take of each of its pages, in whole tiles.
template <Scalar T, class F>
void for_swapped(const PagedState<T>& s, const PagedSequenceState<T>& sequence, F&& f) {
  Index left = sequence.sequence.size();
  for (const Index page : sequence.pages) {
    s.pool.for_parts(page, ceil_div(std::min(left, s.page_tokens()), tile_keys), f);
    left -= s.page_tokens();
  }
}

template <Scalar T>
Index swap_bytes(const PagedState<T>& s, const PagedSequenceState<T>& sequence) {
  const Index tile_bytes = s.pool.page_bytes() / s.pool.page_tiles();
  return Index{sizeof(SwapHeader)} + ceil_div(sequence.sequence.size(), tile_keys) * tile_bytes;
}

template <Scalar T>
void swap_out(PagedState<T>& s, PagedSequenceState<T>& sequence, std::span<std::byte> to) {
  sequence.check_between_passes("swap_out");
  const auto bytes = static_cast<std::size_t>(swap_bytes(s, sequence));
  GQA_CHECK(to.size() >= bytes, std::length_error,
            "swap_out: " << to.size() << " bytes given, " << bytes << " needed");
  std::byte* at = to.data() + sizeof(SwapHeader);
  for_swapped(s, sequence, [&](const void* memory, std::size_t n) {
    std::memcpy(at, memory, n);
    at += n;
  });
  sequence.sequence.forget_spans();
  const SwapHeader header{.epoch = sequence.sequence.span_epoch(),
                          .tokens = static_cast<std::uint64_t>(sequence.sequence.size())};
  std::memcpy(to.data(), &header, sizeof header);
  const std::lock_guard lock(s.mutex);
  s.release_pages(sequence, 0);
  sequence.swapped_out = true;
}

template <Scalar T>
void swap_in(PagedState<T>& s, PagedSequenceState<T>& sequence, std::span<const std::byte> from) {
  GQA_CHECK(sequence.swapped_out, std::invalid_argument,
            "swap_in: sequence " << sequence.id.value << " is not swapped out");
  const auto bytes = static_cast<std::size_t>(swap_bytes(s, sequence));
  SwapHeader header;
  GQA_CHECK(from.size() >= bytes, format_error,
            "swap_in: " << from.size() << " bytes given, " << bytes << " were written");
  std::memcpy(&header, from.data(), sizeof header);
  GQA_CHECK(header.magic == SwapHeader{}.magic && header.epoch == sequence.sequence.span_epoch() &&
                header.tokens == static_cast<std::uint64_t>(sequence.sequence.size()),
            format_error,
            "swap_in: the memory is not what sequence " << sequence.id.value << " was swapped out to last");
  {
    const std::lock_guard lock(s.mutex);
    s.take_pages("swap_in", sequence, ceil_div(sequence.sequence.size(), s.page_tokens()));
  }
  const std::byte* at = from.data() + sizeof header;
  for_swapped(s, sequence, [&](void* memory, std::size_t n) {
    std::memcpy(memory, at, n);
    at += n;
  });
  sequence.swapped_out = false;
}

}  // namespace gqa::detail
