// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a paged cache against plain vectors of tokens: contents, lengths and
// pages after each. A failing sequence is shrunk to a small one.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <array>
#include <cstdlib>
#include <optional>

#include "kv/paged_model.hpp"

namespace gqa {
namespace {

using test::TokenValues;

/// What is done, and three numbers that say to what and how much.
using Operation = std::array<int, 4>;

struct ModelSequence {
  SequenceId id;
  std::vector<TokenId> ids;
  std::optional<std::vector<std::byte>> swapped;
};

/// The cache and what it should hold.
template <class T>
class Model {
 public:
  explicit Model(Index page_tokens)
      : cache_({.num_pages = 8 * 64 / page_tokens + 1,
                .page_tokens = page_tokens,
                .num_layers = values_.layers(),
                .num_kv_heads = 2,
                .head_dim = 3,
                .value_dim = 1}) {}

  void apply(const Operation& op) {
    const auto [kind, a, b, c] = op;
    if (sequences_.empty() || kind == 0) return create();
    ModelSequence& s = sequences_[static_cast<std::size_t>(a) % sequences_.size()];
    switch (kind) {
      case 1:
      case 2:
      case 3:
        return extend(s, b % 150 + 1, c);
      case 4:
        return truncate(s, b);
      case 5:
        return fork(s);
      case 6:
        return free(s);
      case 7:
        return publish(s, b);
      case 8:
        return create_like(s, b, c);
      case 9:
        return reorder(b, c);
      case 10:
        return swap(s);
      default:
        return rewrite(s, b);
    }
  }

  /// Everything is as the model says.
  void check() {
    const PageStatistics p = cache_.statistics();
    Index pages = 0, tokens = 0;
    for (const ModelSequence& s : sequences_) {
      RC_ASSERT(cache_.size(s.id) == std::ssize(s.ids));
      RC_ASSERT(cache_.swapped_out(s.id) == s.swapped.has_value());
      if (s.swapped) continue;
      pages += ceil_div(std::ssize(s.ids), cache_.page_tokens());
      tokens += std::ssize(s.ids);
      const std::string difference = values_.template difference<T>(
          s.ids, [&](Index layer, Range r, auto& k, auto& v) { cache_.read(layer, s.id, r, k, v); });
      if (!difference.empty()) RC_FAIL(difference);
    }
    RC_ASSERT(cache_.num_sequences() == std::ssize(sequences_));
    RC_ASSERT(p.used + p.kept + p.free == p.pages);
    RC_ASSERT(p.shared <= p.used);
    RC_ASSERT(p.used <= pages);
    RC_ASSERT(p.shared > 0 || p.used == pages);  // pages that nobody shares are counted once each
    RC_ASSERT(cache_.bytes() <= tokens * cache_.bytes_per_token());
    RC_ASSERT(p.shared > 0 || cache_.bytes() == tokens * cache_.bytes_per_token());
  }

  /// Nothing is left behind.
  void finish() {
    while (!sequences_.empty()) free(sequences_.back());
    PageStatistics p = cache_.statistics();
    RC_ASSERT(p.used == 0);
    RC_ASSERT(p.kept + p.free == p.pages);
    cache_.clear();
    p = cache_.statistics();
    RC_ASSERT(p.free == p.pages);
  }

 private:
  void create() {
    if (sequences_.size() < 6) sequences_.push_back({cache_.create(), {}, {}});
  }

  void extend(ModelSequence& s, Index n, int seed) {
    const PageStatistics p = cache_.statistics();
    const Index size = std::ssize(s.ids), page = cache_.page_tokens();
    const Index needed = ceil_div(size + n, page) - ceil_div(size, page);
    try {
      const Span span = cache_.extend(s.id, n);
      RC_ASSERT((span.positions == Range{size, size + n}));
      for (Index i = 0; i < n; ++i) s.ids.push_back((seed >> (i % 8)) & 1);
      values_.template write<T>(s.ids, span.positions, [&](Index layer, const auto& k, const auto& v) {
        cache_.write(layer, s.id, span, k, v);
      });
    } catch (const std::length_error&) {
      RC_ASSERT(needed + 1 > p.free + p.kept);  // one more where the last page is shared
    } catch (const std::invalid_argument&) {
      RC_ASSERT(s.swapped.has_value());
    }
  }

  void truncate(ModelSequence& s, int n) {
    if (s.swapped) return;
    const Index size = n % (std::ssize(s.ids) + 1);
    cache_.truncate(s.id, size);
    s.ids.resize(static_cast<std::size_t>(size));
  }

