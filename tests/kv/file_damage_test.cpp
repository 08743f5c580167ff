// SPDX-License-Identifier: Apache-2.0
// Files that are damaged, lie or end too early are refused, and leave the cache as it was.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <climits>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

#include "gqa/kv/file.hpp"
#include "gqa/kv/mapped_prefix.hpp"
#include "kv/counted_memory.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"
#include "support/scalars.hpp"

namespace gqa {
namespace {

using test::allocations_left;
using test::Bytes;
using test::cache_of;
using test::contents;
using test::Folder;
using test::message_of;
using test::with_tokens;

/// Small: a header of 4096 bytes and two sections of 4096 or 8192.
constexpr test::FileShape small = {.layers = 2, .heads = 1, .dim = 3, .value_dim = 2, .capacity = 128};

template <class T>
class FileDamage : public ::testing::Test {
 protected:
  FileDamage() {
    save(with_tokens(cache_of<T>(small), 35, 1), path_, {.label = "model"});
    bytes_ = test::read_bytes(path_);
    cache_ = with_tokens(cache_of<T>(small), 9, 2);
    before_ = contents(cache_);
  }

  /// What restore() says of the file as it is. The cache stays as it was.
  std::string refusal() {
    const std::string message = message_of<format_error>([&] { restore(cache_, path_); });
    EXPECT_EQ(cache_.size(), 9);
    if (cache_.size() != 9) cache_ = with_tokens(cache_of<T>(small), 9, 2);
    return message;
  }
  void expect_unchanged() { EXPECT_TRUE(contents(cache_) == before_); }
  bool is_restored() {
    auto cache = cache_of<T>(small);
    restore(cache, path_);
    return contents(cache) == contents(with_tokens(cache_of<T>(small), 35, 1));
  }

  Folder folder_;
  std::filesystem::path path_ = folder_ / "cache";
  Bytes bytes_;
  KVCache<T> cache_ = cache_of<T>(small);
  std::vector<Bytes> before_;
};
using Scalars = test::AllScalars;
TYPED_TEST_SUITE(FileDamage, Scalars);

TYPED_TEST(FileDamage, CutAtEveryByte) {
  for (Index size = std::ssize(this->bytes_) - 1; size >= 0; --size) {
    ASSERT_EQ(::truncate(this->path_.c_str(), size), 0);
    ASSERT_NE(this->refusal(), "nothing thrown") << size;
    ASSERT_THROW((void)describe_file(this->path_), format_error) << size;
    ASSERT_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false}), format_error) << size;
  }
  this->expect_unchanged();
}

TYPED_TEST(FileDamage, Longer) {
  for (const std::size_t more : {1u, 4095u, 4096u, 100000u}) {
    Bytes longer = this->bytes_;
    longer.resize(longer.size() + more);
    test::write_bytes(this->path_, longer);
    EXPECT_NE(this->refusal().find("header, byte 48: the file had " + std::to_string(this->bytes_.size())),
              std::string::npos)
        << more;
  }
}

TYPED_TEST(FileDamage, FlippedAtEveryBitOfTheHeader) {
  const detail::File file(this->path_, O_RDWR);
  for (std::size_t i = 0; i < 4096; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      const auto flipped = static_cast<unsigned char>(this->bytes_[i] ^ (1u << bit));
      ASSERT_EQ(::pwrite(file.descriptor(), &flipped, 1, static_cast<off_t>(i)), 1);
      const std::string message = this->refusal();
      ASSERT_EQ(message.rfind(this->path_.string() + ": header, byte", 0), 0u) << i << ": " << message;
      if (bit != static_cast<int>(i % 8)) continue;
      ASSERT_THROW((void)describe_file(this->path_), format_error) << i;
      ASSERT_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false}), format_error) << i;
    }
    ASSERT_EQ(::pwrite(file.descriptor(), &this->bytes_[i], 1, static_cast<off_t>(i)), 1);
  }
  this->expect_unchanged();
  EXPECT_TRUE(this->is_restored());
}

TYPED_TEST(FileDamage, FlippedAtABitOfEveryByteOfTheBody) {
  const detail::File file(this->path_, O_RDWR);
  const std::size_t section = (this->bytes_.size() - 4096) / 2;
  for (std::size_t i = 4096; i < this->bytes_.size(); ++i) {
    const auto flipped = static_cast<unsigned char>(this->bytes_[i] ^ (1u << (i % 8)));
    ASSERT_EQ(::pwrite(file.descriptor(), &flipped, 1, static_cast<off_t>(i)), 1);
    const std::size_t layer = (i - 4096) / section, begin = 4096 + layer * section;
    ASSERT_EQ(this->refusal(), this->path_.string() + ": layer " + std::to_string(layer) + ", bytes " +
                                   std::to_string(begin) + " to " + std::to_string(begin + section) +
                                   ": its checksum differs");
    ASSERT_THROW(MappedPrefix<TypeParam>(this->path_), format_error) << i;
    ASSERT_NO_THROW(MappedPrefix<TypeParam>(this->path_, {.verify = false})) << "not asked to look there";
    ASSERT_EQ(::pwrite(file.descriptor(), &this->bytes_[i], 1, static_cast<off_t>(i)), 1);
  }
  this->expect_unchanged();
  EXPECT_TRUE(this->is_restored());
}

