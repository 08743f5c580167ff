// SPDX-License-Identifier: Apache-2.0
// The scheduler over counted pages, with no model.
#include "scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace serve_batch {
namespace {

using State = Scheduler::Sequence::State;
using Share = Scheduler::Share;

/// Pages of 4 tokens, each with the number of those that hold it. All prompts begin with the same tokens, the
/// pages of which are kept once they are read.
class CountedPages final : public Pages {
 public:
  CountedPages(Index total, Index common_pages = 0)
      : holders_(static_cast<std::size_t>(total)), common_(static_cast<std::size_t>(common_pages), -1) {}

  Index total() const override { return std::ssize(holders_); }
  Index page_tokens() const override { return 4; }
  Index available() const override { return std::ranges::count(holders_, 0); }

  Index begin(Index sequence) override {
    Sequence s;
    for (const Index page : common_) {
      if (page < 0 || s.tokens + 4 >= prompts[sequence]) break;
      hold(s, page);
      s.tokens += 4;
    }
    EXPECT_TRUE(sequences_.emplace(sequence, s).second) << sequence;
    log += "begin " + std::to_string(sequence) + "; ";
    return s.tokens;
  }
  void fork(Index parent, Index child) override {
    Sequence s{.tokens = sequences_.at(parent).tokens};
    for (const Index page : sequences_.at(parent).pages) hold(s, page);
    EXPECT_TRUE(sequences_.emplace(child, s).second) << child;
    log += "fork " + std::to_string(child) + "; ";
  }
  void swap_out(Index sequence) override {
    Sequence& s = resident(sequence);
    release(s);
    s.out = true;
    log += "out " + std::to_string(sequence) + "; ";
  }
  void swap_in(Index sequence) override {
    Sequence& s = sequences_.at(sequence);
    EXPECT_TRUE(s.out) << sequence;
    s.out = false;
    for (Index n = 0; n < s.tokens; n += 4) hold(s, take());
    log += "in " + std::to_string(sequence) + "; ";
  }
  void end(Index sequence) override {
    release(resident(sequence));
    sequences_.erase(sequence);
    log += "end " + std::to_string(sequence) + "; ";
  }

  /// The pass: each sequence in turn, as a cache does it.
  void feed(const Share& share) {
    Sequence& s = resident(share.sequence);
    if (s.tokens % 4 != 0 && holders(s.pages.back()) > 1) {
      const Index own = take();
      --holders(s.pages.back());
      s.pages.back() = own;
      ++holders(own);
    }
    s.tokens += share.tokens;
    while (std::ssize(s.pages) * 4 < s.tokens) hold(s, take());
    for (std::size_t i = 0; i < common_.size() && i < s.pages.size(); ++i)
      if (common_[i] < 0 && static_cast<Index>(i + 1) * 4 <= std::min(s.tokens, prompts[share.sequence]))
        common_[i] = s.pages[i];
  }

  std::map<Index, Index> prompts;  // tokens of each sequence's
  std::string log;

 private:
  struct Sequence {
    Index tokens = 0;
    std::vector<Index> pages = {};
    bool out = false;
  };
  Index& holders(Index page) { return holders_[static_cast<std::size_t>(page)]; }
  void hold(Sequence& s, Index page) {
    ++holders(page);
    s.pages.push_back(page);
  }
  void release(Sequence& s) {
    for (const Index page : s.pages) --holders(page);
    s.pages.clear();
  }
  Sequence& resident(Index sequence) {
    Sequence& s = sequences_.at(sequence);
    EXPECT_FALSE(s.out) << sequence;
    return s;
  }
  /// One that nobody holds, those that are kept last.
  Index take() {
    for (const bool kept : {false, true}) {
      for (Index page = 0; page < total(); ++page) {
        const auto found = std::ranges::find(common_, page);
        if (holders(page) != 0 || (found != common_.end()) != kept) continue;
        std::fill(found, common_.end(), -1);
        return page;
      }
    }
    throw std::length_error("no page is left");
  }

  std::vector<Index> holders_, common_;
  std::map<Index, Sequence> sequences_;
};

/// A scheduler, its pages, and passes that end sequences where they are to end.
struct Passes {
  CountedPages pages;
  Scheduler scheduler;
  std::map<Index, Index> ends;  // tokens that went through the model by then

  Passes(Index total, Scheduler::Limits limits, Index common_pages = 0)
      : pages(total, common_pages), scheduler(pages, limits) {}