  void fork(ModelSequence& s) {
    if (s.swapped || sequences_.size() >= 6) return;
    const SequenceId id = cache_.fork(s.id);
    sequences_.push_back({id, std::vector<TokenId>(s.ids), {}});
  }

  void free(ModelSequence& s) {
    cache_.free(s.id);
    RC_ASSERT(!cache_.contains(s.id));
    std::swap(s, sequences_.back());
    sequences_.pop_back();
  }

  void publish(ModelSequence& s, int n) {
    if (s.swapped) return;
    cache_.publish(s.id, std::span(s.ids).first(static_cast<std::size_t>(n) % (s.ids.size() + 1)));
  }

  /// A sequence for ids that begin as those of another.
  void create_like(const ModelSequence& s, int n, int seed) {
    if (sequences_.size() >= 6) return;
    std::vector<TokenId> ids(s.ids.begin(), s.ids.begin() + n % (std::ssize(s.ids) + 1));
    for (int i = 0; i < seed % 70; ++i) ids.push_back((seed >> (i % 8)) & 1);
    const auto match = cache_.create(ids);
    RC_ASSERT(match.tokens <= std::ssize(ids));
    ids.resize(static_cast<std::size_t>(match.tokens));
    sequences_.push_back({match.id, ids, {}});
  }

  void reorder(int first, int second) {
    std::vector<SequenceId> ids;
    std::vector<std::size_t> which;
    for (std::size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].swapped) continue;
      ids.push_back(sequences_[i].id);
      which.push_back(i);
    }
    if (ids.empty()) return;
    std::vector<Index> parents;
    for (std::size_t i = 0; i < ids.size(); ++i)
      parents.push_back(i % 2 == 0 ? first % std::ssize(ids) : second % std::ssize(ids));
    cache_.reorder(ids, parents);
    const auto before = sequences_;
    for (std::size_t i = 0; i < ids.size(); ++i)
      sequences_[which[i]].ids = before[which[static_cast<std::size_t>(parents[i])]].ids;
  }

  void swap(ModelSequence& s) {
    if (!s.swapped) {
      s.swapped.emplace(static_cast<std::size_t>(cache_.swap_bytes(s.id)));
      cache_.swap_out(s.id, *s.swapped);
      return;
    }
    const PageStatistics p = cache_.statistics();
    try {
      cache_.swap_in(s.id, *s.swapped);
      s.swapped.reset();
    } catch (const std::length_error&) {
      RC_ASSERT(ceil_div(std::ssize(s.ids), cache_.page_tokens()) > p.free + p.kept);
    }
  }

  /// Tokens that are there are not to be written again where others may see them.
  void rewrite(ModelSequence& s, int n) {
    if (s.swapped) return;
    extend(s, 1, n);
    if (s.ids.empty()) return;
    const Range last = {std::ssize(s.ids) - 1, std::ssize(s.ids)};
    const Span stale{last, 1};
    const auto rows = values_.template rows<T>(s.ids, last, 0);
    RC_ASSERT_THROWS_AS(cache_.write(0, s.id, stale, rows.k, rows.v), std::invalid_argument);
  }

  TokenValues values_{2, 2, 3, 1};
  PagedCache<T> cache_;
  std::vector<ModelSequence> sequences_;
};

template <class T>
void holds_what_the_model_holds(Index page_tokens) {
  const auto operations = *rc::gen::scale(10.0, rc::gen::container<std::vector<Operation>>(rc::gen::apply(
                                                    [](int kind, int a, int b, int c) {
                                                      return Operation{kind, a, b, c};
                                                    },
                                                    rc::gen::inRange(0, 12), rc::gen::inRange(0, 6),
                                                    rc::gen::inRange(0, 1000), rc::gen::inRange(0, 256))));
  Model<T> model(page_tokens);
  for (const Operation& op : operations) {
    model.apply(op);
    model.check();
  }
  model.finish();
}

/// The same operations in every run; RC_PARAMS asks for others.
void check(void (*law)()) {
  ::setenv("RC_PARAMS", "seed=1 max_success=60", 0);
  EXPECT_TRUE(rc::check(law));
}

TEST(PagedModel, FloatInPagesOf64) {
  check([] { holds_what_the_model_holds<float>(64); });
}
TEST(PagedModel, BrainFloatInPagesOf64) {
  check([] { holds_what_the_model_holds<bfloat16>(64); });
}
TEST(PagedModel, HalfInPagesOf128) {
  check([] { holds_what_the_model_holds<half>(128); });
}

}  // namespace
}  // namespace gqa
