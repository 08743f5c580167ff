// SPDX-License-Identifier: Apache-2.0
// A file says what its keys and values depend on beside the tokens, and who expects another is refused.
#include <gtest/gtest.h>

#include <string>

#include "gqa/kv/file.hpp"
#include "gqa/kv/mapped_prefix.hpp"
#include "kv/file_case.hpp"
#include "support/message_of.hpp"

namespace gqa {
namespace {

using test::cache_of;
using test::contents;
using test::message_of;
using test::with_tokens;

class FileLabel : public ::testing::Test {
 protected:
  /// What restoring says; the cache is as it was.
  std::string refusal(std::string_view label) {
    auto cache = with_tokens(cache_of<float>({}), 3, 2);
    const auto before = contents(cache);
    std::string message = message_of<format_error>([&] { restore(cache, path_, {.label = label}); });
    EXPECT_TRUE(contents(cache) == before);
    EXPECT_EQ(message, message_of<format_error>([&] { MappedPrefix<float>(path_, {.label = label}); }));
    EXPECT_EQ(message.rfind(path_.string() + ": ", 0), 0u) << message;
    return message.substr(std::min(message.size(), path_.string().size() + 2));
  }
  void expect_taken(std::string_view label) {
    auto cache = cache_of<float>({});
    restore(cache, path_, {.label = label});
    EXPECT_TRUE(contents(cache) == contents(cache_));
    EXPECT_EQ(MappedPrefix<float>(path_, {.label = label}).size(), 70);
  }
  std::string unsaved(std::string_view label) {
    return message_of<std::invalid_argument>([&] { save(cache_, path_, {.label = label}); });
  }

  test::Folder folder_;
  std::filesystem::path path_ = folder_ / "cache";
  KVCache<float> cache_ = with_tokens(cache_of<float>({}), 70, 1);
};

TEST_F(FileLabel, IsToldAndExpected) {
  const std::string label = "smollm2 135M, größe 7";
  save(cache_, path_, {.label = label});
  EXPECT_EQ(describe_file(path_).label, label);
  expect_taken(label);
  expect_taken("");
  EXPECT_EQ(refusal("smollm2 360M"),
            "header: the label is \"smollm2 135M, größe 7\", expected \"smollm2 360M\"");
  EXPECT_EQ(refusal("smollm2 135M, größe"),
            "header: the label is \"smollm2 135M, größe 7\", expected \"smollm2 135M, größe\"");
}

TEST_F(FileLabel, OfAFileThatHasNone) {
  save(cache_, path_);
  EXPECT_EQ(describe_file(path_).label, "");
  expect_taken("");
  EXPECT_EQ(refusal("a"), "header: the label is \"\", expected \"a\"");
}

/// Those before the last do not fit in what an empty one leaves of the header's first 4096 bytes.
TEST_F(FileLabel, MayHave1024Bytes) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{1023}, std::size_t{1024}}) {
    for (const Index layers : {1, 25, 26, 33, 34}) {
      cache_ = with_tokens(
          cache_of<float>({.layers = layers, .heads = 1, .dim = 2, .value_dim = 1, .capacity = 70}), 70, 1);
      const std::string label(size, 'x');
      save(cache_, path_, {.label = label});
      EXPECT_EQ(describe_file(path_).label, label);
      auto back = cache_of<float>({.layers = layers, .heads = 1, .dim = 2, .value_dim = 1, .capacity = 70});
      restore(back, path_, {.label = label});
      EXPECT_TRUE(contents(back) == contents(cache_)) << size << ", " << layers;
    }
  }
  EXPECT_EQ(unsaved(std::string(1025, 'x')),
            "label: 1025 bytes, expected at most 1024 and no control characters");
}

TEST_F(FileLabel, MayNotHaveControlCharacters) {
  save(cache_, path_, {.label = "old"});
  for (const char c : {'\0', '\n', '\x1b', '\x1f', '\x7f'})
    EXPECT_EQ(unsaved(std::string("a") + c),
              "label: 2 bytes, expected at most 1024 and no control characters")
        << static_cast<int>(c);
  EXPECT_EQ(folder_.num_files(), 1u);
  expect_taken("old");
}

/// What a file says of itself is shown to people: it is checked even where its checksum holds.
TEST_F(FileLabel, OfALyingFileIsRefused) {
  save(cache_, path_, {.label = "model"});
  const test::Bytes bytes = test::read_bytes(path_);
  const std::size_t at = 64 + 2 * 120;
  const auto lying = [&](std::size_t byte, unsigned value) {
    test::Bytes lie = bytes;
    lie[byte] = static_cast<unsigned char>(value);
    const std::uint64_t sum = detail::checksum_of(std::as_bytes(std::span(lie).first(4096 - 8)));
    std::memcpy(lie.data() + 4096 - 8, &sum, 8);
    test::write_bytes(path_, lie);
    EXPECT_THROW(
        {
          if (!describe_file(path_).label.empty()) throw format_error("");
        },
        format_error);
    return refusal("");
  };
  EXPECT_EQ(lying(at + 2, '\n'), "header, byte 304: the label has control characters");
  EXPECT_EQ(lying(at + 5, 'x'), "header, byte 309: not zero");
  EXPECT_EQ(lying(16, 6), "header, byte 304: the label has control characters");
  EXPECT_EQ(lying(16, 4), "header, byte 308: not zero");
  EXPECT_EQ(lying(17, 8), "header, byte 16: the label has 2053 bytes, expected at most 1024");
  EXPECT_EQ(lying(19, 255), "header, byte 16: the label has 4278190085 bytes, expected at most 1024");
}

}  // namespace
}  // namespace gqa
