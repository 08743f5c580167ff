// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <iosfwd>

namespace bench {

/// Answers a driver that compares us with others, one line a request; benchmarks/peers/ has the driver.
///
///     case NAME LAYERS Q K V   makes a case from files of raw elements, tokens x heads x dim   -> ok
///     run N                    runs it N times                                                  ->
///     milliseconds each output FILE              writes the output as raw floats -> ok
///
/// Anything wrong is answered with a line that begins with "error". Ends with its input. Returns the exit
/// code.
int serve(std::istream& in, std::ostream& out);

}  // namespace bench
