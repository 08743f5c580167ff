// SPDX-License-Identifier: Apache-2.0
// Random sequences of operations on a paged cache against plain vectors of tokens and lists of pages.
#include "kv/paged_operations.hpp"
#include "kv/random_operations.hpp"

namespace gqa {
namespace {

TEST(PagedModel, FloatInPagesOf64) {
  test::expect_as_modelled([] { return test::PagedModel<float>(64); });
}
TEST(PagedModel, BrainFloatInPagesOf64) {
  test::expect_as_modelled([] { return test::PagedModel<bfloat16>(64); });
}
TEST(PagedModel, HalfInPagesOf128) {
  test::expect_as_modelled([] { return test::PagedModel<half>(128); });
}

}  // namespace
}  // namespace gqa
