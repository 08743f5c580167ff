// SPDX-License-Identifier: Apache-2.0
// A saved cache that is mapped is read as the cache itself: as a view, as a level of a cascade, by threads
// and processes, and for as long as anything refers to it.
#include "gqa/kv/mapped_prefix.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <optional>
#include <thread>

#include "gqa/attention.hpp"
#include "gqa/cascade.hpp"
#include "gqa/kv/any_kv.hpp"
#include "gqa/mask.hpp"
#include "kv/cache_reader.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::add_tokens;
using test::Bytes;
using test::cache_of;
using test::Folder;
using test::message_of;
using test::with_tokens;

template <class T>
Bytes bits(const std::vector<T>& values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), static_cast<const void*>(values.data()), bytes.size());
  return bytes;
}

/// The bits of attention of n tokens over a view of 3 heads of 7 and 5.
template <class View>
Bytes attend(const View& view, Index n) {
  using T = typename View::Scalar;
  const auto q = test::random_values<T>(5, n * 6 * 7);
  std::vector<T> out(static_cast<std::size_t>(n * 6 * 5));
  attention(TensorView<const T>(q.data(), n, 6, 7), view, TensorView<T>(out.data(), n, 6, 5), causal());
  return bits(out);
}

template <class T>
class Mapped : public ::testing::Test {
 protected:
  Folder folder_;
  std::filesystem::path path_ = folder_ / "prefix";
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(Mapped, Scalars);

TYPED_TEST(Mapped, IsReadAsTheCacheItself) {
  using T = TypeParam;
  for (const Index tokens : {1, 63, 64, 65, 600}) {
    const auto cache = with_tokens(cache_of<T>({}), tokens, 1);
    save(cache, this->path_);
    const MappedPrefix<T> mapped(this->path_);
    EXPECT_EQ(mapped.num_layers(), 2);
    EXPECT_EQ(mapped.size(), tokens);
    for (Index layer = 0; layer < 2; ++layer) {
      const auto view = mapped.layer(layer), same = mapped.layer(layer);
      const auto of_cache = cache.layer(layer);
      EXPECT_EQ(view.num_seqs(), 1);
      EXPECT_EQ(view.num_kv_heads(), 3);
      EXPECT_EQ(view.head_dim(), 7);
      EXPECT_EQ(view.value_dim(), 5);
      EXPECT_EQ(view.retained(0), Ranges(Range{0, tokens}));
      for (Index head = 0; head < 3; ++head) {
        for (Index t = 0; t < tokens; ++t) {
          const test::Token is(view, 0, head, t);
          const test::Token expected(of_cache, 0, head, t);
          for (Index d = 0; d < 7; ++d) ASSERT_EQ(is.k(d), expected.k(d)) << layer << ", token " << t;
          for (Index d = 0; d < 5; ++d) ASSERT_EQ(is.v(d), expected.v(d)) << layer << ", token " << t;
        }
      }
      for (const Index n : {1, 9}) EXPECT_TRUE(attend(view, n) == attend(of_cache, n)) << tokens;
    }
    EXPECT_THROW((void)mapped.layer(2), std::out_of_range);
    EXPECT_THROW((void)mapped.layer(-1), std::out_of_range);
  }
}

TYPED_TEST(Mapped, IsTheSharedLevelOfACascade) {
  using T = TypeParam;
  const Index shared = 1024, seqs = 3;
  auto prefix = with_tokens(cache_of<T>({.layers = 1, .capacity = 2000}), shared, 1);
  save(prefix, this->path_);
  const MappedPrefix<T> mapped(this->path_);
  std::vector<KVCache<T>> own, whole;
  std::vector<typename KVCache<T>::View> own_views, whole_views;
  for (Index i = 0; i < seqs; ++i) {
    own.push_back(with_tokens(cache_of<T>({.layers = 1}), 5 + 70 * i, static_cast<std::uint64_t>(10 + i)));
    own_views.push_back(own.back().layer(0));
    // The same tokens, in one cache.
    auto all = prefix.clone();
    const Index n = own.back().size();
    std::vector<T> k(static_cast<std::size_t>(n * 21)), v(static_cast<std::size_t>(n * 15));
    own.back().read(0, {0, n}, TensorView<T>(k.data(), n, 3, 7), TensorView<T>(v.data(), n, 3, 5));
    all.append(TensorView<const T>(k.data(), n, 3, 7), TensorView<const T>(v.data(), n, 3, 5));
    whole.push_back(std::move(all));
    whole_views.push_back(whole.back().layer(0));
  }
  const std::vector<CascadeLevel<AnyKV<T>>> levels = {{mapped.layer(0), {0, seqs}},
                                                      {KVList(own_views), {0, 1, 2, 3}}};
  const std::vector<Index> offsets = {0, 1, 2, 3};
  const auto q = test::random_values<T>(5, seqs * 6 * 7);
  std::vector<T> out(static_cast<std::size_t>(seqs * 6 * 5)), expected = out;
  const TensorView<const T> queries(q.data(), seqs, 6, 7);
  cascade_attention(ragged(queries, offsets), levels, TensorView<T>(out.data(), seqs, 6, 5), causal());
  attention(ragged(queries, offsets), KVList(whole_views), TensorView<T>(expected.data(), seqs, 6, 5),
            causal());
  EXPECT_TRUE(bits(out) == bits(expected));
}

TYPED_TEST(Mapped, LivesAsLongAsItsViews) {
  using T = TypeParam;
  std::optional<MappedPrefix<T>> mapped;
  const auto cache = with_tokens(cache_of<T>({}), 100, 1), other = with_tokens(cache_of<T>({}), 200, 2);
  save(cache, this->path_);
  mapped.emplace(this->path_);
  std::optional<MappedPrefix<T>> moved = std::move(*mapped);
  EXPECT_EQ(mapped->size(), 100) << "moving copies";
  auto view = mapped->layer(1);
  std::optional<AnyKV<T>> any(mapped->layer(0));
  save(other, this->path_);  // another file of the name
  EXPECT_TRUE(attend(moved->layer(0), 1) == attend(cache.layer(0), 1));
  std::filesystem::remove(this->path_);
  mapped.reset();
  moved.reset();
  EXPECT_TRUE(attend(*any, 1) == attend(cache.layer(0), 1));
  any.reset();
  EXPECT_TRUE(attend(view, 1) == attend(cache.layer(1), 1)) << "nothing else keeps the mapping";
}

TYPED_TEST(Mapped, OfNothing) {
  using T = TypeParam;
  save(cache_of<T>({}), this->path_);
  const MappedPrefix<T> mapped(this->path_);
  EXPECT_EQ(mapped.size(), 0);
  EXPECT_TRUE(attend(mapped.layer(0), 1) == attend(cache_of<T>({}).layer(0), 1));
}

TYPED_TEST(Mapped, OfAnotherTypeIsRefused) {
  using T = TypeParam;
  using Other = std::conditional_t<std::is_same_v<T, half>, bfloat16, half>;
  save(with_tokens(cache_of<T>({}), 5, 1), this->path_);
  EXPECT_EQ(message_of<format_error>([&] { MappedPrefix<Other> mapped(this->path_); }),
            this->path_.string() + ": header, byte 24: the dtype is " + scalar_name<T>() + ", expected " +
                scalar_name<Other>());
  const auto absent = this->folder_ / "absent";
  EXPECT_NE(message_of<std::system_error>([&] { MappedPrefix<T> mapped(absent); }).find(absent.string()),
            std::string::npos);
}

TEST(MappedPrefixReaders, ThreadsAndProcesses) {
  const Folder folder;
  const auto path = folder / "prefix";
  const auto cache = with_tokens(cache_of<bfloat16>({}), 600, 1);
  save(cache, path);
  const Bytes expected = attend(cache.layer(1), 3);
  std::vector<::pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const ::pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) ::_exit(attend(MappedPrefix<bfloat16>(path).layer(1), 3) == expected ? 0 : 1);
    children.push_back(child);
  }
  const MappedPrefix<bfloat16> mapped(path);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int j = 0; j < 20; ++j)
        if (attend(mapped.layer(1), 3) != expected) ++wrong;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  for (const ::pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
}

}  // namespace
}  // namespace gqa
