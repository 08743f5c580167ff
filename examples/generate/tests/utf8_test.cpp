// SPDX-License-Identifier: Apache-2.0
#include "utf8.hpp"

#include <gtest/gtest.h>

namespace generate {
namespace {

TEST(Utf8, AcceptsWhatIsValid) {
  EXPECT_EQ(find_invalid_utf8(""), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("a\u00e9\u4e2d\U0001F355\U0010FFFF"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8(std::string_view("\0", 1)), std::string_view::npos);
}

TEST(Utf8, RefusesWhatIsNot) {
  // A lone continuation, overlong forms, a surrogate, beyond U+10FFFF, bytes that never occur, a cut end.
  for (const char* bad : {"ab\x80", "ab\xC0\x80", "ab\xC1\xBF", "ab\xE0\x9F\xBF", "ab\xF0\x8F\xBF\xBF",
                          "ab\xED\xA0\x80", "ab\xF4\x90\x80\x80", "ab\xFF", "ab\xE4\xB8", "ab\xE4\xB8z"}) {
    EXPECT_EQ(find_invalid_utf8(bad), 2U) << bad;
  }
}

TEST(Utf8Stream, HoldsACodePointBackUntilItIsComplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.push("\x8D"), "");
  EXPECT_EQ(stream.push("\x95z"), "\U0001F355z");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Utf8Stream, ReplacesBrokenSequencesOnceEach) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xE4\xB8z\x80\x80"), "\uFFFDz\uFFFD\uFFFD");
  EXPECT_EQ(stream.push("\xE4\xB8"), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
  EXPECT_EQ(stream.finish(), "");
}

}  // namespace
}  // namespace generate
