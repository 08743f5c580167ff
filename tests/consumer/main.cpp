// SPDX-License-Identifier: Apache-2.0
// What a stranger's first program does with the library.
#include <cstdio>
#include <gqa/core/shape.hpp>
#include <gqa/core/version.hpp>

int main() {
  const gqa::Heads<32, 8> heads;
  std::printf("gqa %d.%d.%d: group size %td\n", gqa::version.major, gqa::version.minor, gqa::version.patch,
              heads.group_size());
  return heads.group_size() == 4 ? 0 : 1;
}
