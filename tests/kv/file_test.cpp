// SPDX-License-Identifier: Apache-2.0
// A cache that was saved and restored is the one that was saved, and a save happens or does not.
#include "gqa/kv/file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "gqa/attention.hpp"
#include "gqa/mask.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::add_tokens;
using test::cache_of;
using test::contents;
using test::Folder;
using test::message_of;
using test::with_tokens;

/// The bits of attention over each layer, of a decode step and of a few tokens at once.
template <class C>
std::vector<test::Bytes> attend(const C& cache) {
  using T = typename C::Scalar;
  std::vector<test::Bytes> all;
  const Index heads = cache.num_kv_heads() * 3, dim = cache.head_dim();
  for (Index layer = 0; layer < cache.num_layers(); ++layer) {
    for (const Index n : {1, 5}) {
      const auto q = test::random_values<T>(77, n * heads * dim);
      std::vector<T> out(static_cast<std::size_t>(n * heads * cache.value_dim()));
      attention(TensorView<const T>(q.data(), n, heads, dim), cache.layer(layer),
                TensorView<T>(out.data(), n, heads, cache.value_dim()), causal());
      test::Bytes bytes(out.size() * sizeof(T));
      std::memcpy(bytes.data(), static_cast<const void*>(out.data()), bytes.size());
      all.push_back(std::move(bytes));
    }
  }
  return all;
}

template <class T>
class CacheFile : public ::testing::Test {
 protected:
  Folder folder_;
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(CacheFile, Scalars);

TYPED_TEST(CacheFile, ComesBackInEveryShape) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  for (const test::FileShape& shape :
       {test::FileShape{1, 1, 1, 1, 600}, {3, 2, 7, 5, 601}, {2, 3, 64, 80, 600}, {1, 2, 33, 17, 10000}}) {
    for (const Index tokens : {1, 2, 63, 64, 65, 511, 513, 600}) {
      const auto cache = with_tokens(cache_of<T>(shape), tokens, 1);
      save(cache, path);
      auto restored = cache_of<T>(shape);
      restore(restored, path);
      ASSERT_EQ(restored.size(), tokens);
      EXPECT_EQ(restored.capacity(), shape.capacity);
      EXPECT_TRUE(contents(restored) == contents(cache)) << tokens << " tokens of " << shape.dim;
    }
  }
  EXPECT_EQ(this->folder_.num_files(), 1u) << "nothing but the file is left";
}

TYPED_TEST(CacheFile, GoesOnWithTheSameBits) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  for (const Index tokens : {5, 64, 129, 512, 700}) {
    auto cache = with_tokens(cache_of<T>({}), tokens, 1);
    save(cache, path);
    auto restored = with_tokens(cache_of<T>({}), 300, 2);  // not empty
    restore(restored, path);
    EXPECT_TRUE(attend(restored) == attend(cache)) << tokens;
    for (const Index n : {1, 1, 2, 70, 1}) {
      add_tokens(cache, n, 3);
      add_tokens(restored, n, 3);
      EXPECT_TRUE(attend(restored) == attend(cache)) << tokens << ", then " << n;
    }
    cache.truncate(tokens - 3);
    restored.truncate(tokens - 3);
    add_tokens(cache, 4, 4);
    add_tokens(restored, 4, 4);
    EXPECT_TRUE(attend(restored) == attend(cache)) << tokens << ", truncated";
  }
}

TYPED_TEST(CacheFile, SameTokensAreTheSameBytes) {
  using T = TypeParam;
  const auto a = this->folder_ / "a", b = this->folder_ / "b";
  const auto once = with_tokens(cache_of<T>({}), 131, 1);
  save(once, a);
  // The memory that this one gets has been used; and it has been through more.
  {
    auto used = with_tokens(cache_of<T>({}), 900, 5);
    used.clear();
  }
  auto history = with_tokens(cache_of<T>({.capacity = 950}), 900, 6);
  history.truncate(67);
  history.truncate(0);
  for (const Index n : {1, 2, 60, 1, 3, 64}) add_tokens(history, n, 1);
  save(history, b);
  EXPECT_TRUE(test::read_bytes(a) == test::read_bytes(b));
}