  /// Sequences of a prompt, each with so many tokens chosen behind it.
  Index add(Index prompt, const std::vector<Index>& chosen) {
    const Index most = prompt + *std::ranges::max_element(chosen) - 1;  // the last one is not fed
    const Index first = scheduler.add(prompt, std::ssize(chosen), most);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      pages.prompts[first + static_cast<Index>(i)] = prompt;
      ends[first + static_cast<Index>(i)] = prompt + chosen[i] - 1;
    }
    return first;
  }
  std::vector<Share> pass() {
    const auto shares = scheduler.next();
    for (const Share& share : shares) pages.feed(share);
    scheduler.fed(shares);
    const auto& sequences = scheduler.sequences();
    for (Index i = 0; i < std::ssize(sequences); ++i) {
      const auto& s = sequences[static_cast<std::size_t>(i)];
      if (s.state == State::resident && !s.reading() && s.tokens == ends[i]) scheduler.end(i);
    }
    return shares;
  }
};

TEST(Scheduler, ReadsAPromptInPiecesAndThenATokenAPass) {
  Passes run(10, {.sequences = 4, .prompt_tokens = 3});
  EXPECT_TRUE(run.scheduler.done());
  run.add(7, {3});
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 3, false}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 3, false}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}}));
  EXPECT_FALSE(run.scheduler.done());
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}}));
  EXPECT_TRUE(run.scheduler.done());
  EXPECT_EQ(run.pass(), std::vector<Share>{});
  EXPECT_EQ(run.pages.log, "begin 0; end 0; ");
  EXPECT_EQ(run.pages.available(), 10);
}

TEST(Scheduler, DecodesAndReadsInOnePass) {
  Passes run(20, {.sequences = 4, .prompt_tokens = 5});
  run.add(4, {9});
  run.add(7, {2});
  run.add(3, {2});
  // The second begins when the first leaves room for its prompt, the third when the second does.
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 4, true}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}, {1, 5, false}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}, {1, 2, true}, {2, 3, true}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}, {1, 1, true}, {2, 1, true}}));
}

TEST(Scheduler, ForksSamplesWhenTheirPromptIsRead) {
  Passes run(20, {.sequences = 4, .prompt_tokens = 4});
  run.add(6, {3, 2, 1});
  run.add(1, {1, 1});  // two would be five sequences
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 4, false}}));
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 2, true}}));
  EXPECT_EQ(run.pages.log, "begin 0; fork 1; fork 2; end 2; ");
  EXPECT_EQ(run.pass(), (std::vector<Share>{{0, 1, true}, {1, 1, true}, {3, 1, true}}));
  EXPECT_EQ(run.scheduler.sequences()[1].found, 6);
}

TEST(Scheduler, SwapsNobodyOutWhereEverySampleHasItsPage) {
  Passes run(4, {.sequences = 4, .prompt_tokens = 8});
  run.add(5, {4, 4, 4});  // a page in common, and one each up to its end
  while (!run.scheduler.done()) run.pass();
  EXPECT_EQ(run.pages.log, "begin 0; fork 1; fork 2; end 0; end 1; end 2; ");
}

TEST(Scheduler, BeginsWhereThereIsAPageForEverySample) {
  Passes run(5, {.sequences = 4, .prompt_tokens = 8});
  run.add(4, {8});
  run.add(4, {2, 2, 2});
  while (!run.scheduler.done()) run.pass();
  EXPECT_EQ(run.pages.log, "begin 0; begin 1; end 1; end 0; begin 1; fork 2; fork 3; end 1; end 2; end 3; ");
}

TEST(Scheduler, SwapsOutTheYoungestAndTakesBackTheOldest) {
  Passes run(4, {.sequences = 4, .prompt_tokens = 8});
  run.add(4, {9});  // up to 3 pages
  run.add(4, {6});  // up to 3 pages
  for (int i = 0; i < 20 && !run.scheduler.done(); ++i) run.pass();
  EXPECT_EQ(run.pages.log, "begin 0; begin 1; out 1; end 0; in 1; end 1; ");
  EXPECT_TRUE(run.scheduler.done());
  EXPECT_EQ(run.scheduler.sequences()[0].swaps, 0);
  EXPECT_EQ(run.scheduler.sequences()[1].swaps, 1);
}

TEST(Scheduler, BeginsNobodyWhileOneIsOut) {
  Passes run(5, {.sequences = 4, .prompt_tokens = 8});
  run.add(4, {13});
  run.add(4, {12});
  run.add(1, {1});  // would fit at once, but is younger
  for (int i = 0; i < 60 && !run.scheduler.done(); ++i) run.pass();
  // It began too early once, and waits for the page it lacked.
  EXPECT_EQ(run.pages.log, "begin 0; begin 1; begin 2; end 2; out 1; end 0; in 1; begin 2; end 2; end 1; ");
}

