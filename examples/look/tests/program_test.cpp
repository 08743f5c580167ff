// SPDX-License-Identifier: Apache-2.0
// The program as it is run.
#include "program.hpp"

namespace look {
namespace {

using Program = generate::test::Program;

TEST_F(Program, Placeholder) {}

}  // namespace
}  // namespace look
