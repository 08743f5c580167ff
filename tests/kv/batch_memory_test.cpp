// SPDX-License-Identifier: Apache-2.0
// What a batch cache costs, and that running out of memory anywhere leaves every sequence as it was.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "gqa/kv/batch.hpp"
#include "kv/counted_memory.hpp"
#include "support/message_of.hpp"
#include "support/random.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::aligned_bytes;
using test::fail_each_allocation;
using test::message_of;
using test::other_bytes;

constexpr Index L = 2, G = 3, D = 16, Dv = 32;

template <class T>
typename BatchCache<T>::Config config(Index num_seqs, Index max_tokens, Index limit = 0) {
  return {.num_seqs = num_seqs,
          .max_tokens = max_tokens,
          .num_layers = L,
          .num_kv_heads = G,
          .head_dim = D,
          .value_dim = Dv,
          .memory_limit = limit};
}
template <class T>
constexpr Index token = L* G*(D + Dv) * Index{sizeof(T)};
template <class T>
constexpr Index slab = 512 * token<T>;

template <class T>
class BatchMemory : public ::testing::Test {};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(BatchMemory, Scalars);

TYPED_TEST(BatchMemory, BytesAreThoseOfAllTokens) {
  using T = TypeParam;
  aligned_bytes = 0;
  BatchCache<T> cache(config<T>(3, 2000));
  EXPECT_EQ(aligned_bytes, 0);
  EXPECT_EQ(cache.bytes_per_token(), token<T>);
  cache.extend(std::vector<Index>{1, 0, 513});
  EXPECT_EQ(cache.bytes(), 514 * token<T>);
  EXPECT_EQ(cache.allocated_bytes(), 3 * slab<T>);
  EXPECT_EQ(aligned_bytes, 3 * slab<T>);
  EXPECT_EQ(cache.padding_bytes(), (3 * 512 - 514) * token<T>);
  cache.truncate(2, 1);
  EXPECT_EQ(cache.bytes(), 2 * token<T>);
  EXPECT_EQ(cache.allocated_bytes(), 3 * slab<T>) << "truncation keeps the memory";
  cache.clear(2);
  EXPECT_EQ(cache.allocated_bytes(), slab<T>);
  cache.clear();
  EXPECT_EQ(cache.allocated_bytes(), 0);
  EXPECT_EQ(cache.bytes(), 0);
}

TYPED_TEST(BatchMemory, BookkeepingIsWhatIsNotForTokens) {
  using T = TypeParam;
  other_bytes = 0;
  const BatchCache<T> cache(config<T>(20, 5000));
  const Index taken = static_cast<Index>(other_bytes) + Index{sizeof cache};
  constexpr Index counts_of_views = 4 * sizeof(void*);
  EXPECT_GE(taken, cache.bookkeeping_bytes());
  EXPECT_LE(taken, cache.bookkeeping_bytes() + counts_of_views);
}

/// 4 sequences of which some need new memory next.
template <class T>
struct Filled {
  BatchCache<T> cache;
  std::vector<T> ones = test::random_values<T>(5, 1200 * G * Dv);
  std::vector<Span> spans;

  explicit Filled(Index limit = 0) : cache(config<T>(4, 2000, limit)) {
    spans = cache.extend(std::vector<Index>{500, 0, 1100, 77});
    write(spans);
  }
  void write(const std::vector<Span>& at) {
    std::vector<Index> offsets = {0};
    for (const Span& span : at) offsets.push_back(offsets.back() + span.size());
    std::vector<T> k(static_cast<std::size_t>(offsets.back() * G * D)),
        v(static_cast<std::size_t>(offsets.back() * G * Dv));
    for (std::size_t i = 0; i < k.size(); ++i) k[i] = ones[i % ones.size()];
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = ones[(i + 7) % ones.size()];
    const TensorView<const T> tk(k.data(), offsets.back(), G, D), tv(v.data(), offsets.back(), G, Dv);
    for (Index layer = 0; layer < L; ++layer)
      cache.write(layer, at, ragged(tk, offsets), ragged(tv, offsets));
  }
  std::vector<T> keys(Index layer, Index seq) const {
    const Index n = cache.layer(layer).retained(seq).end;
    std::vector<T> k(static_cast<std::size_t>(n * G * D)), v(static_cast<std::size_t>(n * G * Dv));
    cache.read(layer, seq, {0, n}, TensorView<T>(k.data(), n, G, D), TensorView<T>(v.data(), n, G, Dv));
    k.insert(k.end(), v.begin(), v.end());
    return k;
  }
  std::vector<std::vector<T>> contents() const {
    std::vector<std::vector<T>> all;
    for (Index layer = 0; layer < L; ++layer)
      for (Index seq = 0; seq < 4; ++seq) all.push_back(keys(layer, seq));
    return all;
  }
};