TEST(Scheduler, FindsWhatOthersRead) {
  Passes run(20, {.sequences = 4, .prompt_tokens = 4}, 3);
  run.add(15, {2});
  run.add(14, {2});
  run.add(12, {2});
  while (!run.scheduler.done()) run.pass();
  EXPECT_EQ(run.scheduler.sequences()[0].found, 0);
  EXPECT_EQ(run.scheduler.sequences()[1].found, 12);  // begins beside the first one's last piece
  EXPECT_EQ(run.scheduler.sequences()[2].found, 8);   // never all of its prompt
}

TEST(Scheduler, RefusesWhatCannotRun) {
  CountedPages pages(3);
  EXPECT_THROW(Scheduler(pages, {.sequences = 0}), std::invalid_argument);
  EXPECT_THROW(Scheduler(pages, {.prompt_tokens = 0}), std::invalid_argument);
  Scheduler scheduler(pages, {.sequences = 2});
  EXPECT_THROW(scheduler.add(0, 1, 5), std::invalid_argument);
  EXPECT_THROW(scheduler.add(1, 0, 5), std::invalid_argument);
  EXPECT_THROW(scheduler.add(5, 1, 4), std::invalid_argument);
  EXPECT_THROW(scheduler.add(1, 3, 4), std::invalid_argument);
  EXPECT_THROW(scheduler.add(1, 1, 13), std::invalid_argument);
  EXPECT_TRUE(scheduler.done());
  EXPECT_EQ(scheduler.add(12, 2, 12), 0);
  EXPECT_EQ(scheduler.add(1, 1, 1), 2);
  EXPECT_THROW(scheduler.end(0), std::logic_error);
}

/// Any requests on few pages: nobody is ever without a page, the older ones go first, and all end.
void run_random(unsigned seed, bool& swapped, bool& found) {
  std::mt19937 random(seed);
  const auto between = [&](Index least, Index most) {
    return std::uniform_int_distribution<Index>(least, most)(random);
  };
  const Scheduler::Limits limits{.sequences = between(1, 6), .prompt_tokens = between(1, 12)};
  const Index total = between(4, 14);
  Passes run(total, limits, between(0, 3));
  Index requests = between(1, 12), passes = 0, work = 0;
  std::map<Index, Index> tokens_at_return;
  while (requests > 0 || !run.scheduler.done()) {
    SCOPED_TRACE("pass " + std::to_string(passes) + ", " + run.pages.log);
    if (requests > 0 && (run.scheduler.done() || between(0, 3) == 0)) {
      const Index prompt = between(1, std::min<Index>(30, 4 * total));
      std::vector<Index> chosen(static_cast<std::size_t>(between(1, std::min<Index>(4, limits.sequences))));
      for (Index& n : chosen) work += n = between(1, std::min<Index>(20, 4 * total - prompt + 1));
      run.add(prompt, chosen);
      work += prompt;
      --requests;
    }
    const auto before = run.scheduler.sequences();
    std::vector<Share> shares;
    ASSERT_NO_THROW(shares = run.pass());
    ++passes;
    ASSERT_LE(passes, 3 * work + 100);
    ASSERT_FALSE(shares.empty());
    Index reading = 0;
    ASSERT_LE(std::ssize(shares), limits.sequences);
    for (const Share& share : shares) {
      const auto& s = before[static_cast<std::size_t>(share.sequence)];
      if (share.tokens > 1 || s.tokens < s.prompt_tokens) reading += share.tokens;
    }
    ASSERT_LE(reading, limits.prompt_tokens);
    const auto& after = run.scheduler.sequences();
    Index youngest_in = -1, oldest_out = std::ssize(after);
    for (Index i = 0; i < std::ssize(after); ++i) {
      const auto& was = before[static_cast<std::size_t>(i)];
      const auto& is = after[static_cast<std::size_t>(i)];
      if (is.state == State::resident) youngest_in = i;
      if (is.state == State::swapped_out) oldest_out = std::min(oldest_out, i);
      swapped = swapped || is.swaps > 0;
      found = found || (is.found > 0 && is.leader == i);
      // Who decodes and is in, or comes back, goes on.
      if (!was.reading() && was.state != State::ended && was.state != State::waiting &&
          is.state != State::swapped_out) {
        ASSERT_EQ(is.tokens, was.tokens + 1) << i;
      }
    }
    ASSERT_LT(youngest_in, oldest_out);
  }
  EXPECT_EQ(run.pages.available(), total);
  for (const auto& [sequence, tokens] : run.ends)
    EXPECT_EQ(run.scheduler.sequences()[static_cast<std::size_t>(sequence)].tokens, tokens);
}

TEST(Scheduler, EndsEverythingOnFewPages) {
  int swaps = 0, finds = 0;
  for (unsigned seed = 0; seed < 3000 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    bool swapped = false, found = false;
    run_random(seed, swapped, found);
    swaps += swapped;
    finds += found;
  }
  EXPECT_GT(swaps, 500);
  EXPECT_GT(finds, 500);
}

}  // namespace
}  // namespace serve_batch