TYPED_TEST(CacheFile, OfAnEmptyCache) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  save(cache_of<T>({}), path);
  EXPECT_EQ(describe_file(path).tokens, 0);
  EXPECT_EQ(describe_file(path).bytes, 4096);
  auto restored = with_tokens(cache_of<T>({}), 10, 1);
  restore(restored, path);
  EXPECT_EQ(restored.size(), 0);
  EXPECT_EQ(restored.allocated_bytes(), 0);
  add_tokens(restored, 65, 1);
  EXPECT_TRUE(contents(restored) == contents(with_tokens(cache_of<T>({}), 65, 1)));
}

TYPED_TEST(CacheFile, OfAPassThatIsUnderWay) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  auto cache = with_tokens(cache_of<T>({.layers = 2, .heads = 1, .dim = 2, .value_dim = 2}), 70, 1);
  const Span span = cache.extend(3);
  const std::vector<T> ones(6, T(1));
  const TensorView<const T> x(ones.data(), 3, 1, 2);
  cache.write(0, span, x, x);
  save(cache, path);
  EXPECT_EQ(describe_file(path).tokens, 73);
  EXPECT_EQ(describe_file(path).layers[0].retained.at(0), (Range{0, 73}));
  EXPECT_EQ(describe_file(path).layers[1].retained.at(0), (Range{0, 70}));
  auto restored = cache_of<T>({.layers = 2, .heads = 1, .dim = 2, .value_dim = 2});
  restore(restored, path);
  EXPECT_EQ(restored.size(), 73);
  EXPECT_TRUE(contents(restored) == contents(cache));
  EXPECT_THROW(restored.write(1, span, x, x), std::invalid_argument) << "a span of another cache";
  restored.truncate(70);
  cache.truncate(70);
  EXPECT_TRUE(contents(restored) == contents(cache));
}

TYPED_TEST(CacheFile, SaysWhatItHolds) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  save(with_tokens(cache_of<T>({}), 70, 1), path);
  const FileDescription is = describe_file(path);
  EXPECT_EQ(is.dtype, scalar_name<T>());
  EXPECT_EQ(is.label, "");
  EXPECT_EQ(is.num_seqs, 1);
  EXPECT_EQ(is.tokens, 70);
  ASSERT_EQ(is.layers.size(), 2u);
  for (const auto& layer : is.layers) {
    EXPECT_EQ(layer.num_kv_heads, 3);
    EXPECT_EQ(layer.head_dim, 7);
    EXPECT_EQ(layer.value_dim, 5);
    EXPECT_EQ(layer.retained, std::vector<Ranges>({Range{0, 70}}));
  }
  EXPECT_EQ(is.bytes, static_cast<Index>(std::filesystem::file_size(path)));
  EXPECT_EQ(is.bytes % 4096, 0);
}

TYPED_TEST(CacheFile, EndsSpansAndViewsOfBefore) {
  using T = TypeParam;
  const auto path = this->folder_ / "cache";
  save(with_tokens(cache_of<T>({}), 10, 1), path);
  auto cache = with_tokens(cache_of<T>({}), 20, 2);
  const Span span = cache.extend(0);
  const auto view = cache.layer(0);
  restore(cache, path);
  EXPECT_THROW((void)view.retained(0), std::invalid_argument);
  const std::vector<T> none(1);
  EXPECT_THROW(cache.write(0, span, TensorView<const T>(none.data(), 0, 3, 7),
                           TensorView<const T>(none.data(), 0, 3, 5)),
               std::invalid_argument);
  EXPECT_EQ(cache.layer(0).retained(0), (Range{0, 10}));
}