template <class T>
class Unchanged {
 public:
  explicit Unchanged(Filled<T>& filled)
      : filled_(filled),
        contents_(filled.contents()),
        allocated_(filled.cache.allocated_bytes()),
        bookkeeping_(filled.cache.bookkeeping_bytes()) {
    for (Index seq = 0; seq < 4; ++seq) sizes_.push_back(filled.cache.size(seq));
  }
  void operator()() const {
    EXPECT_EQ(filled_.contents(), contents_);
    EXPECT_EQ(filled_.cache.allocated_bytes(), allocated_);
    EXPECT_EQ(filled_.cache.bookkeeping_bytes(), bookkeeping_);
    for (Index seq = 0; seq < 4; ++seq)
      EXPECT_EQ(filled_.cache.size(seq), sizes_[static_cast<std::size_t>(seq)]);
    filled_.write(filled_.spans);  // they are still valid
  }

 private:
  Filled<T>& filled_;
  std::vector<std::vector<T>> contents_;
  Index allocated_, bookkeeping_;
  std::vector<Index> sizes_;
};

TYPED_TEST(BatchMemory, RunningOutOfMemoryChangesNothing) {
  using T = TypeParam;
  Filled<T> filled;
  const Unchanged<T> unchanged(filled);
  fail_each_allocation([&] { filled.cache.clone(); }, unchanged);
  std::vector<Span> spans;
  const std::vector<Index> more = {600, 1, 0, 100};
  fail_each_allocation([&] { spans = filled.cache.extend(more); }, unchanged);
  EXPECT_EQ(spans[0].positions, (Range{500, 1100}));
  EXPECT_EQ(spans[1].positions, (Range{0, 1}));
  EXPECT_EQ(spans[2].positions, (Range{1100, 1100}));
  EXPECT_EQ(spans[3].positions, (Range{77, 177}));
}

TYPED_TEST(BatchMemory, RunningOutOfMemoryInReorderChangesNothing) {
  using T = TypeParam;
  for (const std::vector<Index>& parents : std::vector<std::vector<Index>>{
           {2, 2, 2, 2}, {2, 0, 2, 0}, {0, 2, 2, 1}, {1, 1, 1, 1}, {3, 0, 3, 3}, {3, 2, 1, 0}}) {
    Filled<T> filled;
    const auto before = filled.contents();
    fail_each_allocation([&] { filled.cache.reorder(parents); }, Unchanged<T>(filled));
    Index slabs = 0;  // those that are copied take no more than they need
    for (const Index parent : parents)
      slabs += ceil_div(std::vector<Index>{500, 0, 1100, 77}[static_cast<std::size_t>(parent)], 512);
    EXPECT_EQ(filled.cache.allocated_bytes(), slabs * slab<T>);
    const auto after = filled.contents();
    for (std::size_t layer = 0; layer < L; ++layer)
      for (std::size_t seq = 0; seq < 4; ++seq)
        EXPECT_EQ(after[layer * 4 + seq], before[layer * 4 + static_cast<std::size_t>(parents[seq])]);
  }
}

TYPED_TEST(BatchMemory, BeamsOfOneLengthChangePlacesInWhatThereIs) {
  using T = TypeParam;
  BatchCache<T> cache(config<T>(4, 2000));
  cache.extend(600);
  aligned_bytes = 0;
  for (const std::vector<Index>& parents :
       std::vector<std::vector<Index>>{{2, 2, 2, 2}, {1, 0, 3, 3}, {3, 2, 1, 0}}) {
    cache.reorder(parents);
    EXPECT_EQ(cache.allocated_bytes(), 8 * slab<T>);
  }
  EXPECT_EQ(aligned_bytes, 0);
}

TYPED_TEST(BatchMemory, IsNotTakenBeyondTheLimit) {
  using T = TypeParam;
  Filled<T> filled(6 * slab<T>);  // 1, 0, 3 and 1 are taken
  auto& cache = filled.cache;
  EXPECT_EQ(cache.allocated_bytes(), 5 * slab<T>);
  const Unchanged<T> unchanged(filled);
  EXPECT_EQ(message_of<std::length_error>([&] { cache.extend(13); }),
            "extend: the cache would take " + std::to_string(7 * slab<T>) +
                " bytes, more than the memory_limit of " + std::to_string(6 * slab<T>));
  unchanged();
  EXPECT_THROW(cache.reorder(std::vector<Index>{2, 2, 2, 2}), std::length_error);
  EXPECT_THROW(cache.reorder(std::vector<Index>{2, 1, 2, 3}), std::length_error);
  unchanged();
  const auto spans = cache.extend(12);
  filled.write(spans);
  EXPECT_EQ(cache.allocated_bytes(), 6 * slab<T>);
  cache.clear(2);
  cache.reorder(std::vector<Index>{0, 0, 0, 3});
  EXPECT_EQ(cache.allocated_bytes(), 4 * slab<T>);
  auto copy = cache.clone();
  EXPECT_THROW(copy.extend(1000), std::length_error);
}

}  // namespace
}  // namespace gqa
