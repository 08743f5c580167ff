// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <gtest/gtest.h>

namespace generate {
namespace {

TEST(TimeLeft, GoesByWhatHasBeenDone) {
  common::TimeLeft left;
  EXPECT_EQ(left.at(0, 0), "");
  EXPECT_EQ(left.at(0.5, 1), "");  // too early to tell
  EXPECT_EQ(left.at(0.5, 10), "10 s");
  EXPECT_EQ(left.at(0.6, 180), "2 min 0 s");
  EXPECT_EQ(left.at(0.6, 9000), "1 h 40 min");
  EXPECT_EQ(left.at(1, 9000), "0 s");
}

TEST(TimeLeft, DoesNotCountWhatWasDoneBefore) {
  common::TimeLeft left;
  EXPECT_EQ(left.at(0.5, 100), "");
  EXPECT_EQ(left.at(0.5, 110), "");  // nothing yet
  EXPECT_EQ(left.at(0.75, 130), "30 s");
}

TEST(TimeLeft, StartsAnewWithOtherWork) {
  common::TimeLeft left;
  left.at(0, 0);
  EXPECT_EQ(left.at(0.9, 90), "10 s");
  EXPECT_EQ(left.at(0.1, 100), "");
  EXPECT_EQ(left.at(0.2, 110), "1 min 20 s");
  EXPECT_EQ(left.at(0.2 + 1e-12, 1e9), "");  // as good as never
}

}  // namespace
}  // namespace generate