TYPED_TEST(CacheFile, OfAnotherCacheIsRefused) {
  using T = TypeParam;
  using Other = std::conditional_t<std::is_same_v<T, float>, half, float>;
  const auto path = this->folder_ / "cache";
  save(with_tokens(cache_of<T>({}), 70, 1), path);
  const auto refusal = [&](auto cache) {
    add_tokens(cache, 9, 2);
    const auto before = contents(cache);
    const auto view = cache.layer(0);
    const std::string message = message_of<format_error>([&] { restore(cache, path); });
    EXPECT_EQ(cache.size(), 9);
    EXPECT_TRUE(contents(cache) == before);
    EXPECT_EQ(view.retained(0), (Range{0, 9})) << "views go on";
    EXPECT_EQ(message.rfind(path.string() + ": ", 0), 0u) << message;
    return message.substr(std::min(message.size(), path.string().size() + 2));
  };
  EXPECT_EQ(refusal(cache_of<Other>({})), std::string("header, byte 24: the dtype is ") + scalar_name<T>() +
                                              ", expected " + scalar_name<Other>());
  EXPECT_EQ(refusal(cache_of<T>({.layers = 3})), "num_layers is 2, expected the cache's 3");
  EXPECT_EQ(refusal(cache_of<T>({.layers = 1})), "num_layers is 2, expected the cache's 1");
  EXPECT_EQ(refusal(cache_of<T>({.heads = 2})),
            "layer 0 is 3 x 7 and x 5, expected the cache's 2 x 7 and x 5");
  EXPECT_EQ(refusal(cache_of<T>({.dim = 8})), "layer 0 is 3 x 7 and x 5, expected the cache's 3 x 8 and x 5");
  EXPECT_EQ(refusal(cache_of<T>({.value_dim = 6})),
            "layer 0 is 3 x 7 and x 5, expected the cache's 3 x 7 and x 6");

  auto small = with_tokens(cache_of<T>({.capacity = 69}), 9, 2);
  EXPECT_EQ(message_of<std::length_error>([&] { restore(small, path); }),
            "restore: 70 tokens, but the cache holds at most 69");
  EXPECT_EQ(small.size(), 9);
  auto fits = cache_of<T>({.capacity = 70});
  restore(fits, path);
  EXPECT_EQ(fits.size(), 70);
}

/// Files of version 1, as they were when it was new: who changes what is written gives it another number.
TEST(CacheFileVersion, OldFilesAreRead) {
  const auto folder = std::filesystem::path(__FILE__).parent_path() / "../fuzz/file_reader_corpus";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "built elsewhere";
  const auto check = [&]<class T>(T, const char* name, Index first, Index second) {
    const test::FileShape shape = {.layers = 2, .heads = 1, .dim = 3, .value_dim = 2, .capacity = 200};
    auto cache = cache_of<T>(shape);
    restore(cache, folder / name);
    ASSERT_EQ(cache.size(), first) << name;
    const auto value = [](Index i) { return static_cast<T>(static_cast<float>(i % 37) * 0.25f - 4); };
    for (const Index layer : {0, 1}) {
      const Index n = layer == 0 ? first : second;
      ASSERT_EQ(cache.layer(layer).retained(0), (Range{0, n})) << name;
      std::vector<T> k(static_cast<std::size_t>(n * 3)), v(static_cast<std::size_t>(n * 2));
      cache.read(layer, {0, n}, TensorView<T>(k.data(), n, 1, 3), TensorView<T>(v.data(), n, 1, 2));
      for (Index i = 0; i < n * 3; ++i) EXPECT_EQ(k[static_cast<std::size_t>(i)], value(i)) << name;
      for (Index i = 0; i < n * 2; ++i) EXPECT_EQ(v[static_cast<std::size_t>(i)], value(i)) << name;
    }
    const Folder again;
    save(cache, again / "again");
    EXPECT_TRUE(test::read_bytes(again / "again") == test::read_bytes(folder / name)) << name;
  };
  check(float{}, "f32", 5, 5);
  check(double{}, "f64", 1, 1);
  check(half{}, "f16", 70, 64);
  check(bfloat16{}, "bf16", 33, 33);
  check(float{}, "empty", 0, 0);
}

