// SPDX-License-Identifier: Apache-2.0
// libFuzzer: any bytes are operations on a paged cache and on a ring, which do what their models say.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "gqa/kv/ring.hpp"
#include "kv/paged_operations.hpp"
#include "kv/sequence_model.hpp"

namespace {

using namespace gqa;

template <class Model>
void run(Model model, std::span<const std::uint8_t> bytes) {
  try {
    for (const test::Operation& each : test::operations_of(bytes, Model::num_kinds)) {
      model.apply(each);
      model.check();
    }
    model.finish();
  } catch (const test::Difference& difference) {
    std::fprintf(stderr, "violated: %s\n", difference.what.c_str());
    std::abort();
  }
}

test::SequenceModel<RingCache<bfloat16>> ring() {
  const CacheLayer layer{1, 3, 2, 50, 5};
  return {RingCache<bfloat16>({.window = 50,
                               .sinks = 5,
                               .max_span = 70,
                               .rollback = 20,
                               .num_layers = 2,
                               .num_kv_heads = 1,
                               .head_dim = 3,
                               .value_dim = 2}),
          {.layers = {layer, layer}, .max_tokens = max_position, .max_span = 70, .rollback = 20}};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  run(test::PagedModel<bfloat16>(64), {data, size});
  run(ring(), {data, size});
  return 0;
}
