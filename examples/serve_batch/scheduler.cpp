// SPDX-License-Identifier: Apache-2.0
#include "scheduler.hpp"

#include <algorithm>
#include <stdexcept>

#include "gqa/core/error.hpp"

namespace serve_batch {

using State = Scheduler::Sequence::State;

Scheduler::Scheduler(Pages& pages, Limits limits) : pages_(pages), limits_(limits) {
  GQA_CHECK(limits.sequences >= 1 && limits.prompt_tokens >= 1, std::invalid_argument,
            "the limits are " << limits.sequences << " sequences and " << limits.prompt_tokens
                              << " tokens of prompts, expected at least 1 of each");
}

Index Scheduler::add(Index prompt_tokens, Index samples, Index most_tokens) {
  GQA_CHECK(prompt_tokens >= 1 && samples >= 1 && most_tokens >= prompt_tokens, std::invalid_argument,
            "a request of " << samples << " samples, " << prompt_tokens << " tokens of prompt and at most "
                            << most_tokens << " in all; expected at least 1 and no less in all");
  GQA_CHECK(samples <= limits_.sequences, std::invalid_argument,
            samples << " samples, expected at most the " << limits_.sequences
                    << " sequences that take part in a pass");
  const Index needed = gqa::ceil_div(most_tokens, pages_.page_tokens());
  GQA_CHECK(needed <= pages_.total(), std::invalid_argument,
            "a sequence may need " << needed << " pages, there are " << pages_.total());
  const Index first = size();
  for (Index i = 0; i < samples; ++i)
    sequences_.push_back({.leader = first, .samples = samples, .prompt_tokens = prompt_tokens});
  return first;
}

std::vector<Scheduler::Share> Scheduler::next() {
  preempt();
  bool all_back = true;
  for (Index i = 0; i < size() && all_back; ++i)
    if (is(i, State::swapped_out)) all_back = resume(i);
  const auto waiting = std::ranges::find_if(
      sequences_, [this](const Sequence& s) { return s.state == State::waiting && &s == &at(s.leader); });
  if (all_back && waiting != sequences_.end() && prompt_room() > 0) begin(waiting - sequences_.begin());
  return shares();
}

void Scheduler::fed(const std::vector<Share>& shares) {
  for (const Share& share : shares) {
    Sequence& s = at(share.sequence);
    const bool was_reading = s.reading();
    s.tokens += share.tokens;
    s.forked = false;
    if (!was_reading || s.reading()) continue;
    s.forked = s.samples > 1;
    for (Index i = share.sequence + 1; i < share.sequence + s.samples; ++i) {
      pages_.fork(share.sequence, i);
      at(i).state = State::resident;
      at(i).tokens = at(i).found = s.tokens;
      at(i).forked = true;
    }
  }
}

void Scheduler::end(Index sequence) {
  GQA_CHECK(is(sequence, State::resident), std::logic_error,
            "end: sequence " << sequence << " is not resident");
  pages_.end(sequence);
  at(sequence).state = State::ended;
}

bool Scheduler::done() const {
  return std::ranges::all_of(sequences_, [](const Sequence& s) { return s.state == State::ended; });
}

std::vector<Scheduler::Share> Scheduler::shares() const {
  std::vector<Share> shares;
  Index prompt_tokens = limits_.prompt_tokens;
  for (Index i = 0; i < size(); ++i) {
    if (!is(i, State::resident)) continue;
    const Sequence& s = at(i);
    if (!s.reading()) {
      shares.push_back({i, 1, true});
      continue;
    }
    const Index n = std::min(prompt_tokens, s.prompt_tokens - s.tokens);
    if (n > 0) shares.push_back({i, n, s.tokens + n == s.prompt_tokens});
    prompt_tokens -= n;
  }
  return shares;
}

/// Pages a sequence takes to have so many tokens more.
Index Scheduler::pages_for(Index sequence, Index tokens) const {
  const Index size = at(sequence).tokens, page = pages_.page_tokens();
  const bool copies = tokens > 0 && size % page != 0 && copies_last_page(sequence);
  return gqa::ceil_div(size + tokens, page) - gqa::ceil_div(size, page) + (copies ? 1 : 0);
}

/// Whether a sequence copies the page of its last tokens when it goes on: where its siblings' are in it too,
/// until the last of them has it to itself.
bool Scheduler::copies_last_page(Index sequence) const {
  const Sequence& s = at(sequence);
  for (Index i = sequence + 1; s.forked && i < s.leader + s.samples; ++i)
    if (is(i, State::resident) && at(i).forked) return true;
  return false;
}

/// Pages that a sequence will want soon: for what is left of its prompt and the first tokens of its samples,
/// or for the next tokens behind that.
Index Scheduler::claim(Index sequence) const {
  const Sequence& s = at(sequence);
  return s.reading() ? pages_for(sequence, s.prompt_tokens - s.tokens) + s.samples : 1;
}

/// Pages that those who are there need in the next pass.
Index Scheduler::needed() const {
  Index sum = 0;
  for (const Share& share : shares()) sum += pages_for(share.sequence, share.tokens);
  return sum;
}

Index Scheduler::claims() const {
  Index sum = 0;
  for (Index i = 0; i < size(); ++i)
    if (is(i, State::resident)) sum += claim(i);
  return sum;
}

/// Those that take part, and the samples that will: with those that are swapped out never more than may.
Index Scheduler::residents() const {
  Index count = 0;
  for (Index i = 0; i < size(); ++i)
    if (is(i, State::resident)) count += at(i).reading() ? at(i).samples : 1;
  return count;
}

/// Tokens of prompts that could be read in the next pass beside those that will be.
Index Scheduler::prompt_room() const {
  Index room = limits_.prompt_tokens;
  for (const Sequence& s : sequences_)
    if (s.state == State::resident && s.reading()) room -= std::min(room, s.prompt_tokens - s.tokens);
  return room;
}

/// Swaps out the youngest, until the others have the pages they need in the next pass. One alone has.
void Scheduler::preempt() {
  for (Index i = size(); i-- > 0 && needed() > pages_.available();) {
    if (!is(i, State::resident)) continue;
    pages_.swap_out(i);
    at(i).state = State::swapped_out;
    at(i).forked = false;
    ++at(i).swaps;
  }
}

bool Scheduler::resume(Index sequence) {
  Sequence& s = at(sequence);
  const Index taken = gqa::ceil_div(s.tokens, pages_.page_tokens());
  if (residents() > 0 && taken + claim(sequence) + claims() > pages_.available()) return false;
  pages_.swap_in(sequence);
  s.state = State::resident;
  return true;
}

/// What a request finds, and with that the pages it needs, is known when it has begun. If it was too early,
/// it tries again when the pages it lacked are there: trying moves others' kept pages.
void Scheduler::begin(Index sequence) {
  Sequence& s = at(sequence);
  const Index others = residents(), spare = pages_.available() - needed();
  if (others + s.samples > limits_.sequences || (others > 0 && spare < begins_with_)) return;
  s.tokens = s.found = pages_.begin(sequence);
  const Index lacking = claim(sequence) + needed() - pages_.available();
  if (others > 0 && lacking > 0) {
    pages_.end(sequence);
    s.tokens = s.found = 0;
    begins_with_ = spare + lacking;
    return;
  }
  s.state = State::resident;
  begins_with_ = 0;
}

}  // namespace serve_batch
