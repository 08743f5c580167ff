// SPDX-License-Identifier: Apache-2.0
#include "gqa/kernel/workspace.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "support/sanitizers.hpp"

namespace gqa {
namespace {

TEST(Workspace, GrowsAndIsAligned) {
  Workspace workspace;
  EXPECT_EQ(workspace.bytes(), 0);
  std::byte* small = workspace.reserve(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(small) % 64, 0u);
  EXPECT_GE(workspace.bytes(), 100);
  EXPECT_EQ(workspace.reserve(50), small);
  EXPECT_EQ(workspace.reserve(100), small);
  std::byte* large = workspace.reserve(1000000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large) % 64, 0u);
  large[999999] = std::byte{1};
  EXPECT_GE(workspace.bytes(), 1000000);
}

TEST(Workspace, IsUsableAfterItCouldNotGrow) {
#if GQA_TEST_ADDRESS_SANITIZER
  GTEST_SKIP() << "its operator new does not throw";
#endif
  Workspace workspace;
  workspace.reserve(64);
  EXPECT_ANY_THROW(workspace.reserve(std::numeric_limits<Index>::max() - 64));
  std::byte* memory = workspace.reserve(64);
  ASSERT_NE(memory, nullptr);
  memory[63] = std::byte{1};
}

TEST(Workspace, BetweenCallsIsMemoryOfItsOwn) {
  Workspace workspace;
  std::byte* kept = workspace.reserve_between_calls(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(kept) % 64, 0u);
  EXPECT_EQ(workspace.bytes(), 100);
  kept[99] = std::byte{7};
  std::byte* own = workspace.reserve(1000);
  EXPECT_TRUE(own + 1000 <= kept || kept + 100 <= own);
  EXPECT_EQ(workspace.bytes(), 1100);
  EXPECT_EQ(workspace.reserve_between_calls(50), kept);
  EXPECT_EQ(kept[99], std::byte{7});
}

TEST(Workspace, IsUsableAfterAMove) {
  Workspace workspace;
  std::byte* own = workspace.reserve(100);
  workspace.reserve_between_calls(10);
  Workspace moved = std::move(workspace);
  EXPECT_EQ(moved.reserve(100), own);
  EXPECT_EQ(workspace.bytes(), 0);
  ASSERT_NE(workspace.reserve(100), nullptr);
  ASSERT_NE(workspace.reserve_between_calls(10), nullptr);
  workspace = std::move(moved);
  EXPECT_EQ(workspace.reserve(100), own);
  EXPECT_EQ(moved.bytes(), 0);
  ASSERT_NE(moved.reserve(64), nullptr);
}

TEST(Arena, LaysArraysOutApartAndAligned) {
  detail::Arena measure;
  measure.take<float>(3);
  measure.take<double>(0);
  measure.take<std::byte>(65);
  EXPECT_EQ(measure.used(), 64 + 0 + 128);

  alignas(64) std::byte memory[192];
  detail::Arena arena(memory);
  EXPECT_EQ(static_cast<void*>(arena.take<float>(3)), memory);
  EXPECT_EQ(static_cast<void*>(arena.take<double>(1)), memory + 64);
  EXPECT_EQ(arena.take<std::byte>(64), memory + 128);
}

TEST(Arena, SizesThatOverflowThrow) {
  detail::Arena arena;
  constexpr Index huge = std::numeric_limits<Index>::max();
  EXPECT_THROW(arena.take<float>(huge / 2), std::length_error);
  EXPECT_THROW(arena.take<std::byte>(huge), std::length_error);
  arena.take<std::byte>(huge / 2);
  EXPECT_THROW(arena.take<std::byte>(huge / 2 + 100), std::length_error);
}

}  // namespace
}  // namespace gqa