/// Its checksum holds, so that all else is looked at.
void sign(Bytes& bytes) {
  std::uint64_t size;
  std::memcpy(&size, bytes.data() + 40, 8);
  if (size < 8 || size > bytes.size()) size = 4096;
  const std::uint64_t sum = detail::checksum_of(std::as_bytes(std::span(bytes).first(size - 8)));
  std::memcpy(bytes.data() + size - 8, &sum, 8);
}

TYPED_TEST(FileDamage, ALyingHeader) {
  constexpr auto most = std::numeric_limits<std::int64_t>::max();
  const std::int64_t lies[] = {0,        1,     2,       5,         64,        129,       4096,
                               8192,     12289, 1 << 16, 1LL << 31, 1LL << 32, most / 8,  most,
                               most - 1, -1,    -64,     most / 4,  most / 64, LLONG_MIN, most - 4095};
  int refused = 0;
  [[maybe_unused]] volatile unsigned char first = 0;
  // Each number of prefix and records, the label and the zeros after it.
  const auto size_at = [](std::size_t at) -> std::size_t { return at < 40 || (at >= 56 && at < 64) ? 4 : 8; };
  for (std::size_t at = 0; at < 64 + 2 * 120 + 16; at += size_at(at)) {
    for (const std::int64_t lie : lies) {
      Bytes lying = this->bytes_;
      std::memcpy(lying.data() + at, &lie, size_at(at));
      if (lying == this->bytes_) continue;
      const bool of_range = at >= 64 && at < 304 && (at - 64) % 120 == 40;
      if (of_range && lie >= 1 && lie <= 64) continue;  // as many tiles: a file of so many tokens
      sign(lying);
      test::write_bytes(this->path_, lying);
      EXPECT_NE(this->refusal(), "nothing thrown") << lie << " at byte " << at;
      refused += 1;
      // What is not the cache's business is found, or it is harmless to read.
      try {
        const MappedPrefix<TypeParam> mapped(this->path_, {.verify = false});
        for (Index i = 0; i < mapped.num_layers(); ++i) {
          const auto view = mapped.layer(i);
          for (const Range r : view.retained(0))
            if (!r.empty())
              first =
                  *static_cast<const unsigned char*>(view.tile(0, 0, {r.begin, r.begin + 1}, nullptr).k.data);
        }
      } catch (const format_error&) {
      }
    }
  }
  EXPECT_GT(refused, 500);
  this->expect_unchanged();
}

/// Found by the fuzzer: what has no tokens could have any number of heads.
TYPED_TEST(FileDamage, AbsurdSizesOfAnEmptyLayer) {
  using T = TypeParam;
  save(cache_of<T>(small), this->path_);
  const Bytes bytes = test::read_bytes(this->path_);
  for (const std::size_t at : {64u, 72u, 80u}) {
    for (const std::int64_t lie :
         {(std::int64_t{1} << 20) + 1, std::int64_t{1} << 40, std::int64_t{1} << 55}) {
      Bytes lying = bytes;
      std::memcpy(lying.data() + at, &lie, 8);
      sign(lying);
      test::write_bytes(this->path_, lying);
      EXPECT_THROW(MappedPrefix<T>(this->path_, {.verify = false}), format_error) << lie << " at " << at;
      EXPECT_THROW((void)describe_file(this->path_), format_error) << lie << " at " << at;
    }
  }
}

/// Nor can such a cache be saved.
TEST(FileSizes, BeyondTheFormatAreRefused) {
  const Folder folder;
  const KVCache<float> cache(
      {.max_tokens = 1, .num_layers = 1, .num_kv_heads = (Index{1} << 20) + 1, .head_dim = 1});
  EXPECT_THROW(save(cache, folder / "cache"), std::length_error);
  EXPECT_EQ(folder.num_files(), 0u);
}

TYPED_TEST(FileDamage, AnotherTypeThatIsAsLong) {
  for (const char* name : {"f32", "f64", "f16", "bf16", "", "f32x", "bf16\0x"}) {
    Bytes lying = this->bytes_;
    std::memset(lying.data() + 24, 0, 8);
    std::memcpy(lying.data() + 24, name, std::strlen(name));
    if (name == std::string("bf16") && std::is_same_v<TypeParam, bfloat16>) lying[24 + 6] = 'x';
    if (lying == this->bytes_) continue;
    sign(lying);
    test::write_bytes(this->path_, lying);
    EXPECT_NE(this->refusal(), "nothing thrown") << name;
  }
}

TYPED_TEST(FileDamage, OtherFiles) {
  for (const char* text :
       {"", "x", "GGUF", "a text that is longer than the sixty-four bytes a prefix has, and tells nothing"}) {
    test::write_bytes(this->path_, Bytes(text, text + std::strlen(text)));
    EXPECT_NE(this->refusal().find("header, byte "), std::string::npos) << text;
  }
  test::write_bytes(this->path_, Bytes(20000));
  EXPECT_NE(this->refusal().find("these are not the tokens of a cache"), std::string::npos);
}

TYPED_TEST(FileDamage, NoMemory) {
  Index failures = 0;
  for (;; ++failures) {
    allocations_left = failures;
    bool thrown = false;
    try {
      restore(this->cache_, this->path_);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    allocations_left = -1;
    if (!thrown) break;
    ASSERT_EQ(this->cache_.size(), 9);
    this->expect_unchanged();
  }
  EXPECT_GT(failures, 5);
  EXPECT_EQ(this->cache_.size(), 35);
}

}  // namespace
}  // namespace gqa