TEST(CacheFileErrors, NameThePath) {
  const Folder folder;
  auto cache = with_tokens(cache_of<float>({}), 5, 1);
  const auto says = [](const auto& f) { return message_of<std::system_error>(f); };
  const auto absent = folder / "absent", inside = folder / "absent/cache", directory = folder / "directory";
  EXPECT_NE(says([&] { restore(cache, absent); }).find(absent.string()), std::string::npos);
  EXPECT_NE(says([&] { (void)describe_file(absent); }).find(absent.string()), std::string::npos);
  EXPECT_NE(says([&] { save(cache, inside); }).find(inside.string()), std::string::npos);
  std::filesystem::create_directory(directory);
  EXPECT_NE(says([&] { restore(cache, directory); }).find(directory.string()), std::string::npos);
  EXPECT_NE(says([&] { save(cache, directory); }).find(directory.string()), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_directory(directory));
  EXPECT_NE(says([&] { save(cache, ""); }), "nothing thrown");
  // What is no file is not replaced by one.
  const auto pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_NE(says([&] { save(cache, pipe); }).find(pipe.string()), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  EXPECT_NE(says([&] { restore(cache, pipe); }).find(pipe.string()), std::string::npos);
  EXPECT_NE(says([&] { save(cache, "/dev/null"); }).find("/dev/null"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_NE(says([&] { restore(cache, "/dev/null"); }).find("/dev/null"), std::string::npos);
  EXPECT_EQ(cache.size(), 5);
  EXPECT_EQ(folder.num_files(), 2u);
}

TEST(CacheFileErrors, NoPermission) {
  const Folder folder;
  auto cache = with_tokens(cache_of<float>({}), 5, 1);
  const auto path = folder / "cache";
  save(cache, path);
  ::chmod(path.c_str(), 0);
  ::chmod(folder.path().c_str(), 0555);
  const bool root = ::geteuid() == 0;
  ASSERT_EQ(::seteuid(root ? 65534 : ::geteuid()), 0);  // whom no permission is given
  const auto code = [](const auto& f) {
    try {
      f();
    } catch (const std::system_error& error) {
      return error.code();
    }
    return std::error_code();
  };
  EXPECT_EQ(code([&] { save(cache, folder / "other"); }), std::errc::permission_denied);
  EXPECT_EQ(code([&] { save(cache, path); }), std::errc::permission_denied);
  EXPECT_EQ(code([&] { restore(cache, path); }), std::errc::permission_denied);
  ASSERT_EQ(::seteuid(root ? 0 : ::geteuid()), 0);
  ::chmod(folder.path().c_str(), 0700);
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(CacheFileErrors, ACacheThatWasMovedFrom) {
  const Folder folder;
  auto cache = with_tokens(cache_of<float>({}), 5, 1);
  auto taken = std::move(cache);
  save(taken, folder / "cache");
  EXPECT_THROW(save(cache, folder / "none"), std::invalid_argument);
  EXPECT_THROW(restore(cache, folder / "cache"), std::invalid_argument);
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(CacheFileName, LinksStayAndPermissionsToo) {
  const Folder folder;
  const auto real = folder / "real", link = folder / "link";
  save(with_tokens(cache_of<float>({}), 5, 1), real);
  ::chmod(real.c_str(), 0600);
  std::filesystem::create_symlink("real", link);
  save(with_tokens(cache_of<float>({}), 6, 1), link);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(describe_file(real).tokens, 6);
  EXPECT_EQ(std::filesystem::status(real).permissions(), std::filesystem::perms(0600));
  EXPECT_EQ(folder.num_files(), 2u);
}

TEST(CacheFileName, InTheWorkingDirectory) {
  const Folder folder;
  const auto here = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  save(with_tokens(cache_of<float>({}), 5, 1), "cache");
  EXPECT_EQ(describe_file("cache").tokens, 5);
  std::filesystem::current_path(here);
}

TEST(CacheFileThreads, ReadersAndWritersOfOneName) {
  const Folder folder;
  const auto path = folder / "cache";
  const auto small = with_tokens(cache_of<float>({}), 3, 1), large = with_tokens(cache_of<float>({}), 200, 1);
  save(small, path);
  const auto of_small = contents(small), of_large = contents(large);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) save(i % 2 == 0 ? large : small, path);
    });
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&] {
      auto cache = cache_of<float>({});
      for (int i = 0; i < 40; ++i) {
        restore(cache, path);
        const auto is = contents(cache);
        if (is != of_small && is != of_large) ++wrong;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(folder.num_files(), 1u);
}

}  // namespace
}  // namespace gqa
