// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "gqa/core/shape.hpp"

namespace serve_batch {

using gqa::Index;

/// Where the tokens of the scheduler's sequences are: pages of a fixed number, as a paged cache has them.
class Pages {
 public:
  virtual ~Pages() = default;

  virtual Index total() const = 0;
  virtual Index page_tokens() const = 0;
  virtual Index available() const = 0;  ///< that nobody holds

  /// Begins a sequence, and returns how many tokens of its prompt are there already, less than all.
  virtual Index begin(Index sequence) = 0;
  /// Begins a sequence that has all tokens of another.
  virtual void fork(Index parent, Index child) = 0;
  virtual void swap_out(Index sequence) = 0;
  virtual void swap_in(Index sequence) = 0;
  virtual void end(Index sequence) = 0;
};

/// Decides which sequences take part in each pass of a model. A request is some sequences with one prompt:
/// the first of them reads it, the others are forked from it then, and each decodes a token a pass.
///
/// Older comes first, always. Requests begin in the order they were added in, at most one a pass and when the
/// pass has room for its prompt, so that it finds what those before it read of what they share. Where pages
/// run out the youngest sequence is swapped out; the oldest one swapped out comes back first, and before any
/// request begins. Who begins leaves everyone the pages of the next pass; who comes back leaves them a page
/// each, so that it is not for a few passes only.
class Scheduler {
 public:
  struct Limits {
    Index sequences = 16;       ///< that take part in one pass
    Index prompt_tokens = 128;  ///< read in one pass
  };

  /// What a sequence is given in a pass: the next tokens of its prompt, or behind that the one chosen last.
  struct Share {
    Index sequence;
    Index tokens;
    bool gives_token;  ///< its scores choose one
    friend bool operator==(const Share&, const Share&) = default;
  };

  struct Sequence {
    enum class State { waiting, resident, swapped_out, ended };
    State state = State::waiting;
    Index leader;         ///< who reads the prompt, possibly itself
    Index samples;        ///< of the request
    Index prompt_tokens;  ///< of the request
    Index tokens = 0;     ///< that went through the model
    Index found = 0;      ///< of those, how many were there already
    Index swaps = 0;      ///< how often it was swapped out
    bool forked = false;  ///< its last page is that of its siblings, as it was when the prompt was read
    bool reading() const { return tokens < prompt_tokens; }
  };

  /// The pages must outlive it. Throws std::invalid_argument for limits that let nothing through.
  Scheduler(Pages& pages, Limits limits);

  /// A request that may come to so many tokens a sequence, prompt included. Returns the first of its
  /// sequences, which are numbered one after the other. Throws std::invalid_argument for sizes below 1, more
  /// samples than may take part in a pass, and a sequence that would not fit into all pages there are.
  Index add(Index prompt_tokens, Index samples, Index most_tokens);

  /// Swaps and begins what it should, and returns who takes part in the next pass and with how much: nobody
  /// when everything has ended.
  std::vector<Share> next();

  /// The pass was made: prompts that are read are forked.
  void fed(const std::vector<Share>& shares);

  /// A sequence is over, between passes.
  void end(Index sequence);

  const std::vector<Sequence>& sequences() const { return sequences_; }
  bool done() const;

 private:
  Sequence& at(Index i) { return sequences_[static_cast<std::size_t>(i)]; }
  const Sequence& at(Index i) const { return sequences_[static_cast<std::size_t>(i)]; }
  bool is(Index i, Sequence::State state) const { return at(i).state == state; }
  Index size() const { return static_cast<Index>(sequences_.size()); }

  std::vector<Share> shares() const;
  Index pages_for(Index sequence, Index tokens) const;
  Index claim(Index sequence) const;
  Index claims() const;
  Index needed() const;
  Index residents() const;
  Index prompt_room() const;
  bool copies_last_page(Index sequence) const;
  void preempt();
  bool resume(Index sequence);
  void begin(Index sequence);

  Pages& pages_;
  Limits limits_;
  std::vector<Sequence> sequences_;
  Index begins_with_ = 0;  // pages beside what everyone needs, before the request that waits next tries again
};

}  // namespace serve_batch
